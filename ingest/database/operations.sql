-- What dbt writes down of its runs (macro record_results), for operations.dbt_runs and operations.test_results. Run by
-- `scopehouse migrate` after grants.sql, whose pg_temp.grant_if it uses; may be run again at any time.

create table if not exists operations.dbt_results (
    invocation_id text not null,
    node_id text not null,
    node_type text not null,
    node_name text not null,
    domain text not null,
    status text not null,
    failures bigint,
    seconds double precision not null,
    started_at timestamptz not null,
    primary key (invocation_id, node_id)
);
comment on table operations.dbt_results is 'One row a node of a run of dbt, for 30 days. No messages: they may quote rows.';
do $$
begin
    if to_regclass('operations.dbt_results_by_start') is null then
        create index dbt_results_by_start on operations.dbt_results (started_at);
    end if;
end
$$;

select pg_temp.grant_if('scopehouse_transform', 'grant select, insert, delete on operations.dbt_results to %I');
select pg_temp.grant_if('scopehouse_bi', 'grant select on operations.dbt_results to %I');
