with trips as (
    select * from {{ ref('fct_trip_emissions') }}
),

customers as (
    select
        customer_id,
        min(event_at) as first_trip_at,
        max(event_at) as last_trip_at,
        count(*) as trip_count,
        count(*) filter (where operating_kg_co2e is null) as trips_without_emissions_count,
        {{ exact_sum('journey_km') }} as journey_km,
        {{ exact_sum('operating_kg_co2e') }} as operating_kg_co2e
    from trips
    group by customer_id
),

final as (
    select
        customer_id,
        first_trip_at,
        last_trip_at,
        trip_count,
        trips_without_emissions_count,
        journey_km,
        journey_km / trip_count as journey_km_per_trip,
        operating_kg_co2e,
        0 - operating_kg_co2e as saved_kg_co2e,
        (0 - operating_kg_co2e) / nullif(trip_count - trips_without_emissions_count, 0) as saved_kg_co2e_per_trip
    from customers
)

select * from final
