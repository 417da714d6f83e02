with measurements as (
    select * from {{ ref('int_mobility__measurements') }}
),

final as (
    select
        measurement_key,
        event_id,
        customer_id,
        vehicle_id,
        bike_model_key,
        bike_model_id,
        event_at,
        journey_km,
        total_km,
        scope1_kg_co2e,
        scope2_market_kg_co2e,
        avoided_kg_co2e,
        operating_kg_co2e,
        total_operating_kg_co2e,
        production_kg_co2e,
        break_even_percent,
        100::float8 as max_break_even_percent,
        emission_factor_key,
        source_topic,
        source_partition,
        source_offset
    from measurements
    where rejection_reason is null
)

select * from final
