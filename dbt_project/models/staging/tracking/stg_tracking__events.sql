with tracking_events as (
    select * from {{ source('tracking', 'tracking_events') }}
),

final as (
    select
        id as event_id,
        customer_id,
        date_time as event_at,
        measurement_list as measurements,
        _kafka_timestamp as sent_at,
        'tracking_events' as source_topic,
        _kafka_partition as source_partition,
        _kafka_offset as source_offset
    from tracking_events
)

select * from final
