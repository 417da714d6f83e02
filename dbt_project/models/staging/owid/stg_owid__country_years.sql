with emissions_topic as (
    select * from {{ source('owid', 'emissions_topic') }}
),

final as (
    select
        country,
        year,
        iso_code,
        population as population_people,
        gdp as gdp_international_usd_2011,
        co2 as co2_million_tonnes,
        co2_per_capita as co2_tonnes_per_capita,
        is_sample,
        'emissions-topic' as source_topic,
        _kafka_partition as source_partition,
        _kafka_offset as source_offset
    from emissions_topic
)

select * from final
