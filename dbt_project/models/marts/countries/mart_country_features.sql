with country_years as (
    select * from {{ ref('fct_country_year_emissions') }}
),

marked as (
    select
        *,
        bool_and(is_sample) over () as is_all_sample
    from country_years
),

-- Synthetic rows never mix with real ones.
usable as (
    select *
    from marked
    where
        iso_code is not null
        and year >= 1900
        and is_sample = is_all_sample
),

-- Means in order of year: the sum of floats depends on it, and the same data must give the same bits.
features as (
    select
        country,
        max(iso_code) as iso_code,
        avg(co2_million_tonnes order by year) as avg_co2,
        avg(co2_tonnes_per_capita order by year) as avg_co2_per_capita,
        avg(gdp_international_usd_2011 order by year) as avg_gdp,
        avg(population_people order by year) as avg_population,
        count(*)::int as data_points,
        min(year) as first_year,
        max(year) as last_year,
        avg(co2_million_tonnes order by year) filter (where year >= 2010) as avg_co2_recent,
        bool_and(is_sample) as is_sample
    from usable
    group by country
),

final as (
    select *
    from features
    where
        avg_co2 is not null
        and avg_co2_per_capita is not null
        and avg_gdp is not null
        and avg_population is not null
        and data_points >= 5
)

select * from final
