with dbt_results as (
    select * from {{ source('operations', 'dbt_results') }}
),

ranked as (
    select
        node_name as test,
        domain,
        status,
        coalesce(failures, 0) as failures,
        started_at as tested_at,
        row_number() over (partition by node_id order by started_at desc) as newest
    from dbt_results
    where node_type in ('test', 'unit_test')
),

final as (
    select
        test,
        domain,
        status,
        failures,
        tested_at
    from ranked
    where newest = 1
)

select * from final
