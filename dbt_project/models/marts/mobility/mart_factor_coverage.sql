with trips as (
    select * from {{ ref('fct_trip_emissions') }}
),

rejected_measurements as (
    select * from {{ ref('rejected_measurements') }}
),

dead_letters as (
    select * from {{ ref('stg_tracking__dead_letters') }}
),

explained as (
    select
        event_at,
        bike_model_id,
        event_id,
        case
            when operating_kg_co2e is null then 'no emissions a kilometre'
            when emission_factor_key is null then 'no emission factor'
            -- There is a factor, and no price to multiply it with.
            when production_kg_co2e is null then 'no price'
            else 'none'
        end as reason
    from trips
),

taken_in as (
    select
        event_at,
        bike_model_id,
        case when reason = 'none' then 'complete' else 'without_numbers' end as coverage,
        reason,
        event_id
    from explained
),

-- A rejected content without any measurement is a row there, and none here.
rejected as (
    select
        event_at,
        bike_model_id,
        'rejected' as coverage,
        rejection_reason as reason,
        event_id
    from rejected_measurements
    where bike_model_id is not null
),

-- Of an event with a length that is NaN or infinite the sink keeps the record: neither its time nor its model is known.
not_finite as (
    select
        sent_at as event_at,
        -1 as bike_model_id,
        'rejected' as coverage,
        'impossible_km' as reason,
        event_id
    from dead_letters
    where error_class = 'NotFinite'
),

measurements as (
    select * from taken_in
    union all
    select * from rejected
    union all
    select * from not_finite
),

final as (
    select
        (event_at at time zone 'UTC')::date as event_date,
        bike_model_id,
        coverage,
        reason,
        count(*) as measurement_count,
        count(distinct event_id) as event_count
    from measurements
    group by 1, 2, 3, 4
)

select * from final
