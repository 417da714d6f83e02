"""The runner on a real Postgres, under the roles that it has in life."""

from __future__ import annotations

import json
import random
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict

import psycopg
import pytest
from pydantic import SecretStr

from ml.features import COLUMNS, CountryFeatures, FeaturesError
from ml.run import ClusterRun, ClusterRunError, run
from services.settings import Settings

FEATURES = "countries.mart_country_features"
SCALES = [1.0] * 20 + [100.0] * 6 + [9000.0] * 2
COUNTRIES = [
    CountryFeatures(
        country=f"Country {number:02}",
        iso_code=f"C{number:02}",
        avg_co2=scale * (1 + number / 50),
        avg_co2_per_capita=3.0,
        avg_gdp=scale * 1e9,
        avg_population=1e7,
        data_points=20,
        first_year=1990,
        last_year=2009,
        avg_co2_recent=None,
        is_sample=number == 7,
    )
    for number, scale in enumerate(SCALES)
]


@pytest.fixture
def transform(empty_warehouse: Settings) -> Iterator[psycopg.Connection]:
    """The role that dbt and ml have, with the features' table empty and no run made."""
    with psycopg.connect(empty_warehouse.url_of("transform"), autocommit=True) as connection:
        connection.execute("drop table if exists ml.co2_clusters, ml.cluster_stats, ml.cluster_runs")
        connection.execute(f"drop table if exists {FEATURES}")
        connection.execute(
            f"""
            create table {FEATURES} (
                country text, iso_code text,
                avg_co2 float8, avg_co2_per_capita float8, avg_gdp float8, avg_population float8,
                data_points int, first_year int, last_year int, avg_co2_recent float8, is_sample boolean
            )
            """
        )
        yield connection


def fill(connection: psycopg.Connection, rows: list[CountryFeatures]) -> None:
    """Put the rows into the features' table in the order given."""
    connection.execute(f"truncate {FEATURES}")
    marks = ", ".join(f"%({name})s" for name in COLUMNS)
    with connection.cursor() as cursor:
        insert = f"insert into {FEATURES} ({', '.join(COLUMNS)}) values ({marks})"
        cursor.executemany(insert, [asdict(row) for row in rows])


def members(connection: psycopg.Connection, made: ClusterRun) -> dict[str, int]:
    rows = connection.execute("select country, cluster from ml.co2_clusters where run_id = %s", [made.run_id])
    return dict(rows.fetchall())


def test_a_run_writes_countries_stats_and_itself(empty_warehouse: Settings, transform: psycopg.Connection) -> None:
    fill(transform, COUNTRIES)
    made = run(empty_warehouse)
    assert made.sizes == (20, 6, 2)
    assert (made.k, made.recipe, made.input_row_count, made.is_sample) == (3, "four_means", 28, True)
    assert made.library_version.startswith("scikit-learn ")
    assert 0 < made.silhouette <= 1
    assert set(members(transform, made).values()) == {0, 1, 2}
    assert members(transform, made)["Country 27"] == 2
    stats = transform.execute(
        "select cluster, num_countries, batch_id, processing_time, run_id from ml.cluster_stats order by cluster"
    ).fetchall()
    assert stats == [(n, made.sizes[n], made.batch_id, made.created_at, made.run_id) for n in range(3)]


def test_shuffled_features_give_the_same_hash_and_the_same_clusters(
    empty_warehouse: Settings, transform: psycopg.Connection
) -> None:
    runs = []
    for seed in range(3):
        fill(transform, random.Random(seed).sample(COUNTRIES, len(COUNTRIES)))
        runs.append(run(empty_warehouse))
    first = runs[0]
    for other in runs[1:]:
        assert other.input_hash == first.input_hash
        assert (other.inertia, other.silhouette, other.sizes) == (first.inertia, first.silhouette, first.sizes)
        assert members(transform, other) == members(transform, first)
    assert len({made.run_id for made in runs}) == 3
    assert [made.batch_id for made in runs] == [1, 2, 3]


def test_runs_at_the_same_time_queue_and_all_land(empty_warehouse: Settings, transform: psycopg.Connection) -> None:
    fill(transform, COUNTRIES)
    with ThreadPoolExecutor(4) as pool:
        runs = list(pool.map(lambda _: run(empty_warehouse), range(4)))
    assert [made.batch_id for made in sorted(runs, key=lambda made: made.created_at)] == [1, 2, 3, 4]
    counts = transform.execute("select run_id, count(*) from ml.co2_clusters group by run_id").fetchall()
    assert sorted(counts) == sorted((made.run_id, 28) for made in runs)


def test_a_run_that_fails_leaves_nothing(empty_warehouse: Settings, transform: psycopg.Connection) -> None:
    fill(transform, COUNTRIES)
    run(empty_warehouse)
    transform.execute("alter table ml.cluster_stats add constraint never check (num_countries < 0) not valid")
    with pytest.raises(psycopg.errors.CheckViolation):
        run(empty_warehouse)
    assert transform.execute("select count(*) from ml.cluster_runs").fetchone() == (1,)
    assert transform.execute("select count(*) from ml.co2_clusters").fetchone() == (28,)


def test_dashboards_may_read_the_clusters(empty_warehouse: Settings, transform: psycopg.Connection) -> None:
    fill(transform, COUNTRIES)
    run(empty_warehouse)
    with psycopg.connect(empty_warehouse.url_of("bi")) as reader:
        assert reader.execute("select count(*) from ml.co2_clusters").fetchone() == (28,)


def test_no_features_say_what_to_run(empty_warehouse: Settings, transform: psycopg.Connection) -> None:
    with pytest.raises(FeaturesError, match="is empty: run `scopehouse produce country-emissions`"):
        run(empty_warehouse)
    transform.execute(f"drop table {FEATURES}")
    with pytest.raises(FeaturesError, match=r"does not exist.*: run `dbt build --select \+mart_country_features`"):
        run(empty_warehouse)


def test_a_warehouse_never_migrated_says_what_to_run(empty_warehouse: Settings, transform: psycopg.Connection) -> None:
    fill(transform, COUNTRIES)
    with psycopg.connect(empty_warehouse.url_of("migrate"), autocommit=True) as owner:
        owner.execute("revoke create on schema ml from scopehouse_transform")
        try:
            with pytest.raises(ClusterRunError, match="run `scopehouse migrate`"):
                run(empty_warehouse)
        finally:
            owner.execute("grant create on schema ml to scopehouse_transform")


def test_a_postgres_that_is_gone_is_a_sentence(empty_warehouse: Settings) -> None:
    gone = empty_warehouse.model_copy(update={"database_url": SecretStr("postgresql://x@127.0.0.1:1/x")})
    with pytest.raises(ClusterRunError, match="run `scopehouse up`"):
        run(gone)


def test_the_command_prints_one_json_object(
    empty_warehouse: Settings, transform: psycopg.Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DATABASE_URL", empty_warehouse.url_of("transform"))
    command = [sys.executable, "-m", "ml"]
    empty = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (empty.returncode, empty.stdout) == (1, "")
    assert empty.stderr.startswith("error: countries.mart_country_features is empty")
    fill(transform, COUNTRIES)
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert json.loads(done.stdout)["sizes"] == [20, 6, 2]
