-- In the fact or rejected: every measurement that came in is counted, and none twice.
with came_in as (
    select coalesce(sum(jsonb_array_length(measurements)), 0) as measurement_count
    from {{ ref('int_mobility__events') }}
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
