with emissions as (
    select * from {{ ref('fct_country_year_emissions') }}
),

cluster_analysis as (
    select * from {{ ref('cluster_analysis') }}
),

final as (
    select
        emissions.country,
        emissions.iso_code,
        emissions.year,
        make_date(emissions.year, 1, 1) as year_date,
        cluster_analysis.cluster,
        cluster_analysis.cluster_label,
        emissions.co2_million_tonnes,
        emissions.co2_tonnes_per_capita,
        emissions.population_people,
        emissions.gdp_international_usd_2011,
        emissions.is_sample
    from emissions
    inner join cluster_analysis on emissions.country = cluster_analysis.country
    where emissions.is_sample = cluster_analysis.is_sample
)

select * from final
