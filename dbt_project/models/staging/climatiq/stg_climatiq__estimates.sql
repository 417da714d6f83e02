with climatiq_estimates as (
    select
        *,
        -- A body without an estimate may hold anything.
        case when kg_co2e is not null then body::json end as answer
    from {{ source('climatiq', 'climatiq_estimates') }}
),

final as (
    select
        climatiq_estimates.request_hash,
        climatiq_estimates.request -> 'emission_factor' ->> 'activity_id' as activity_id,
        climatiq_estimates.price_usd,
        climatiq_estimates.data_version,
        climatiq_estimates.release,
        climatiq_estimates.requested_at,
        climatiq_estimates.responded_at,
        climatiq_estimates.error_code,
        -- More than that for a dollar, or nothing, is no estimate of making a bike.
        case
            when climatiq_estimates.kg_co2e > 0 and climatiq_estimates.kg_co2e <= 10 * climatiq_estimates.price_usd
                then climatiq_estimates.kg_co2e
        end as kg_co2e,
        climatiq_estimates.answer -> 'emission_factor' ->> 'id' as factor_id,
        climatiq_estimates.answer -> 'emission_factor' ->> 'name' as factor_name,
        climatiq_estimates.answer -> 'emission_factor' ->> 'source' as publisher,
        climatiq_estimates.answer -> 'emission_factor' ->> 'source_lca_activity' as lifecycle,
        climatiq_estimates.answer -> 'emission_factor' ->> 'region' as region,
        (climatiq_estimates.answer -> 'emission_factor' ->> 'year')::int as factor_year,
        climatiq_estimates.answer ->> 'co2e_calculation_method' as gwp_set,
        case
            when json_typeof(climatiq_estimates.answer -> 'emission_factor' -> 'data_quality_flags') = 'array'
                then (
                    select string_agg(flags.flag, ', ' order by flags.flag)
                    from json_array_elements_text(
                        climatiq_estimates.answer -> 'emission_factor' -> 'data_quality_flags'
                    ) as flags (flag)
                )
        end as data_quality_flags
    from climatiq_estimates
)

select * from final
