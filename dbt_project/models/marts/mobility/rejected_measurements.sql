with events as (
    select * from {{ ref('int_mobility__events') }}
),

-- Left join: a rejected event without measurements is a row as well.
final as (
    select
        {{ surrogate_key(['events.event_id', 'events.content_hash', 'coalesce(measurement.position, 0)']) }}
            as rejected_measurement_key,
        events.event_id,
        events.customer_id,
        (measurement.content ->> 'vehicle_id')::int as vehicle_id,
        (measurement.content ->> 'product_id')::int as bike_model_id,
        events.event_at,
        (measurement.content ->> 'journey_km')::float8 as journey_km,
        (measurement.content ->> 'total_km')::float8 as total_km,
        'The same event stands earlier in the topic with other content.' as rejection_reason,
        events.source_topic,
        events.source_partition,
        events.source_offset
    from events
    left join lateral jsonb_array_elements(events.measurements) with ordinality as measurement (content, position)
        on true
    where not events.is_accepted
)

select * from final
