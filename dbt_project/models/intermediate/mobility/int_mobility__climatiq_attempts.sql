with estimates as (
    select * from {{ ref('stg_climatiq__estimates') }}
),

calls as (
    select * from {{ ref('stg_climatiq__calls') }}
),

releases as (
    select * from {{ ref('stg_climatiq__releases') }}
),

answers as (
    select
        price_usd,
        responded_at as attempted_at,
        case when kg_co2e is null then coalesce(error_code, 'an answer without an estimate that can be') end as reason
    from estimates
),

failed_calls as (
    select
        asked.price_usd,
        calls.reserved_at as attempted_at,
        case calls.outcome
            when 'lost' then 'no answer'
            when 'unsent' then 'no connection'
            else 'the call failed'
        end as reason
    from calls
    left join lateral unnest(calls.prices_usd) as asked (price_usd) on true
    where calls.outcome <> 'answered'
),

-- A later look-up that was answered makes up for one that failed.
answered_lookups as (
    select
        null::numeric as price_usd,
        responded_at as attempted_at,
        null::text as reason
    from releases
),

final as (
    select * from answers
    union all
    select * from failed_calls
    union all
    select * from answered_lookups
)

select * from final
