with emission_factors as (
    select * from {{ ref('emission_factors') }}
),

final as (
    select
        {{ surrogate_key(['activity', 'release']) }} as emission_factor_key,
        activity,
        release,
        name,
        source,
        lifecycle,
        region,
        factor_year,
        kg_co2e_per_usd,
        price_basis,
        price_year,
        gwp_set,
        data_quality_flags,
        release = '{{ var("emission_factor_release") }}' as is_in_use
    from emission_factors
)

select * from final
