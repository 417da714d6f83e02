with trips as (
    select * from {{ ref('fct_trip_emissions') }}
),

rejected_measurements as (
    select * from {{ ref('rejected_measurements') }}
),

dead_letters as (
    select * from {{ ref('stg_tracking__dead_letters') }}
),

taken_in as (
    select
        event_at,
        bike_model_id,
        case when production_kg_co2e is null then 'without_numbers' else 'complete' end as coverage,
        case when production_kg_co2e is null then 'no emission factor' else 'none' end as reason,
        event_id
    from trips
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
