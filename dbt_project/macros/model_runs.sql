{# Which run of dbt wrote a row is known without a column for it: Postgres keeps each row's transaction in `xmin`, and
   ingest.model_runs says which run that was. To be called after the model's insert, in its transaction. A run that wrote
   nothing leaves nothing; one that wrote all rows makes those before it forgotten. #}
{% macro record_run(is_whole) %}
    {% set row_count = load_result('main').response.rows_affected %}
    {% if is_whole %}
        {% do query("delete from ingest.model_runs where model = '" ~ model_name(this) ~ "'") %}
    {% endif %}
    {% if row_count > 0 %}
        {% do query(
            "insert into ingest.model_runs (model, transaction_id, invocation_id, dbt_version, row_count, is_whole) "
            ~ "values ('" ~ model_name(this) ~ "', pg_current_xact_id(), '" ~ invocation_id ~ "', '" ~ dbt_version
            ~ "', " ~ row_count ~ ", " ~ is_whole ~ ")"
        ) %}
    {% endif %}
{% endmacro %}
