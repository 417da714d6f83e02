with bike_models as (
    select * from {{ ref('bike_models') }}
),

final as (
    select
        {{ surrogate_key(['product_category_id', "'-infinity'"]) }} as bike_model_key,
        product_category_id as bike_model_id,
        name,
        purchase_price_usd,
        scope1_kg_co2e_per_km,
        scope2_kg_co2e_per_km,
        timestamptz '-infinity' as valid_from,
        timestamptz '9999-12-31 00:00:00+00' as valid_to,
        true as is_current
    from bike_models
)

select * from final
