with trips as (
    select * from {{ ref('fct_trip_emissions') }}
),

bike_models as (
    select * from {{ ref('dim_bike_model') }}
),

production_estimates as (
    select * from {{ ref('dim_production_estimate') }}
),

emission_factors as (
    select * from {{ ref('dim_emission_factor') }}
),

-- The version of today; of a model that was withdrawn its last.
last_versions as (
    select distinct on (bike_models.bike_model_id)
        bike_models.bike_model_id,
        bike_models.name,
        bike_models.scope1_kg_co2e_per_km + bike_models.scope2_kg_co2e_per_km as operating_kg_co2e_per_km,
        production_estimates.production_kg_co2e
    from bike_models
    left join production_estimates on bike_models.purchase_price_usd = production_estimates.purchase_price_usd
    order by bike_models.bike_model_id asc, bike_models.valid_from desc
),

last_trips as (
    select distinct on (vehicle_id)
        vehicle_id,
        bike_model_id,
        event_at,
        total_km
    from trips
    order by vehicle_id asc, event_at desc, total_km desc, measurement_key desc
),

-- A bike is made once, so that a later price changes nothing: the version at its first trip is the nearest to that.
productions as (
    select distinct on (vehicle_id)
        vehicle_id,
        production_kg_co2e,
        emission_factor_key
    from trips
    where production_kg_co2e is not null
    order by vehicle_id, event_at, total_km, measurement_key
),

histories as (
    select
        vehicle_id,
        min(event_at) as first_trip_at,
        count(*) as trip_count,
        count(*) filter (where operating_kg_co2e is null) as trips_without_emissions_count,
        {{ exact_sum('journey_km') }} as journey_km,
        {{ exact_sum('operating_kg_co2e') }} as operating_kg_co2e
    from trips
    group by vehicle_id
),

balances as (
    select
        histories.*,
        last_trips.bike_model_id,
        last_versions.name,
        last_trips.event_at as last_trip_at,
        last_trips.total_km,
        -- A history of less than a day counts as one.
        histories.journey_km
        / greatest(extract(epoch from last_trips.event_at - histories.first_trip_at)::float8 / 86400, 1)
            as journey_km_per_day,
        productions.production_kg_co2e,
        productions.emission_factor_key,
        emission_factors.factor_source,
        last_versions.operating_kg_co2e_per_km,
        last_versions.production_kg_co2e as current_production_kg_co2e,
        productions.production_kg_co2e + histories.operating_kg_co2e as balance_kg_co2e
    from histories
    inner join last_trips on histories.vehicle_id = last_trips.vehicle_id
    left join last_versions on last_trips.bike_model_id = last_versions.bike_model_id
    left join productions on histories.vehicle_id = productions.vehicle_id
    left join emission_factors on productions.emission_factor_key = emission_factors.emission_factor_key
),

distances as (
    select
        *,
        case
            when balance_kg_co2e <= 0 then 0
            when operating_kg_co2e_per_km < 0 then balance_kg_co2e / -operating_kg_co2e_per_km
        end as km_to_break_even
    from balances
),

states as (
    select
        *,
        case
            when balance_kg_co2e <= 0 then 'paid_back'
            when balance_kg_co2e is null or operating_kg_co2e_per_km is null then 'unknown'
            when km_to_break_even is null or journey_km_per_day <= 0 then 'never'
            when total_km + km_to_break_even > {{ var('bike_service_life_km') }} then 'beyond_service_life'
            else 'on_the_way'
        end as break_even_state,
        (last_trip_at at time zone 'UTC')::date as last_trip_date
    from distances
),

final as (
    select
        vehicle_id,
        bike_model_id,
        name,
        first_trip_at,
        last_trip_at,
        trip_count,
        trips_without_emissions_count,
        journey_km,
        total_km,
        journey_km_per_day,
        production_kg_co2e,
        emission_factor_key,
        factor_source,
        operating_kg_co2e,
        balance_kg_co2e,
        (0 - operating_kg_co2e) / nullif(production_kg_co2e, 0) * 100 as paid_back_percent,
        current_production_kg_co2e,
        operating_kg_co2e_per_km as current_operating_kg_co2e_per_km,
        (0 - operating_kg_co2e_per_km) * total_km / nullif(current_production_kg_co2e, 0) * 100 as break_even_percent,
        break_even_state,
        km_to_break_even,
        case
            when break_even_state = 'on_the_way'
                then last_trip_date + least(
                    ceil(km_to_break_even / journey_km_per_day), (date '9999-12-31' - last_trip_date)::float8
                )::int
        end as expected_break_even_date
    from states
)

select * from final
