{# dbt's own view is swapped in by renaming and drops what depends on the old one. This one is left alone while its
   definition stands (readers never wait), replaced in place when it grows, and dropped only when a column that others
   may read changed or went. #}
{% materialization view, adapter='postgres' %}
    {{ run_hooks(pre_hooks, inside_transaction=False) }}
    {% do take_locks() %}
    {{ run_hooks(pre_hooks, inside_transaction=True) }}
    {% set target_relation = this.incorporate(type='view') %}
    {% if config.get('contract').enforced %}
        {{ get_assert_columns_equivalent(sql) }}
    {% endif %}
    {% set kind = query("select relkind::text from pg_class where oid = to_regclass('" ~ target_relation ~ "')") %}
    {% set change = 'create' %}
    {% if kind | length > 0 and kind[0][0] == 'v' %}
        {% set change = view_change(target_relation, sql) %}
    {% elif kind | length > 0 %}
        {% do give_way() %}
        {% do query('drop table ' ~ target_relation ~ ' cascade') %}
    {% endif %}
    {% if change != 'none' %}
        {% do give_way() %}
    {% endif %}
    {% if change == 'drop' %}
        {% do query('drop view ' ~ target_relation ~ ' cascade') %}
    {% endif %}
    {% if change == 'none' %}
        {% call noop_statement('main', 'VIEW UNCHANGED') %}{{ sql }}{% endcall %}
    {% else %}
        {% call statement('main') %}
            create or replace view {{ target_relation }} as (
                {{ sql }}
            )
        {% endcall %}
    {% endif %}
    {% do query('set local lock_timeout = 0') %}
    {{ return(finish(target_relation)) }}
{% endmaterialization %}


{# What must be done to a view so that it shows `sql`: none, replace or drop. #}
{% macro view_change(relation, sql) %}
    {% do query('create temporary view view_candidate as (' ~ sql ~ ')') %}
    {% set change = query(
        "with columns as ( "
        ~ "select attrelid, array_agg(attname || ' ' || format_type(atttypid, atttypmod) order by attnum) as names "
        ~ "from pg_attribute where attnum > 0 and not attisdropped group by attrelid) "
        ~ "select case "
        ~ "when pg_get_viewdef(there.attrelid) = pg_get_viewdef(wanted.attrelid) then 'none' "
        ~ "when wanted.names[1:cardinality(there.names)] = there.names then 'replace' else 'drop' end "
        ~ "from columns as there cross join columns as wanted "
        ~ "where there.attrelid = '" ~ relation ~ "'::regclass "
        ~ "and wanted.attrelid = 'pg_temp.view_candidate'::regclass"
    )[0][0] %}
    {% do query('drop view pg_temp.view_candidate') %}
    {% do return(change) %}
{% endmacro %}
