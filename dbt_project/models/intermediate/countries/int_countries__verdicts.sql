with country_years as (
    select * from {{ ref('stg_owid__country_years') }}
),

coded as (
    select
        country,
        year,
        -- Kosovo has no ISO code; XKX is the one in common use.
        case
            when country = 'Kosovo' or iso_code = 'OWID_KOS' then 'XKX'
            when iso_code ~ '^[A-Z]{3}$' then iso_code
        end as iso_code,
        population_people,
        gdp_international_usd_2011,
        co2_million_tonnes,
        co2_tonnes_per_capita,
        is_sample,
        source_topic,
        source_partition,
        source_offset
    from country_years
),

bounded as (
    select
        *,
        case
            when length(trim(country)) not between 1 and 100 then 'impossible_country'
            when not {{ is_possible('year') }} then 'impossible_year'
            when not {{ is_possible('population_people') }} then 'impossible_population'
            when not {{ is_possible('gdp_international_usd_2011') }} then 'impossible_gdp'
            when not {{ is_possible('co2_million_tonnes') }} then 'impossible_co2'
            when not {{ is_possible('co2_tonnes_per_capita') }} then 'impossible_co2_per_capita'
        end as impossible
    from coded
),

codes as (
    select
        country,
        iso_code,
        count(distinct year) as year_count
    from bounded
    where impossible is null and iso_code is not null
    group by country, iso_code
),

-- A code has one country and a country one code, each the one of the most years. So an edition that renames a country
-- takes the place of the older ones, and one stray record takes nobody's.
ranked_codes as (
    select
        country,
        iso_code,
        row_number() over (partition by iso_code order by year_count desc, country asc) as country_rank,
        row_number() over (partition by country order by year_count desc, iso_code asc) as code_rank
    from codes
),

final as (
    select
        bounded.country,
        bounded.year,
        bounded.iso_code,
        bounded.population_people,
        bounded.gdp_international_usd_2011,
        bounded.co2_million_tonnes,
        bounded.co2_tonnes_per_capita,
        bounded.is_sample,
        bounded.source_topic,
        bounded.source_partition,
        bounded.source_offset,
        coalesce(
            bounded.impossible,
            case when ranked_codes.country_rank > 1 or ranked_codes.code_rank > 1 then 'conflicting_iso_code' end
        ) as rejection_reason
    from bounded
    left join ranked_codes
        on
            bounded.country = ranked_codes.country
            and bounded.iso_code = ranked_codes.iso_code
)

select * from final
