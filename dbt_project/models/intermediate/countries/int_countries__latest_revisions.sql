with verdicts as (
    select * from {{ ref('int_countries__verdicts') }}
),

-- A sample never hides a real row. A replayed dead letter is an old record, whenever it comes.
ranked as (
    select
        *,
        row_number() over revisions as revision_rank,
        row_number() over revisions_of_a_verdict as verdict_rank
    from verdicts
    window
        revisions as (
            partition by country, year
            order by is_sample asc, source_partition < 0 asc, source_offset desc, source_partition desc
        ),
        revisions_of_a_verdict as (
            partition by country, year, rejection_reason is null
            order by is_sample asc, source_partition < 0 asc, source_offset desc, source_partition desc
        )
),

final as (
    select
        country,
        year,
        iso_code,
        population_people,
        gdp_international_usd_2011,
        co2_million_tonnes,
        co2_tonnes_per_capita,
        is_sample,
        source_topic,
        source_partition,
        source_offset,
        rejection_reason
    from ranked
    where
        verdict_rank = 1
        -- A rejected revision hides no accepted one, and is itself hidden by one that comes later.
        and (rejection_reason is null or revision_rank = 1)
)

select * from final
