-- What Climatiq's API has answered, and the ledger of calls. Run by `scopehouse migrate` after schema.sql and
-- grants.sql, whose pg_temp.add_column and pg_temp.grant_if it uses; may be run again at any time.

-- One row an attempt: written and committed before it is sent, so that a process killed while waiting leaves it counted.
create table if not exists ingest.api_calls (
    api_call_id bigint generated always as identity primary key,
    api text not null,
    endpoint text not null,
    call_count int not null check (call_count > 0),
    outcome text not null default 'lost' check (outcome in ('lost', 'unsent', 'answered', 'failed')),
    http_status int,
    reserved_at timestamptz not null default now(),
    ended_at timestamptz
);
comment on table ingest.api_calls is 'Calls of paid APIs. A month''s budget is the sum of call_count, unsent apart.';
select pg_temp.add_column('ingest.api_calls', 'prices_usd', 'numeric[]');
comment on column ingest.api_calls.prices_usd is 'What was asked about, US dollars; null: about every price.';
comment on column ingest.api_calls.call_count is 'Each item of a batch is a call.';
comment on column ingest.api_calls.outcome is
'lost: no answer came (or none yet); unsent: no connection; answered; failed: an answer that is an error.';

-- Append-only: the API's answers to estimates, each item of a batch by itself. Errors that are final are answers too.
create table if not exists raw.climatiq_estimates (
    request_hash text not null,
    request jsonb not null,
    price_usd numeric not null,
    data_version text not null,
    release text not null,
    requested_at timestamptz not null,
    responded_at timestamptz not null,
    http_status int not null,
    error_code text,
    kg_co2e double precision,
    body text not null,
    _api_call_id bigint not null,
    _ingested_at timestamptz not null default now()
);
comment on table raw.climatiq_estimates is 'Climatiq''s estimates of what is bought for a price, one row an answer.';
comment on column raw.climatiq_estimates.request_hash is 'SHA-256 of the request as sent for one estimate.';
comment on column raw.climatiq_estimates.price_usd is 'US dollars, rounded to cents: join on round(price::numeric, 2).';
comment on column raw.climatiq_estimates.data_version is 'As set; ^NN moves.';
comment on column raw.climatiq_estimates.release is 'The fixed data version that was asked.';
comment on column raw.climatiq_estimates.http_status is 'Of the batch: 200 also where this item failed.';
comment on column raw.climatiq_estimates.kg_co2e is 'The estimate; null where there is none.';
comment on column raw.climatiq_estimates.body is 'The item''s bytes as they came.';

-- Append-only: which release a moving data version gave.
create table if not exists raw.climatiq_releases (
    data_version text not null,
    release text not null,
    requested_at timestamptz not null,
    responded_at timestamptz not null,
    http_status int not null,
    body text not null,
    _api_call_id bigint not null,
    _ingested_at timestamptz not null default now()
);
comment on table raw.climatiq_releases is 'What a moving data version of Climatiq stood for, and when.';

-- `create index if not exists` would wait for a running sync.
do $$
begin
    if to_regclass('ingest.api_calls_by_month') is null then
        create index api_calls_by_month on ingest.api_calls (api, reserved_at);
    end if;
    if to_regclass('raw.climatiq_estimates_by_request') is null then
        create index climatiq_estimates_by_request on raw.climatiq_estimates (request_hash);
    end if;
end
$$;

select pg_temp.grant_if('scopehouse_ingest', statement)
from (values
    ('grant select, insert on raw.climatiq_estimates, raw.climatiq_releases to %I'),
    ('grant select, insert, update (outcome, http_status, ended_at) on ingest.api_calls to %I')
) as grants (statement);

select pg_temp.grant_if('scopehouse_transform', statement)
from (values
    ('grant select on raw.climatiq_estimates, raw.climatiq_releases, ingest.api_calls to %I')
) as grants (statement);
