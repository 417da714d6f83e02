-- The e-bike company's own database, as its login makes it; may be run again at any time. Not ours: what we know of it
-- comes through change capture.

create table if not exists products (
    product_id int primary key,
    name text not null,
    product_category_id int not null,
    standard_cost double precision not null
);
comment on column products.standard_cost is 'US dollars.';

create table if not exists bike_emissions (
    product_category_id int primary key,
    name text not null,
    avg_cost double precision not null,
    co2e_km_scope1 double precision not null,
    co2e_km_scope2 double precision not null,
    modified_at timestamptz not null
);
comment on column bike_emissions.avg_cost is 'US dollars: the highest standard cost of the category''s products.';
comment on column bike_emissions.co2e_km_scope1 is 'kg CO2e a kilometre.';
comment on column bike_emissions.modified_at is 'From when on the row holds.';
-- A change tells the row before it whole.
alter table bike_emissions replica identity full;

-- What the simulator has done, in the order in which it was done: it goes on from there.
create table if not exists simulated_changes (
    change_id bigint generated always as identity primary key,
    seed int not null,
    position int not null,
    unique (seed, position)
);

-- Change capture writes here while the other tables are quiet, so that its slot moves on.
create table if not exists heartbeat (
    only_row boolean primary key default true check (only_row),
    beat_at timestamptz not null
);
insert into heartbeat (beat_at) values (now()) on conflict do nothing;

do $$
begin
    if not exists (select from pg_publication where pubname = 'scopehouse_adventure') then
        create publication scopehouse_adventure for table bike_emissions, heartbeat;
    end if;
    if exists (select from pg_roles where rolname = 'scopehouse_cdc') then
        grant usage on schema public to scopehouse_cdc;
        grant select on bike_emissions to scopehouse_cdc;
        grant select, update on heartbeat to scopehouse_cdc;
    end if;
end
$$;
