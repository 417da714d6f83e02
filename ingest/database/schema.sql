-- What ingestion owns in the warehouse. Run by `scopehouse migrate` as scopehouse_migrate; may be run again at any time.

create schema if not exists raw;
create schema if not exists ingest;

-- Where dbt and ml build: schemas only, what is in them is theirs.
create schema if not exists reference;
create schema if not exists staging;
create schema if not exists intermediate;
create schema if not exists mobility;
create schema if not exists fleet;
create schema if not exists energy;
create schema if not exists countries;
create schema if not exists sensors;
create schema if not exists ml;
create schema if not exists operations;

-- Which customers' rows a login of its own scope sees (`scopehouse scopes`): what the policies on marts ask.
create schema if not exists access;
create table if not exists access.scopes (
    login text not null,
    first_customer_id bigint not null,
    last_customer_id bigint not null,
    primary key (login, first_customer_id),
    check (first_customer_id <= last_customer_id)
);
do $$
begin
    if not exists (select from pg_policy where polrelid = 'access.scopes'::regclass and polname = 'own_scope') then
        create policy own_scope on access.scopes using (login = current_user);
        alter table access.scopes enable row level security;
    end if;
end
$$;

-- What raw holds: every offset below next_offset, of the topic with this id. Moved in the transaction that adds the
-- rows. A partition's replay log (replayed dead letters) is the row with partition -1 - partition.
create table if not exists ingest.offsets (
    topic text not null,
    partition int not null,
    topic_id text not null,
    next_offset bigint not null,
    epoch bigint not null default 0,
    row_count bigint not null default 0,
    dead_letter_count bigint not null default 0,
    mended_value_count bigint not null default 0,
    updated_at timestamptz not null default now(),
    primary key (topic, partition)
);
comment on column ingest.offsets.epoch is 'Raised at each assignment: a consumer with an older epoch is fenced.';
comment on column ingest.offsets.mended_value_count is 'Bare NaN of JSON taken as null in a nullable number.';

-- What each incremental model has read: every offset below next_offset. A run reads up to upper_offset.
create table if not exists ingest.model_offsets (
    model text not null,
    topic text not null,
    partition int not null,
    next_offset bigint not null,
    upper_offset bigint not null,
    updated_at timestamptz not null default now(),
    primary key (model, topic, partition)
);

-- What each incremental model was built from besides topics (small tables, by content): when it changes, the model is
-- built anew.
create table if not exists ingest.model_references (
    model text primary key,
    fingerprint text not null,
    updated_at timestamptz not null default now()
);

-- What each incremental model was built from of dimensions with history (all versions): just the facts of versions that
-- came, went or changed are built anew.
create table if not exists ingest.model_histories (
    model text not null,
    reference text not null,
    version jsonb not null
);

-- The runs of dbt that wrote what its tables hold: a row's `xmin` is transaction_id::xid. Of a model that was built anew
-- only that run and later ones are kept.
create table if not exists ingest.model_runs (
    model text not null,
    transaction_id xid8 not null,
    invocation_id text not null,
    dbt_version text not null,
    started_at timestamptz not null default now(),
    row_count bigint not null,
    is_whole boolean not null,
    primary key (model, transaction_id)
);

-- Summarise a raw table's newest pages (its partitions' too) in its BRIN indexes, for the unsummarised tail is scanned
-- whole. Readers may not do it themselves: brin_summarize_new_values wants the index's owner, MAINTAIN is not enough.
-- Autovacuum, which summarises as well, is not waited for: one that is waited for is cancelled after a second.
create or replace function ingest.summarise_tail(log regclass) returns void
language plpgsql security definer set search_path = pg_catalog, pg_temp set lock_timeout = '50ms' as $$
begin
    perform brin_summarize_new_values(pg_index.indexrelid)
    from (select log as relid union select relid from pg_partition_tree(log) where isleaf) as leaf
    inner join pg_index on pg_index.indrelid = leaf.relid
    inner join pg_class on pg_class.oid = pg_index.indexrelid and pg_class.relkind = 'i'
    inner join pg_am on pg_am.oid = pg_class.relam and pg_am.amname = 'brin'
    where pg_class.relnamespace = 'raw'::regnamespace;
exception when lock_not_available then null;
end
$$;
revoke all on function ingest.summarise_tail(regclass) from public;

-- Records that could not become rows, whole, with the reason.
create table if not exists ingest.dead_letters (
    dead_letter_id bigint generated always as identity primary key,
    topic text not null,
    partition int not null,
    "offset" bigint not null,
    key bytea,
    value bytea,
    headers jsonb,
    schema_id int,
    error_class text not null,
    error text not null,
    kafka_timestamp timestamptz,
    failed_at timestamptz not null default now()
);
-- `create index if not exists` would wait for the running sink.
do $$
begin
    if to_regclass('ingest.dead_letters_by_reason') is null then
        create index dead_letters_by_reason on ingest.dead_letters (topic, error_class);
    end if;
end
$$;

-- Columns that came later, added just where they are missing: `alter table ... if not exists` would lock the running
-- sink out also when there is nothing to do. Dead letters first, as in the sink's transaction.
create or replace function pg_temp.add_column(target regclass, name text, definition text) returns void
language plpgsql as $$
begin
    if not exists (select from pg_attribute where attrelid = target and attname = name) then
        execute format('alter table %s add column %I %s', target, name, definition);
    end if;
end
$$;

-- A replayed dead letter stays, with its place in the replay log: a row of raw whose _kafka_partition is negative is
-- found by it. One that failed again has the newest reason.
do $$
begin
    perform pg_temp.add_column('ingest.dead_letters', name, definition)
    from (values
        ('attempts', 'int not null default 1'),
        ('last_tried_at', 'timestamptz'),
        ('replayed_partition', 'int'),
        ('replayed_offset', 'bigint'),
        ('replayed_at', 'timestamptz')
    ) as columns (name, definition);
    if to_regclass('ingest.dead_letters_by_replay') is null then
        create unique index dead_letters_by_replay on ingest.dead_letters (topic, replayed_partition, replayed_offset);
    end if;
    perform pg_temp.add_column('ingest.offsets', name, definition)
    from (values
        ('stopped_because', 'text'),
        ('expired_dead_letter_count', 'bigint not null default 0')
    ) as columns (name, definition);
end
$$;
comment on column ingest.dead_letters.attempts is 'How often the sink or a replay has tried to land it.';
comment on column ingest.dead_letters.replayed_offset is
'_kafka_offset of the row in raw that it became; _kafka_partition is replayed_partition.';
comment on column ingest.offsets.stopped_because is
'Why the partition stands still: too many dead letters. `scopehouse ingest resume` clears it.';
comment on column ingest.offsets.expired_dead_letter_count is
'Dead letters deleted by their retention without having become rows.';
