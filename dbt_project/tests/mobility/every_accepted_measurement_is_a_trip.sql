-- A trip is never lost, and never counted twice.
with expected as (
    select
        event_id,
        jsonb_array_length(measurements) as measurement_count
    from {{ ref('int_mobility__events') }}
    where is_accepted and jsonb_array_length(measurements) > 0
),

found as (
    select
        event_id,
        count(*) as measurement_count
    from {{ ref('fct_trip_emissions') }}
    group by event_id
)

select
    coalesce(expected.event_id, found.event_id) as event_id,
    expected.measurement_count as expected_count,
    found.measurement_count as found_count
from expected
full outer join found on expected.event_id = found.event_id
where expected.measurement_count is distinct from found.measurement_count
