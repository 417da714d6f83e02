with trips as (
    select * from {{ ref('fct_trip_emissions') }}
),

bike_models as (
    select * from {{ ref('dim_bike_model') }}
),

-- A model's last name, also of one that was withdrawn.
names as (
    select distinct on (bike_model_id)
        bike_model_id,
        name
    from bike_models
    order by bike_model_id asc, valid_from desc
),

days as (
    select
        bike_model_id,
        (event_at at time zone 'UTC')::date as event_date,
        count(*) as trip_count,
        count(*) filter (where operating_kg_co2e is null) as trips_without_emissions_count,
        count(distinct vehicle_id) as vehicle_count,
        {{ exact_sum('journey_km') }} as journey_km,
        {{ exact_sum('scope1_kg_co2e') }} as scope1_kg_co2e,
        {{ exact_sum('scope2_market_kg_co2e') }} as scope2_market_kg_co2e,
        {{ exact_sum('avoided_kg_co2e') }} as avoided_kg_co2e,
        {{ exact_sum('operating_kg_co2e') }} as operating_kg_co2e
    from trips
    group by bike_model_id, (event_at at time zone 'UTC')::date
),

final as (
    select
        days.bike_model_id,
        days.event_date,
        names.name,
        days.trip_count,
        days.trips_without_emissions_count,
        days.vehicle_count,
        days.journey_km,
        days.scope1_kg_co2e,
        days.scope2_market_kg_co2e,
        days.avoided_kg_co2e,
        days.operating_kg_co2e,
        0 - days.operating_kg_co2e as saved_kg_co2e
    from days
    left join names on days.bike_model_id = names.bike_model_id
)

select * from final
