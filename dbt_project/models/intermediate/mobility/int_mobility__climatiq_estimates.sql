with estimates as (
    select * from {{ ref('stg_climatiq__estimates') }}
),

-- What was asked once stands for ever: the first answer.
answered as (
    select distinct on (activity_id, release, price_usd)
        *,
        string_to_array(release, '.')::int[] as release_numbers
    from estimates
    where kg_co2e is not null
    order by activity_id, release, price_usd, responded_at, request_hash
),

ranked as (
    select
        *,
        activity_id = '{{ var("climatiq_activity_id") }}'
        and ('{{ var("climatiq_release") }}' in ('latest', release)) as is_wanted,
        row_number() over (
            partition by activity_id, price_usd
            order by '{{ var("climatiq_release") }}' in ('latest', release) desc, release_numbers desc
        ) as place
    from answered
),

final as (
    select
        request_hash,
        activity_id,
        price_usd,
        data_version,
        release,
        responded_at,
        kg_co2e,
        {{ surrogate_key(['activity_id', 'release', "coalesce(factor_id, '')"]) }} as emission_factor_key,
        factor_id,
        factor_name,
        publisher,
        lifecycle,
        region,
        factor_year,
        gwp_set,
        data_quality_flags,
        is_wanted and place = 1 as is_in_use
    from ranked
)

select * from final
