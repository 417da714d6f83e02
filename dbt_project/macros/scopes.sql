{# A mart with meta.scoped_by (its column of customers) is readable by logins of a data scope (`scopehouse scopes`), which
   see the rows of their customers. Everybody else sees all rows, as without it. A new table gets it in the transaction
   that makes it; one that has it is left alone. Tables only: a view reads with its owner's rights. #}
{% macro keep_scopes_apart(relation) %}
    {% set column = model.config.meta.scoped_by %}
    {% if not column %}
        {% do return(none) %}
    {% endif %}
    {# No group of such logins, no grant: servers with one login for everything, or not migrated yet. #}
    {% set group = query(
        "select 1 from pg_roles where rolname = 'scopehouse_scoped' "
        ~ "and exists (select from pg_namespace where nspname = 'access')"
    ) %}
    {% set there = query(
        "select 1 from pg_class inner join pg_policy on polrelid = pg_class.oid "
        ~ "where pg_class.oid = '" ~ relation ~ "'::regclass and relrowsecurity and polname = 'own_scope'"
    ) %}
    {% if group | length == 0 or there | length > 0 %}
        {% do return(none) %}
    {% endif %}
    {% do give_way() %}
    {% do query('drop policy if exists all_rows on ' ~ relation) %}
    {% do query('drop policy if exists own_scope on ' ~ relation) %}
    {% do query('create policy all_rows on ' ~ relation ~ ' using (true)') %}
    {% do query(
        'create policy own_scope on ' ~ relation ~ ' as restrictive for select to scopehouse_scoped using (exists ('
        ~ 'select from access.scopes where scopes.login = current_user and '
        ~ relation.identifier ~ '.' ~ column ~ ' between scopes.first_customer_id and scopes.last_customer_id))'
    ) %}
    {% do query('alter table ' ~ relation ~ ' enable row level security') %}
    {% do query('grant select on ' ~ relation ~ ' to scopehouse_scoped') %}
    {% do query('set local lock_timeout = 0') %}
{% endmacro %}
