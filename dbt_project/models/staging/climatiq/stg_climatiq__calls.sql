with api_calls as (
    select * from {{ source('api_ledger', 'api_calls') }}
),

final as (
    select
        api_call_id,
        prices_usd,
        outcome,
        reserved_at
    from api_calls
    where api = 'climatiq'
)

select * from final
