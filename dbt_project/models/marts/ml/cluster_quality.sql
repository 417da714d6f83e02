with cluster_runs as (
    select * from {{ source('ml', 'cluster_runs') }}
),

cluster_stats as (
    select * from {{ source('ml', 'cluster_stats') }}
),

final as (
    select
        cluster_runs.run_id,
        cluster_runs.created_at,
        cluster_runs.recipe,
        cluster_runs.k,
        cluster_stats.cluster,
        {{ cluster_label('cluster_stats.cluster', 'cluster_runs.k') }} as cluster_label,
        cluster_stats.num_countries,
        cluster_runs.silhouette,
        cluster_runs.inertia,
        cluster_runs.input_row_count as clustered_countries,
        dense_rank() over (order by cluster_runs.created_at desc, cluster_runs.run_id desc) = 1 as is_latest,
        cluster_runs.is_sample
    from cluster_runs
    inner join cluster_stats on cluster_runs.run_id = cluster_stats.run_id
)

select * from final
