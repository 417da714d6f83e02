{# What readers see is never dropped or renamed in a normal run: rows are deleted and inserted in one transaction, so
   readers wait for nothing, never see an empty table, and dependent views, grants and policies stay.

   They take the place of dbt's own: its `table` drops dependent views, grants and policies.

   table        all rows, each time. For dimensions, and models above facts.
   incremental  what new rows of its topics touch (offset_marks.sql), by `incremental_strategy`:
     earliest_wins  the SQL reads new_rows(...); of each unique_key the row with the smallest log position is kept.
     rebuild_keys   the SQL is plain and whole; the unique_keys that new rows of its parents touch are built anew.
                    A window or `distinct on` in it goes by the unique_key, for a filter on it must get through.
                    meta.reopened_by: dimensions whose changed versions touch keys too (histories.sql).
                    meta.settled_by: a macro that is called once the rows are there, for what hangs on other rows of the
                    table; told whether it was rebuilt, else the temporary table replaced_rows has what was deleted.
     rebuild_all    the SQL reads all_rows(...) of a small log, and is built whole whenever that has grown.

   --full-refresh builds all rows in place as well, and makes the table anew only if its columns changed. #}

{% materialization table, adapter='postgres' %}
    {{ run_hooks(pre_hooks, inside_transaction=False) }}
    {% do take_locks() %}
    {{ run_hooks(pre_hooks, inside_transaction=True) }}
    {% set target_relation = this.incorporate(type='table') %}
    {% set is_new = ensure_table(target_relation, sql) %}
    {% do query('delete from ' ~ target_relation) %}
    {% do insert_rows(target_relation, sql) %}
    {% do record_run(is_whole=true) %}
    {{ return(finish(target_relation, needs_analyze=is_new)) }}
{% endmaterialization %}


{% materialization incremental, adapter='postgres' %}
    {{ run_hooks(pre_hooks, inside_transaction=False) }}
    {% set inputs = inputs_of(model) %}
    {% do take_locks(inputs) %}
    {{ run_hooks(pre_hooks, inside_transaction=True) }}
    {% set target_relation = this.incorporate(type='table') %}
    {% set is_new = ensure_table(target_relation, sql) %}
    {% set has_changed = references_changed(inputs) %}
    {# A model that must not be refreshed (raw is kept for a limited time) keeps what it built from older references. #}
    {% set rebuild = is_new or should_full_refresh() or (has_changed and config.get('full_refresh') is not false) %}
    {% do open_marks(inputs, rebuild) %}

    {% set strategy = config.require('incremental_strategy') %}
    {% set rebuild = rebuild or (strategy == 'rebuild_all' and has_new_offsets()) %}
    {% if rebuild %}
        {% do query('delete from ' ~ target_relation) %}
    {% endif %}
    {% if strategy == 'earliest_wins' %}
        {% do insert_earliest(target_relation, sql) %}
    {% elif strategy in ['rebuild_keys', 'rebuild_all'] and rebuild %}
        {% do insert_rows(target_relation, sql) %}
    {% elif strategy == 'rebuild_keys' %}
        {% do rebuild_touched_keys(target_relation, sql, inputs) %}
    {% elif strategy == 'rebuild_all' %}
        {% call noop_statement('main', 'INSERT 0 0', rows_affected=0) %}{{ sql }}{% endcall %}
    {% else %}
        {% do exceptions.raise_compiler_error(
            'incremental_strategy is earliest_wins, rebuild_keys or rebuild_all, not ' ~ strategy
        ) %}
    {% endif %}
    {% if model.config.meta.settled_by %}
        {% do context[model.config.meta.settled_by](target_relation, rebuild) %}
    {% endif %}
    {% if rebuild %}
        {% for input in histories_among(inputs) %}
            {% do remember_history(input) %}
        {% endfor %}
    {% endif %}

    {% do close_marks() %}
    {% do record_run(is_whole=rebuild) %}
    {{ return(finish(target_relation, needs_analyze=rebuild)) }}
{% endmaterialization %}


{# One statement within the model's transaction (dbt's run_query would not open one). Returns its rows. #}
{% macro query(statement_sql) %}
    {% call statement('query', fetch_result=true) %}{{ statement_sql }}{% endcall %}
    {% do return(load_result('query').table) %}
{% endmacro %}


{# Before what shuts readers out: whoever waits for it keeps those out that come after, so it does not wait for long, and
   the model fails instead. Not for the whole model, whose advisory locks are waited for as long as another run takes. #}
{% macro give_way() %}
    {% do query("set local lock_timeout = '800ms'") %}
{% endmacro %}


{# Make the table if it is missing (or its columns changed, in a full refresh). Looks into the catalogue and not into
   dbt's cache: another run may have made it while this one waited for the lock. Returns whether it is new. #}
{% macro ensure_table(relation, sql) %}
    {% if config.get('contract').enforced %}
        {{ get_assert_columns_equivalent(sql) }}
    {% endif %}
    {% set kind = query("select relkind::text from pg_class where oid = to_regclass('" ~ relation ~ "')") %}
    {% if kind | length > 0 %}
        {% if kind[0][0] in ['r', 'p'] and not columns_changed(relation, sql) %}
            {% do return(false) %}
        {% elif not should_full_refresh() %}
            {% do exceptions.raise_compiler_error(
                'The columns of ' ~ relation ~ ' changed: run `dbt run --full-refresh --select ' ~ relation.identifier
                ~ '+`, which makes it anew (what others built on it is dropped).'
            ) %}
        {% endif %}
        {% do give_way() %}
        {% do query('drop ' ~ ('view ' if kind[0][0] == 'v' else 'table ') ~ relation ~ ' cascade') %}
        {% do query('set local lock_timeout = 0') %}
    {% endif %}
    {% if config.get('contract').enforced %}
        {% do query('create table ' ~ relation ~ ' ' ~ get_table_columns_and_constraints()) %}
    {% else %}
        {% do query('create table ' ~ relation ~ ' as (' ~ sql ~ ') with no data') %}
    {% endif %}
    {% do create_indexes(relation) %}
    {% do return(true) %}
{% endmacro %}


{% macro columns_changed(relation, sql) %}
    {% set wanted = format_columns(get_column_schema_from_query(sql)) | map(attribute='formatted') | sort | list %}
    {% set there = format_columns(get_column_schema_from_query('select * from ' ~ relation))
        | map(attribute='formatted') | sort | list %}
    {% do return(wanted != there) %}
{% endmacro %}


{% macro column_list(sql) -%}
    {%- for column in get_column_schema_from_query(sql) -%}
        {{ adapter.quote(column.name) }}{{ ', ' if not loop.last }}
    {%- endfor -%}
{%- endmacro %}


{% macro insert_rows(relation, sql) %}
    {% set columns = column_list(sql) %}
    {% call statement('main') %}
        insert into {{ relation }} ({{ columns }})
        select {{ columns }} from (
            {{ sql }}
        ) as model_rows
    {% endcall %}
{% endmacro %}


{# An associative minimum: in whatever order rows come and however often, the same rows remain. #}
{% macro insert_earliest(relation, sql) %}
    {% set columns = column_list(sql) %}
    {% set key = unique_key_columns() | join(', ') %}
    {% call statement('main') %}
        insert into {{ relation }} as kept ({{ columns }})
        select distinct on ({{ key }}) {{ columns }} from (
            {{ sql }}
        ) as model_rows
        order by {{ key }}, {{ log_position('model_rows') }}
        on conflict ({{ key }}) do update set
            {% for column in get_column_schema_from_query(sql) -%}
                {{ adapter.quote(column.name) }} = excluded.{{ adapter.quote(column.name) }}{{ ', ' if not loop.last }}
            {%- endfor %}
        where {{ log_position('excluded') }} < {{ log_position('kept') }}
    {% endcall %}
{% endmacro %}


{# The touched keys go into an analysed table first, so that Postgres knows how many they are. #}
{% macro rebuild_touched_keys(relation, sql, inputs) %}
    {% set columns = column_list(sql) %}
    {% set key = unique_key_columns() | join(', ') %}
    {% set histories = histories_among(inputs) | map(attribute='unique_id') | list %}
    {% do find_reopened_keys(relation, inputs) %}
    {% set touched = ['select ' ~ key ~ ' from reopened_keys'] %}
    {% for node_id in model.depends_on.nodes if node_id not in histories %}
        {% for topic in topics_of(node_id) %}
            {% do touched.append(
                'select ' ~ key ~ ' from ' ~ rows_between_marks(graph_node(node_id).relation_name, topic) ~ ' as log'
            ) %}
        {% endfor %}
    {% endfor %}
    {% do query('create temporary table touched_keys on commit drop as ' ~ touched | join(' union ')) %}
    {% do query('analyze touched_keys') %}
    {% set of_touched = ' where (' ~ key ~ ') in (select ' ~ key ~ ' from touched_keys)' %}
    {% if model.config.meta.settled_by %}
        {% do query('create temporary table replaced_rows on commit drop as select * from ' ~ relation ~ of_touched) %}
    {% endif %}
    {% do query('delete from ' ~ relation ~ of_touched) %}
    {# Key by key: Postgres gets a plain join or `in` not always below the outer joins of the model, and then computes
       the whole of it. #}
    {% call statement('main') %}
        insert into {{ relation }} ({{ columns }})
        select rebuilt.*
        from touched_keys
        cross join lateral (
            select {{ columns }} from (
                {{ sql }}
            ) as model_rows
            where
                {% for column in unique_key_columns() -%}
                    model_rows.{{ column }} = touched_keys.{{ column }}{{ ' and ' if not loop.last }}
                {%- endfor %}
            offset 0
        ) as rebuilt
    {% endcall %}
{% endmacro %}


{% macro unique_key_columns() %}
    {% set key = config.require('unique_key') %}
    {% do return([key] if key is string else key) %}
{% endmacro %}


{# Statistics and comments take a lock that makes autovacuum and us wait for each other: only when there is need. #}
{% macro finish(relation, needs_analyze=false) %}
    {% do apply_grants(relation, config.get('grants'), should_revoke=true) %}
    {% do keep_scopes_apart(relation) %}
    {% if docs_changed(relation) %}
        {% do persist_docs(relation, model) %}
    {% endif %}
    {% if needs_analyze %}
        {% do query('analyze ' ~ relation) %}
    {% endif %}
    {{ run_hooks(post_hooks, inside_transaction=True) }}
    {% do adapter.commit() %}
    {{ run_hooks(post_hooks, inside_transaction=False) }}
    {% do return({'relations': [relation]}) %}
{% endmacro %}


{% macro docs_changed(relation) %}
    {% set wanted = {'': model.description} %}
    {% for column in model.columns.values() %}
        {% do wanted.update({column.name: column.description}) %}
    {% endfor %}
    {% set there = {} %}
    {% for row in query(
        "select coalesce(pg_attribute.attname, '') as name, pg_description.description from pg_description "
        ~ "left join pg_attribute on attrelid = objoid and attnum = objsubid and attnum > 0 "
        ~ "where classoid = 'pg_class'::regclass and objoid = '" ~ relation ~ "'::regclass"
    ) %}
        {% do there.update({row[0]: row[1]}) %}
    {% endfor %}
    {% do return(wanted != there) %}
{% endmacro %}
