with latest_revisions as (
    select * from {{ ref('int_countries__latest_revisions') }}
),

final as (
    select
        {{ surrogate_key(['country', 'year']) }} as country_year_key,
        country,
        iso_code,
        year,
        population_people,
        gdp_international_usd_2011,
        co2_million_tonnes,
        co2_tonnes_per_capita,
        is_sample,
        source_topic,
        source_partition,
        source_offset
    from latest_revisions
    where rejection_reason is null
)

select * from final
