with dead_letters as (
    select * from {{ source('ingest', 'dead_letters') }}
),

final as (
    select
        -- The key is the event's id as text.
        case when encode(key, 'escape') ~ '^[0-9]{1,18}$' then encode(key, 'escape')::bigint end as event_id,
        error_class,
        error,
        coalesce(kafka_timestamp, failed_at) as sent_at,
        topic as source_topic,
        partition as source_partition,
        "offset" as source_offset
    from dead_letters
    where topic = 'tracking_events' and replayed_at is null
)

select * from final
