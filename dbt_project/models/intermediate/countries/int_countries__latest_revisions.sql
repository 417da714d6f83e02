with country_years as (
    select * from {{ ref('stg_owid__country_years') }}
),

final as (
    select distinct on (country, year)
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
    -- A sample never hides a real row. A replayed dead letter is an old record, whenever it comes.
    order by
        country asc,
        year asc,
        is_sample asc,
        source_partition < 0 asc,
        source_offset desc,
        source_partition desc
)

select * from final
