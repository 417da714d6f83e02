{# Reject the measurements whose odometer has fallen: total_km is below that of an accepted measurement of the same bike
   at an earlier time. (At the same time nobody knows which came first.) Accepted odometers then never fall in time, so
   the last one accepted before a moment is the highest. `relation` has measurement_key, vehicle_id, event_at, total_km,
   rejection_reason (null until this runs, where nothing else rejects it) and an index on (vehicle_id, event_at,
   total_km); its unique_key is event_id.

   Not rebuilt: of each bike with rows in replaced_rows or among touched_keys just a stretch is judged. It begins with
   the bike's first touched row; before it nothing has changed. It ends with the first later row that is accepted and has at
   least the odometer of all that was touched: for what follows, that row hides the difference. #}
{% macro reject_falling_odometers(relation, is_rebuilt) %}
    {% set is_judged = "(rejection_reason is null or rejection_reason = 'falling_odometer')" %}
    {% if not is_rebuilt %}
        {% do query(
            'create temporary table touched_bikes on commit drop as '
            ~ 'select vehicle_id, min(event_at) as first_at, max(event_at) as last_at, max(total_km) as highest_km '
            ~ 'from ('
            ~ 'select vehicle_id, event_at, total_km from replaced_rows where ' ~ is_judged ~ ' union all '
            ~ 'select vehicle_id, event_at, total_km from ' ~ relation
            ~ ' where event_id in (select event_id from touched_keys) and ' ~ is_judged
            ~ ') as touched group by vehicle_id'
        ) %}
        {% do query('analyze touched_bikes') %}
    {% endif %}
    {# By way of an analysed table: Postgres can't guess how few verdicts change, and would scan the whole relation. #}
    {% do query(
        'create temporary table changed_verdicts on commit drop as '
        ~ changed_verdicts(relation, is_rebuilt, is_judged)
    ) %}
    {% do query('analyze changed_verdicts') %}
    {% do query(
        "update " ~ relation ~ " as measured "
        ~ "set rejection_reason = case when changed.has_fallen then 'falling_odometer' end "
        ~ "from changed_verdicts as changed where measured.measurement_key = changed.measurement_key"
    ) %}
{% endmacro %}


{% macro changed_verdicts(relation, is_rebuilt, is_judged) -%}
    with readings as (
        {% if is_rebuilt %}
        select
            measurement_key,
            vehicle_id,
            event_at,
            total_km,
            rejection_reason,
            null::float8 as km_before
        from {{ relation }}
        where {{ is_judged }}
        {% else %}
        select
            reading.*,
            before.total_km as km_before
        from touched_bikes
        left join lateral (
            select total_km
            from {{ relation }} as earlier
            where
                earlier.vehicle_id = touched_bikes.vehicle_id
                and earlier.event_at < touched_bikes.first_at
                and earlier.rejection_reason is null
            order by earlier.event_at desc, earlier.total_km desc
            limit 1
        ) as before on true
        left join lateral (
            select event_at
            from {{ relation }} as later
            where
                later.vehicle_id = touched_bikes.vehicle_id
                and later.event_at > touched_bikes.last_at
                and later.rejection_reason is null
                and later.total_km >= touched_bikes.highest_km
            order by later.event_at, later.total_km
            limit 1
        ) as after on true
        cross join lateral (
            select
                measurement_key,
                vehicle_id,
                event_at,
                total_km,
                rejection_reason
            from {{ relation }} as reading
            where
                reading.vehicle_id = touched_bikes.vehicle_id
                and reading.event_at >= touched_bikes.first_at
                and reading.event_at <= coalesce(after.event_at, 'infinity')
                and {{ is_judged }}
            offset 0
        ) as reading
        {% endif %}
    ),

    judged as (
        select
            measurement_key,
            coalesce(
                total_km < greatest(
                    km_before,
                    max(total_km) over (
                        partition by vehicle_id
                        order by event_at
                        groups between unbounded preceding and 1 preceding
                    )
                ),
                false
            ) as has_fallen,
            rejection_reason is not null as was_rejected
        from readings
    )

    select
        measurement_key,
        has_fallen
    from judged
    where has_fallen <> was_rejected
{%- endmacro %}
