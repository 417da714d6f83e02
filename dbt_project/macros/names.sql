{# A model's schema is the one it is given, as it stands: not <target>_<schema>. #}
{% macro generate_schema_name(custom_schema_name, node) -%}
    {{ (custom_schema_name or target.schema) | trim }}
{%- endmacro %}


{# The surrogate key of a grain: a hash of its columns, which must not be null. Times go in as their epoch, for the
   text of a time depends on the session's zone. #}
{% macro surrogate_key(columns) -%}
    md5(concat_ws('|', {{ columns | join(', ') }}))
{%- endmacro %}


{# A sum of floats that does not depend on the order of rows: the same rows give the same bits, in any plan. Nulls are
   left out: count them beside. #}
{% macro exact_sum(column) -%}
    sum(({{ column }})::numeric)::float8
{%- endmacro %}
