"""The runner: features from the warehouse, clusters into it, in one transaction."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import astuple, dataclass, fields, replace
from datetime import datetime
from uuid import uuid4

import psycopg
import sklearn
from psycopg import errors, sql
from psycopg.rows import class_row

from ml.clustering import Clustering, ClusterStats, cluster
from ml.features import COLUMNS, CountryFeatures, FeaturesError, fingerprint
from ml.recipes import FOUR_MEANS, Recipe
from ml.tables import make_tables
from services.errors import MendableError
from services.settings import Settings

_COUNTRY_COLUMNS = tuple(name for name in COLUMNS if name != "is_sample")
_STATS_COLUMNS = tuple(field.name for field in fields(ClusterStats))


class ClusterRunError(MendableError):
    """The warehouse can't be read or written; the message says what to do."""


@dataclass(frozen=True, slots=True)
class ClusterRun:
    """A row of ``ml.cluster_runs``. ``sizes`` are in order of cluster; see `ml.clustering.Clustering`."""

    run_id: str
    batch_id: int
    created_at: datetime
    recipe: str
    k: int
    inertia: float
    silhouette: float
    sizes: tuple[int, ...]
    library_version: str
    input_row_count: int
    input_hash: str
    is_sample: bool


def run(settings: Settings, recipe: Recipe = FOUR_MEANS) -> ClusterRun:
    """Cluster ``countries.mart_country_features`` and add the run to ``ml.*``: all of its rows, or none.

    Raises:
        FeaturesError: there are no features, or they can't be clustered.
        ClusterRunError: Postgres can't be reached, or `scopehouse migrate` has not been run on it.
    """
    try:
        with psycopg.connect(settings.url_of("transform"), connect_timeout=10) as connection:
            # One run at a time, from the reading on: the latest run is then the one that saw the latest rows.
            connection.execute("select pg_advisory_xact_lock(hashtextextended('ml.cluster_runs', 0))")
            rows = read_features(connection)
            return write(connection, recipe, cluster(rows, recipe), fingerprint(rows))
    except (errors.InvalidSchemaName, errors.InsufficientPrivilege) as error:
        raise ClusterRunError(
            f"The clusters can't be stored ({error.diag.message_primary}): run `scopehouse migrate`."
        ) from error
    except psycopg.OperationalError as error:
        raise ClusterRunError(
            f"Postgres can't be used ({str(error).splitlines()[0]}): run `scopehouse up`, or mend DATABASE_URL."
        ) from error


def read_features(connection: psycopg.Connection) -> list[CountryFeatures]:
    """Every country of the mart, in no order.

    Raises:
        FeaturesError: the mart is not there, or has other columns.
    """
    query = sql.SQL("select {} from countries.mart_country_features").format(
        sql.SQL(", ").join(map(sql.Identifier, COLUMNS))
    )
    try:
        with connection.cursor(row_factory=class_row(CountryFeatures)) as cursor:
            return cursor.execute(query).fetchall()
    except (errors.UndefinedTable, errors.UndefinedColumn) as error:
        raise FeaturesError(
            f"There are no country features to cluster ({error.diag.message_primary}): "
            "run `dbt build --select +mart_country_features` first."
        ) from error


def write(connection: psycopg.Connection, recipe: Recipe, clustering: Clustering, input_hash: str) -> ClusterRun:
    """Add a run to ``ml.*`` in the connection's transaction, making the tables where they are missing."""
    make_tables(connection)
    with connection.cursor(row_factory=class_row(ClusterRun)) as cursor:
        written = cursor.execute(
            """
            insert into ml.cluster_runs (
                run_id, created_at, recipe, k, inertia, silhouette, sizes,
                library_version, input_row_count, input_hash, is_sample
            )
            values (%s, clock_timestamp(), %s, %s, %s, %s, %s, %s, %s, %s, %s)
            returning *
            """,
            (
                str(uuid4()),
                recipe.name,
                recipe.k,
                clustering.inertia,
                clustering.silhouette,
                list(clustering.sizes),
                f"scikit-learn {sklearn.__version__}",
                len(clustering.countries),
                input_hash,
                any(country.features.is_sample for country in clustering.countries),
            ),
        ).fetchone()
    assert written is not None  # noqa: S101  (insert ... returning gives a row or raises)
    _copy(
        connection,
        "co2_clusters",
        written,
        (*_COUNTRY_COLUMNS, "cluster"),
        (
            (*(getattr(country.features, name) for name in _COUNTRY_COLUMNS), country.cluster)
            for country in clustering.countries
        ),
    )
    _copy(connection, "cluster_stats", written, _STATS_COLUMNS, map(astuple, clustering.stats))
    return replace(written, sizes=clustering.sizes)  # Postgres gave a list


def _copy(
    connection: psycopg.Connection,
    table: str,
    written: ClusterRun,
    columns: tuple[str, ...],
    rows: Iterable[tuple[object, ...]],
) -> None:
    statement = sql.SQL("copy {} ({}) from stdin").format(
        sql.Identifier("ml", table),
        sql.SQL(", ").join(map(sql.Identifier, ("run_id", "batch_id", "processing_time", *columns))),
    )
    with connection.cursor() as cursor, cursor.copy(statement) as copy:
        for row in rows:
            copy.write_row((written.run_id, written.batch_id, written.created_at, *row))
