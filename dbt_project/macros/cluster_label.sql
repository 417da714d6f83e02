{# A cluster's number with what it stands for: with three, by mean CO2. #}
{% macro cluster_label(cluster, k) -%}
    case {{ k }} when 3 then {{ cluster }}::text || ' ' || (array['low', 'moderate', 'high'])[{{ cluster }} + 1] else {{ cluster }}::text end
{%- endmacro %}
