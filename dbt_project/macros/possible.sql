{# That a number of a country and year can be true, as a condition; null can. A NaN, the greatest of floats, can't.
   The most is about ten times the world's (2024: 8 billion people, 130 trillion dollars) or, of CO2, more than twice it;
   the highest a head is 783 tonnes (Sint Maarten). #}
{% macro is_possible(column) -%}
    {%- set bounds = {
        'year': ('1750', '2100'),
        'population_people': ('0', '1e11'),
        'gdp_international_usd_2011': ('0', '1e15'),
        'co2_million_tonnes': ('0', '1e5'),
        'co2_tonnes_per_capita': ('0', '1000'),
    }[column] -%}
    ({{ column }} between {{ bounds[0] }} and {{ bounds[1] }})
{%- endmacro %}
