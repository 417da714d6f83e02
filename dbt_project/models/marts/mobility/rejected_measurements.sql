with measurements as (
    select * from {{ ref('int_mobility__measurements') }}
),

dead_letters as (
    select * from {{ ref('stg_tracking__dead_letters') }}
),

rejected as (
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
            when 'impossible_km'
                then case
                    when journey_km >= 0 and journey_km < 'infinity' and total_km >= 0 and total_km < 'infinity'
                        then 'A length is above 10,000,000 km, or above 0 and below 1e-9 km.'
                    else 'A length is negative or no number.'
                end
            when 'future_time' then 'It is dated more than a day after it was sent.'
            when 'unknown_bike_model' then 'No version of its bike model was valid then.'
            when 'falling_odometer' then 'An earlier accepted measurement of the bike has a higher odometer.'
        end as rejection_detail,
        source_topic,
        source_partition,
        source_offset
    from measurements
    where rejection_reason is not null
),

-- JSON, which raw holds measurements in, knows neither NaN nor infinity: the sink keeps such an event whole.
not_finite as (
    select
        {{ surrogate_key(['source_topic', 'source_partition', 'source_offset']) }} as rejected_measurement_key,
        event_id,
        null::bigint as customer_id,
        null::int as vehicle_id,
        null::int as bike_model_id,
        null::timestamptz as event_at,
        null::float8 as journey_km,
        null::float8 as total_km,
        'impossible_km' as rejection_reason,
        error as rejection_detail,
        source_topic,
        source_partition,
        source_offset
    from dead_letters
    where error_class = 'NotFinite'
),

final as (
    select * from rejected
    union all
    select * from not_finite
)

select * from final
