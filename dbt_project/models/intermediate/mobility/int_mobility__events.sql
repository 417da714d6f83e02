with event_contents as (
    select * from {{ ref('int_mobility__event_contents') }}
),

final as (
    select
        event_contents.event_id,
        event_contents.content_hash,
        event_contents.customer_id,
        event_contents.event_at,
        event_contents.measurements,
        event_contents.sent_at,
        event_contents.source_topic,
        event_contents.source_partition,
        event_contents.source_offset,
        not exists (
            select 1
            from {{ ref('int_mobility__event_contents') }} as other
            where
                other.event_id = event_contents.event_id
                and {{ log_position('other') }} < {{ log_position('event_contents') }}
        ) as is_accepted
    from event_contents
)

select * from final
