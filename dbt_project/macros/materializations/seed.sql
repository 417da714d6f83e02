{# dbt empties a seed with `truncate`, for which readers wait and whose emptiness older snapshots see: rows are deleted
   and inserted in the seed's transaction instead. #}
{% macro postgres__reset_csv_table(model, full_refresh, old_relation, agate_table) %}
    {% if full_refresh %}
        {% do return(default__reset_csv_table(model, full_refresh, old_relation, agate_table)) %}
    {% endif %}
    {% set sql = 'delete from ' ~ old_relation %}
    {% call statement('delete_rows') %}{{ sql }}{% endcall %}
    {% do return(sql) %}
{% endmacro %}
