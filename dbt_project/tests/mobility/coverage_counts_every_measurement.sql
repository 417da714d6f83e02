-- In the fact or rejected: every measurement that came in is counted, and none twice. Of an event with a length that is
-- NaN or infinite just the event is known: it counts as one.
with landed as (
    select coalesce(sum(jsonb_array_length(measurements)), 0) as measurement_count
    from {{ ref('int_mobility__events') }}
),

set_aside as (
    select count(*) as measurement_count
    from {{ ref('stg_tracking__dead_letters') }}
    where error_class = 'NotFinite'
),

came_in as (
    select landed.measurement_count + set_aside.measurement_count as measurement_count
    from landed
    cross join set_aside
),

counted as (
    select coalesce(sum(measurement_count), 0) as measurement_count
    from {{ ref('mart_factor_coverage') }}
)

select
    came_in.measurement_count as came_in_count,
    counted.measurement_count as counted_count
from came_in
cross join counted
where came_in.measurement_count <> counted.measurement_count
