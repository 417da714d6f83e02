{# Dimensions with history (valid_from, valid_to) that an incremental model joins as of its rows' time. When versions
   come, go or change, just the rows of the intervals that differ are built anew. In the model's config:

   meta:
     reopened_by:
       dim_bike_model: {key: bike_model_id, at: event_at}

   `key` is a column of both, `at` the model's time; an index on (key, at) finds the rows. What the model was built from
   is kept as it was (ingest.model_histories), so it does not matter why or how often the dimension changed since. #}


{% macro histories_among(inputs) %}
    {% set names = (model.config.meta or {}).get('reopened_by', {}).keys() | list %}
    {% do return(inputs | selectattr('name', 'in', names) | list) %}
{% endmacro %}


{# Make the temporary table reopened_keys: the unique keys of rows whose version is not what it was. #}
{% macro find_reopened_keys(relation, inputs) %}
    {% set key = unique_key_columns() | join(', ') %}
    {% do query('create temporary table reopened_keys on commit drop as select ' ~ key ~ ' from ' ~ relation ~ ' limit 0') %}
    {% for input in histories_among(inputs) %}
        {% set join = model.config.meta.reopened_by[input.name] %}
        {% do query(
            'create temporary table changed_intervals on commit drop as ' ~ changed_intervals(input, join.key)
        ) %}
        {% if query('select 1 from changed_intervals limit 1') | length > 0 %}
            {# Interval by interval: Postgres can't guess how short they are, and would scan the whole table. #}
            {% do query(
                'insert into reopened_keys select found.* from changed_intervals as changed cross join lateral ('
                ~ 'select ' ~ key ~ ' from ' ~ relation ~ ' as built where built.' ~ join.key ~ ' = changed.history_key '
                ~ 'and built.' ~ join.at ~ ' >= changed.starts_at and built.' ~ join.at ~ ' < changed.ends_at offset 0'
                ~ ') as found'
            ) %}
            {% do remember_history(input) %}
        {% endif %}
        {% do query('drop table changed_intervals') %}
    {% endfor %}
{% endmacro %}


{# By key, the intervals in which what is true now is not what the model was built from. That a version is current, or
   when it ends, is no content of it: a new version must not open the rows of the one before. #}
{% macro changed_intervals(input, key) -%}
    with kept as (
        select
            typed.{{ key }} as history_key,
            typed.valid_from,
            typed.valid_to,
            to_jsonb(typed) - 'valid_to' - 'is_current' as content
        from ingest.model_histories
        cross join lateral jsonb_populate_record(null::{{ input.relation_name }}, version) as typed
        where model = '{{ model_name(this) }}' and reference = '{{ model_name(input) }}'
    ),

    present as (
        select
            {{ key }} as history_key,
            valid_from,
            valid_to,
            to_jsonb(history) - 'valid_to' - 'is_current' as content
        from {{ input.relation_name }} as history
    ),

    bounds as (
        select history_key, valid_from as bound from kept
        union
        select history_key, valid_to from kept
        union
        select history_key, valid_from from present
        union
        select history_key, valid_to from present
    ),

    intervals as (
        select
            history_key,
            bound as starts_at,
            lead(bound) over (partition by history_key order by bound) as ends_at
        from bounds
    )

    select
        intervals.history_key,
        intervals.starts_at,
        intervals.ends_at
    from intervals
    left join kept
        on
            intervals.history_key = kept.history_key
            and intervals.starts_at >= kept.valid_from
            and intervals.starts_at < kept.valid_to
    left join present
        on
            intervals.history_key = present.history_key
            and intervals.starts_at >= present.valid_from
            and intervals.starts_at < present.valid_to
    where intervals.ends_at is not null and kept.content is distinct from present.content
{%- endmacro %}


{# Keep the versions that this run builds from. #}
{% macro remember_history(input) %}
    {% set of_this = "model = '" ~ model_name(this) ~ "' and reference = '" ~ model_name(input) ~ "'" %}
    {% do query('delete from ingest.model_histories where ' ~ of_this) %}
    {% do query(
        "insert into ingest.model_histories (model, reference, version) select '" ~ model_name(this) ~ "', '"
        ~ model_name(input) ~ "', to_jsonb(history) from " ~ input.relation_name ~ ' as history'
    ) %}
{% endmacro %}
