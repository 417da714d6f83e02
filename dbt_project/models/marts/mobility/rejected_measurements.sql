with measurements as (
    select * from {{ ref('int_mobility__measurements') }}
),

final as (
    select
        measurement_key as rejected_measurement_key,
        event_id,
        customer_id,
        vehicle_id,
        bike_model_id,
        event_at,
        journey_km,
        total_km,
        rejection_reason,
        case rejection_reason
            when 'conflicting_content' then 'The same event stands earlier in the topic with other content.'
            when 'impossible_km' then 'A length is negative or no number.'
            when 'future_time' then 'It is dated more than a day after it was sent.'
            when 'unknown_bike_model' then 'No version of its bike model was valid then.'
            when 'falling_odometer' then 'An earlier accepted measurement of the bike has a higher odometer.'
        end as rejection_detail,
        source_topic,
        source_partition,
        source_offset
    from measurements
    where rejection_reason is not null
)

select * from final
