-- The fact and dim_production_estimate compute production each by itself.
with trips as (
    select distinct
        bike_model_key,
        production_kg_co2e,
        emission_factor_key
    from {{ ref('fct_trip_emissions') }}
    where bike_model_key is not null
)

select trips.*
from trips
inner join {{ ref('dim_bike_model') }} as bike_models on trips.bike_model_key = bike_models.bike_model_key
inner join {{ ref('dim_production_estimate') }} as estimates
    on bike_models.purchase_price_usd = estimates.purchase_price_usd
where
    (trips.production_kg_co2e, trips.emission_factor_key)
    is distinct from (estimates.production_kg_co2e, estimates.emission_factor_key)
