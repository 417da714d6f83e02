-- Who may do what. Roles are made by whoever runs the server (for the embedded one: `scopehouse up`); where a role is
-- missing (one login for everything), its grants are left out.

create or replace function pg_temp.grant_if(role_name text, statement text) returns void language plpgsql as $$
begin
    if exists (select from pg_roles where rolname = role_name) then
        execute format(statement, role_name);
    end if;
end
$$;

select pg_temp.grant_if('scopehouse_ingest', statement)
from (values
    ('grant usage on schema raw, ingest to %I'),
    ('grant insert on all tables in schema raw to %I'),
    ('grant select, insert, update on ingest.offsets to %I'),
    ('grant select, insert, update, delete on ingest.dead_letters to %I')
) as grants (statement);

select pg_temp.grant_if('scopehouse_transform', statement)
from (values
    ('grant usage on schema raw, ingest to %I'),
    ('grant select on all tables in schema raw to %I'),
    -- before each incremental read
    ('grant execute on function ingest.summarise_tail(regclass) to %I'),
    ('grant select on all tables in schema ingest to %I'),
    (
        'grant select, insert, update, delete on ingest.model_offsets, ingest.model_references, ingest.model_histories, '
        'ingest.model_runs to %I'
    ),
    ('grant usage, create on schema reference, staging, intermediate, mobility, fleet, energy, countries, sensors, ml, operations to %I')
) as grants (statement);

select pg_temp.grant_if('scopehouse_bi', statement)
from (values
    ('grant usage on schema reference, mobility, fleet, energy, countries, sensors, ml, operations to %I')
) as grants (statement);

-- Readers of some customers' rows: grants on marts are given by dbt with the policy, table by table.
select pg_temp.grant_if('scopehouse_scoped', statement)
from (values
    (format('grant connect on database %I to %%I', current_database())),
    ('grant usage on schema access, mobility to %I'),
    ('grant select on access.scopes to %I')
) as grants (statement);
select pg_temp.grant_if('scopehouse_transform', 'grant usage on schema access to %I');

-- What dbt and ml make from now on can be read by dashboards.
do $$
declare
    schema_name text;
begin
    if exists (select from pg_roles where rolname = 'scopehouse_transform')
       and exists (select from pg_roles where rolname = 'scopehouse_bi') then
        foreach schema_name in array array['reference', 'mobility', 'fleet', 'energy', 'countries', 'sensors', 'ml', 'operations'] loop
            execute format(
                'alter default privileges for role scopehouse_transform in schema %I grant select on tables to scopehouse_bi',
                schema_name
            );
        end loop;
    end if;
end
$$;
