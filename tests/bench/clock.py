"""One clock for all contenders: when Postgres committed their rows.

It runs from the first transaction's commit, whose rows are not counted, to the last one's. What comes before (a
process's start, its connections and its group, a JVM's warming up) costs nobody anything, and nobody stops it too
early: it is read from the rows afterwards, by `track_commit_timestamp`.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

from psycopg import Connection, sql

from tests.bench.processes import Meter

_POLL_SECONDS = 0.1


@dataclass(frozen=True, slots=True)
class Cost:
    """What a contender did: CPU seconds are for a million rows, by process; the peak is its own process's, in MB."""

    rows_per_s: float
    cpu_seconds: dict[str, float]
    peak_rss_mb: float


def await_rows(connection: Connection, table: sql.Identifier, count: int, check: Callable[[float], None]) -> None:
    """Wait until a table has `count` rows; while it does not grow, `check` is told since when and may raise."""
    size, since, counted = -1, time.monotonic(), False
    while True:
        found = connection.execute("select pg_relation_size(%s::regclass)", [table.as_string(connection)]).fetchone()
        if found is not None and found[0] != size:
            size, since, counted = found[0], time.monotonic(), False
        elif not counted:
            # Counting costs; it is done only when the table has stopped to grow.
            counted = True
            if _count(connection, table) == count:
                return
        else:
            # The last rows may be written and not committed.
            counted = False
            check(since)
        time.sleep(_POLL_SECONDS)


def cost_of(connection: Connection, table: sql.Identifier, meter: Meter, peak_rss_mb: float = 0.0) -> Cost:
    """What it cost to fill a table, metered meanwhile."""
    found = connection.execute(
        sql.SQL(
            """
            with transactions as (
                select pg_xact_commit_timestamp(xmin) as committed_at, count(*) as row_count from {} group by xmin
            ),
            bounds as (
                select min(committed_at) as first_at, max(committed_at) as last_at from transactions
            )
            select
                extract(epoch from first_at)::float8,
                extract(epoch from last_at)::float8,
                sum(row_count) filter (where committed_at > first_at)::float8
            from transactions cross join bounds
            group by first_at, last_at
            """
        ).format(table)
    ).fetchone()
    if found is None or not found[2]:
        raise RuntimeError("All rows came in one transaction: there is nothing to measure.")
    first, last, rows = found
    cpu = {name: seconds * 1e6 / rows for name, seconds in meter.cpu_seconds(first, last).items()}
    return Cost(rows / (last - first), cpu, peak_rss_mb)


def _count(connection: Connection, table: sql.Identifier) -> int:
    found = connection.execute(sql.SQL("select count(*) from {}").format(table)).fetchone()
    return found[0] if found is not None else 0
