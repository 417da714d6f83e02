with dbt_results as (
    select * from {{ source('operations', 'dbt_results') }}
),

final as (
    select
        invocation_id,
        domain,
        node_type,
        node_name,
        status,
        failures,
        seconds,
        status in ('success', 'pass', 'warn') as is_good,
        started_at
    from dbt_results
)

select * from final
