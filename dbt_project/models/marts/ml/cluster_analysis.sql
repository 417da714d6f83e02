with cluster_runs as (
    select * from {{ source('ml', 'cluster_runs') }}
),

co2_clusters as (
    select * from {{ source('ml', 'co2_clusters') }}
),

cluster_stats as (
    select * from {{ source('ml', 'cluster_stats') }}
),

latest_run as (
    select *
    from cluster_runs
    order by created_at desc, run_id desc
    limit 1
),

final as (
    select
        co2_clusters.run_id,
        co2_clusters.country,
        co2_clusters.iso_code,
        co2_clusters.cluster,
        co2_clusters.avg_co2,
        co2_clusters.avg_co2_per_capita,
        co2_clusters.avg_gdp,
        co2_clusters.avg_population,
        co2_clusters.data_points,
        co2_clusters.first_year,
        co2_clusters.last_year,
        co2_clusters.avg_co2_recent,
        cluster_stats.num_countries,
        cluster_stats.avg_co2_cluster,
        cluster_stats.avg_co2_per_capita_cluster,
        cluster_stats.avg_gdp_cluster,
        latest_run.is_sample,
        latest_run.created_at,
        {{ cluster_label('co2_clusters.cluster', 'latest_run.k') }} as cluster_label
    from latest_run
    inner join co2_clusters on latest_run.run_id = co2_clusters.run_id
    inner join cluster_stats
        on
            co2_clusters.run_id = cluster_stats.run_id
            and co2_clusters.cluster = cluster_stats.cluster
)

select * from final
