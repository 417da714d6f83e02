with bike_models as (
    select * from {{ ref('dim_bike_model') }}
),

climatiq_estimates as (
    select * from {{ ref('int_mobility__climatiq_estimates') }}
    where is_in_use
),

emission_factors as (
    select * from {{ ref('dim_emission_factor') }}
),

attempts as (
    select * from {{ ref('int_mobility__climatiq_attempts') }}
),

seed_factors as (
    select * from emission_factors
    where activity = 'motorcycle, bicycle and parts' and is_in_use
),

-- The money is that of the year in which the company began to pay the price.
prices as (
    select
        purchase_price_usd,
        round(purchase_price_usd::numeric, 2) as price_usd,
        extract(year from nullif(min(valid_from), '-infinity') at time zone 'UTC')::int as price_year
    from bike_models
    where purchase_price_usd is not null
    group by purchase_price_usd
),

-- The last attempt to ask for the price itself, and the last look-up of releases, which is about every price.
last_attempts as (
    select distinct on (prices.price_usd, attempts.price_usd)
        prices.price_usd,
        attempts.attempted_at,
        attempts.reason
    from prices
    inner join attempts on prices.price_usd = coalesce(attempts.price_usd, prices.price_usd)
    order by prices.price_usd asc, attempts.price_usd asc, attempts.attempted_at desc, attempts.reason asc
),

failures as (
    select
        price_usd,
        string_agg(reason, '; ' order by attempted_at, reason) as reason
    from last_attempts
    group by price_usd
),

final as (
    select
        prices.purchase_price_usd,
        coalesce(climatiq_estimates.kg_co2e, prices.purchase_price_usd * seed_factors.kg_co2e_per_usd)
            as production_kg_co2e,
        factors.emission_factor_key,
        factors.factor_source,
        factors.release,
        prices.price_year,
        coalesce(prices.price_year <> factors.price_year, true) as is_unadjusted,
        concat_ws(
            ', ',
            factors.data_quality_flags,
            case when coalesce(prices.price_year <> factors.price_year, true) then 'unadjusted' end
        ) as data_quality_flags,
        climatiq_estimates.request_hash,
        climatiq_estimates.responded_at,
        climatiq_estimates.request_hash is not null and failures.reason is not null as is_stale,
        failures.reason as last_failure
    from prices
    left join climatiq_estimates on prices.price_usd = climatiq_estimates.price_usd
    left join seed_factors on true
    left join emission_factors as factors
        on
            factors.emission_factor_key
            = coalesce(climatiq_estimates.emission_factor_key, seed_factors.emission_factor_key)
    left join failures on prices.price_usd = failures.price_usd
)

select * from final
