-- A version that no other follows at once has ended by a delete.
with versions as (
    select
        bike_model_id,
        valid_to,
        is_current,
        lead(valid_from) over (partition by bike_model_id order by valid_from) as next_valid_from
    from {{ ref('dim_bike_model') }}
),

deletes as (
    select * from {{ ref('stg_adventure__bike_model_changes') }}
    where change_type = 'd'
)

select versions.*
from versions
left join deletes
    on
        versions.bike_model_id = deletes.bike_model_id
        and versions.valid_to = deletes.committed_at
where
    not versions.is_current
    and versions.next_valid_from is distinct from versions.valid_to
    and deletes.bike_model_id is null
