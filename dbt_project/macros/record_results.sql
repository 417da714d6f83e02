{# Write down what a run did, node by node, for the Operations dashboard: at its end, in a transaction of its own. A
   warehouse that was not migrated since is let be. #}
{% macro record_results(results) %}
    {% if execute and results and flags.WHICH in ('build', 'run', 'test', 'seed') %}
        {% set known = run_query("select to_regclass('operations.dbt_results')") %}
        {% if known.rows[0][0] is not none %}
            {% set rows = [] %}
            {% for result in results if result.node.resource_type in ('model', 'seed', 'test', 'unit_test') %}
                {% do rows.append(
                    "('" ~ [invocation_id, result.node.unique_id, result.node.resource_type, result.node.name,
                            domain_of(result.node), result.status] | join("', '")
                    ~ "', " ~ (result.failures if result.failures is not none else 'null')
                    ~ ", " ~ result.execution_time ~ ", '" ~ run_started_at.isoformat() ~ "')"
                ) %}
            {% endfor %}
            {% if rows %}
                delete from operations.dbt_results where started_at < now() - interval '30 days';
                insert into operations.dbt_results
                (invocation_id, node_id, node_type, node_name, domain, status, failures, seconds, started_at)
                values {{ rows | join(', ') }}
                on conflict do nothing;
            {% endif %}
        {% endif %}
    {% endif %}
{% endmacro %}


{# The folder of its file below the layer's: a domain, or a source in staging. #}
{% macro domain_of(node) %}
    {% set parts = node.original_file_path.split('/') %}
    {% do return(parts[2] if parts[0] == 'models' and parts | length > 3 else 'reference') %}
{% endmacro %}
