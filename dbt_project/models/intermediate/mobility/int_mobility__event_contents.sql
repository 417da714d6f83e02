with new_events as (
    select log.* from {{ new_rows(ref('stg_tracking__events')) }} as log
),

final as (
    select
        event_id,
        {{ surrogate_key(['customer_id', 'extract(epoch from event_at)', 'measurements']) }} as content_hash,
        customer_id,
        event_at,
        measurements,
        sent_at,
        source_topic,
        source_partition,
        source_offset
    from new_events
)

select * from final
