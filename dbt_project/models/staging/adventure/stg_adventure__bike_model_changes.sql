with bike_emissions as (
    select * from {{ source('adventure', 'adventure_public_bike_emissions') }}
),

final as (
    select
        product_category_id as bike_model_id,
        name,
        avg_cost as purchase_price_usd,
        co2e_km_scope1 as scope1_kg_co2e_per_km,
        co2e_km_scope2 as scope2_kg_co2e_per_km,
        modified_at,
        _op as change_type,
        _source_lsn as source_lsn,
        _source_at as committed_at,
        'adventure.public.bike_emissions' as source_topic,
        _kafka_partition as source_partition,
        _kafka_offset as source_offset
    from bike_emissions
)

select * from final
