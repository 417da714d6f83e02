-- A measurement is never lost, and never counted twice. (A rejected event without any is a row of its own.)
with expected as (
    select
        event_id,
        sum(
            greatest(jsonb_array_length(measurements), case when is_accepted then 0 else 1 end)
        ) as measurement_count
    from {{ ref('int_mobility__events') }}
    group by event_id
),

-- What the sink has set aside is no event here.
measurements as (
    select event_id from {{ ref('fct_trip_emissions') }}
    union all
    select event_id from {{ ref('rejected_measurements') }}
    where event_at is not null
),

found as (
    select
        event_id,
        count(*) as measurement_count
    from measurements
    group by event_id
)

select
    coalesce(expected.event_id, found.event_id) as event_id,
    expected.measurement_count as expected_count,
    found.measurement_count as found_count
from expected
full outer join found on expected.event_id = found.event_id
where coalesce(expected.measurement_count, 0) <> coalesce(found.measurement_count, 0)
