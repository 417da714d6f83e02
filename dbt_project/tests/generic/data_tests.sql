{# The few generic tests that dbt does not bring. Each selects the rows that break the rule. #}

{% test unique_combination(model, columns) %}
    select {{ columns | join(', ') }}, count(*) as row_count
    from {{ model }}
    group by {{ columns | join(', ') }}
    having count(*) > 1
{% endtest %}


{# Nulls pass: not_null is a test of its own. NaN is greater than any number, so it fails a maximum only. #}
{% test accepted_range(model, column_name, minimum=none, maximum=none) %}
    select {{ column_name }}
    from {{ model }}
    where
        false
        {% if minimum is not none %}or {{ column_name }} < {{ minimum }}{% endif %}
        {% if maximum is not none %}or {{ column_name }} > {{ maximum }}{% endif %}
{% endtest %}


{# The bounds of the column's quantity, as is_possible() has them; nulls pass. #}
{% test possible(model, column_name) %}
    select {{ column_name }}
    from {{ model }}
    where not {{ is_possible(column_name) }}
{% endtest %}


{# A condition that every row must meet; null counts as not met. #}
{% test holds(model, condition) %}
    select *
    from {{ model }}
    where ({{ condition }}) is not true
{% endtest %}


{# History without overlap, and without gap unless `has_gaps`; with one current version a key, where it has not ended. #}
{% test continuous_history(model, key, has_gaps=false) %}
    with versions as (
        select
            {{ key }} as history_key,
            valid_from,
            valid_to,
            is_current,
            lead(valid_from) over (partition by {{ key }} order by valid_from) as next_valid_from
        from {{ model }}
    )

    select *
    from versions
    where
        valid_from >= valid_to
        or is_current <> (valid_to = timestamptz '9999-12-31 00:00:00+00')
        or next_valid_from {{ '<' if has_gaps else '<>' }} valid_to
        or (next_valid_from is not null and is_current)
{% endtest %}
