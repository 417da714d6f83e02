with emission_factors as (
    select * from {{ ref('emission_factors') }}
),

climatiq_estimates as (
    select * from {{ ref('int_mobility__climatiq_estimates') }}
),

-- An answer says which factor it used but not the factor's value: that is the estimate for a dollar.
climatiq_factors as (
    select distinct on (emission_factor_key)
        emission_factor_key,
        'climatiq' as factor_source,
        factor_id,
        activity_id as activity,
        'Climatiq ' || release as factor_release,
        factor_name,
        coalesce(publisher, 'Climatiq') as publisher,
        lifecycle,
        region,
        factor_year,
        'kg CO2e/USD' as unit,
        kg_co2e / price_usd::float8 as kg_co2e_per_usd,
        null::text as price_basis,
        null::int as price_year,
        gwp_set,
        data_quality_flags,
        responded_at as known_from,
        bool_or(is_in_use) over (partition by emission_factor_key) as is_in_use
    from climatiq_estimates
    order by emission_factor_key, responded_at, price_usd
),

seed_factors as (
    select
        {{ surrogate_key(['activity', 'release']) }} as emission_factor_key,
        'seed' as factor_source,
        factor_id,
        activity,
        release,
        name,
        source,
        lifecycle,
        region,
        factor_year,
        unit,
        kg_co2e_per_usd,
        price_basis,
        price_year,
        gwp_set,
        data_quality_flags,
        known_from,
        release = '{{ var("emission_factor_release") }}' as is_in_use
    from emission_factors
),

factors as (
    select * from seed_factors
    union all
    select * from climatiq_factors
),

final as (
    select
        emission_factor_key,
        factor_source,
        factor_id,
        activity,
        release,
        name,
        source,
        lifecycle,
        region,
        factor_year,
        unit,
        kg_co2e_per_usd,
        price_basis,
        price_year,
        gwp_set,
        data_quality_flags,
        coalesce(make_timestamptz(factor_year, 1, 1, 0, 0, 0, 'UTC'), '-infinity') as valid_from,
        coalesce(make_timestamptz(factor_year + 1, 1, 1, 0, 0, 0, 'UTC'), '9999-12-31 00:00:00+00') as valid_to,
        known_from,
        coalesce(
            lead(known_from) over (
                partition by factor_source, activity, factor_id order by known_from, emission_factor_key
            ),
            timestamptz '9999-12-31 00:00:00+00'
        ) as known_to,
        is_in_use
    from factors
)

select * from final
