-- The tables of clusters. Run by `scopehouse migrate` and by every run, as the role that writes them.
-- Append-only: a run adds its rows under its own run_id, and the views of the latest run are dbt's.

create table if not exists ml.cluster_runs (
    run_id text primary key,
    batch_id bigint generated always as identity unique,
    created_at timestamptz not null,
    recipe text not null,
    k int not null,
    inertia double precision not null,
    silhouette double precision not null,
    sizes int[] not null,
    library_version text not null,
    input_row_count int not null,
    input_hash text not null,
    is_sample boolean not null
);
comment on table ml.cluster_runs is 'One row a run of K-means.';
comment on column ml.cluster_runs.batch_id is 'The run''s ordinal number (the earlier system''s name for it).';
comment on column ml.cluster_runs.inertia is 'Sum of squared distances to the centres, in standardised measures.';
comment on column ml.cluster_runs.sizes is 'Countries a cluster, in order of cluster number.';
comment on column ml.cluster_runs.input_hash is 'SHA-256 of the features, whatever their order.';
comment on column ml.cluster_runs.is_sample is 'True where any country''s data is the demo''s own, made up.';

create table if not exists ml.co2_clusters (
    run_id text not null references ml.cluster_runs,
    country text not null,
    iso_code text not null,
    avg_co2 double precision not null,
    avg_co2_per_capita double precision not null,
    avg_gdp double precision not null,
    avg_population double precision not null,
    data_points int not null,
    first_year int not null,
    last_year int not null,
    avg_co2_recent double precision,
    cluster int not null,
    batch_id bigint not null,
    processing_time timestamptz not null,
    primary key (run_id, country)
);
comment on table ml.co2_clusters is 'One row a country and run: its features and its cluster.';
comment on column ml.co2_clusters.cluster is 'Ordered by mean CO2: 0 low, 1 moderate, 2 high.';

create table if not exists ml.cluster_stats (
    run_id text not null references ml.cluster_runs,
    cluster int not null,
    num_countries int not null,
    avg_co2_cluster double precision not null,
    avg_co2_per_capita_cluster double precision not null,
    avg_gdp_cluster double precision not null,
    batch_id bigint not null,
    processing_time timestamptz not null,
    primary key (run_id, cluster)
);
comment on table ml.cluster_stats is 'One row a cluster and run: means over its countries.';
