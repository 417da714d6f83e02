with cluster_analysis as (
    select * from {{ ref('cluster_analysis') }}
),

ranked as (
    select
        run_id,
        cluster,
        row_number() over (partition by cluster order by avg_co2 desc, country asc)::int as emitter_rank,
        country,
        iso_code,
        avg_co2,
        avg_co2_per_capita,
        avg_gdp,
        is_sample
    from cluster_analysis
),

final as (
    select *
    from ranked
    where emitter_rank <= 10
)

select * from final
