{#- Beyond these bounds nothing emits, a kilometre, in kg CO2e and whatever the sign. (Or nothing at all: 0.) -#}
{%- set is_a_factor = 'between 1e-9 and 1e3' -%}

with company_changes as (
    select log.* from {{ all_rows(ref('stg_adventure__bike_model_changes')) }} as log
),

-- What no bike costs or emits is not known: one such number must not stop what is computed with all others. (Postgres
-- stops at a product that a double can't hold.) Emissions are known with both scopes only.
checked as (
    select
        *,
        purchase_price_usd >= 0.01 and purchase_price_usd < 1e9 as has_price,
        (scope1_kg_co2e_per_km = 0 or abs(scope1_kg_co2e_per_km) {{ is_a_factor }})
        and (scope2_kg_co2e_per_km = 0 or abs(scope2_kg_co2e_per_km) {{ is_a_factor }}) as has_factors
    from company_changes
),

changes as (
    select
        bike_model_id,
        name,
        case when has_price then purchase_price_usd end as purchase_price_usd,
        case when has_factors then scope1_kg_co2e_per_km end as scope1_kg_co2e_per_km,
        case when has_factors then scope2_kg_co2e_per_km end as scope2_kg_co2e_per_km,
        modified_at,
        change_type,
        source_lsn,
        committed_at,
        source_partition,
        source_offset
    from checked
),

-- A change may stand in the log again (a connector begun anew, a replayed dead letter), so the order is that of the
-- company's database: of its log, as a snapshot is stamped when it was read, be it after the updates that follow it. Of
-- several changes in one transaction the last stands.
transactions as (
    select distinct on (changes.bike_model_id, changes.committed_at) changes.*
    from changes
    order by
        changes.bike_model_id asc,
        changes.committed_at asc,
        changes.source_lsn desc,
        {{ log_position('changes') }} desc
),

-- A life ends with a delete; the row that a delete carries is the one before it, and says nothing new.
lives as (
    select
        *,
        row_number() over onward as change_number,
        max(committed_at) filter (where change_type = 'd') over earlier as previous_deleted_at,
        min(committed_at) filter (where change_type = 'd') over onward as deleted_at,
        change_type = 'r' and row_number() over onward = 1 as is_first_snapshot
    from transactions
    window
        in_order as (partition by bike_model_id order by source_lsn, committed_at),
        earlier as (in_order rows between unbounded preceding and 1 preceding),
        onward as (in_order rows between current row and unbounded following)
),

-- A change holds from its modified_at on, so that a correction of the past lands in its place, though not before its
-- life. What the first snapshot shows held for ever before.
starts as (
    select
        *,
        greatest(modified_at, previous_deleted_at) as valid_from
    from lives
    where change_type <> 'd'
    union all
    select
        *,
        timestamptz '-infinity' as valid_from
    from lives
    where is_first_snapshot
),

-- Of what holds from the same moment on the later change stands. What was still to come when the model was deleted
-- never comes.
distinct_starts as (
    select distinct on (bike_model_id, valid_from)
        *,
        jsonb_build_array(
            name, purchase_price_usd, scope1_kg_co2e_per_km, scope2_kg_co2e_per_km, previous_deleted_at
        ) as described
    from starts
    where valid_from < coalesce(deleted_at, timestamptz '9999-12-31 00:00:00+00')
    order by bike_model_id asc, valid_from asc, change_number desc
),

compared as (
    select
        *,
        lag(described) over (partition by bike_model_id order by valid_from) as previously_described
    from distinct_starts
),

-- Unchanged, by a snapshot taken again or an update of nothing, is no new version.
versions as (
    select
        *,
        coalesce(
            least(deleted_at, lead(valid_from) over (partition by bike_model_id order by valid_from)),
            timestamptz '9999-12-31 00:00:00+00'
        ) as valid_to
    from compared
    where described is distinct from previously_described
),

final as (
    select
        {{ surrogate_key(['bike_model_id', 'extract(epoch from valid_from)']) }} as bike_model_key,
        bike_model_id,
        name,
        purchase_price_usd,
        scope1_kg_co2e_per_km,
        scope2_kg_co2e_per_km,
        valid_from,
        valid_to,
        valid_to = timestamptz '9999-12-31 00:00:00+00' as is_current
    from versions
)

select * from final
