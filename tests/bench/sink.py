"""`make bench-sink`: the sink against Debezium's JDBC sink and against a bare COPY, in one run on one machine.

Starts servers in a state folder of its own and removes it at the end. The last line of standard output is one JSON
object; the sink's section of docs/benchmarks.md is written anew, except by a quick run, which only shows that the
bench works.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from threading import Event

import psycopg
from psycopg import sql

from ingest.contracts.contract import Contract, load_contracts
from ingest.contracts.raw_tables import raw_table
from ingest.database.migrate import migrate
from services.embedded import jars, stack
from services.embedded.connect import Connect
from services.embedded.kafka import Kafka
from services.embedded.postgres import SETTINGS, Postgres
from services.settings import PROJECT_ROOT, Settings, postgres_environment, read_settings
from tests.bench import jdbc_sink, page
from tests.bench.clock import Cost, await_rows, cost_of
from tests.bench.processes import Meter, peak_rss_mb
from tests.bench.topics import FLAT, NESTED, SAMPLE, produce, write_contracts
from tests.integration.conftest import CONNECTIONS, embedded_environment

BENCH = "bench-sink"
RAW_COPY = "raw_copy"
# Of so many runs of each contender the median counts.
REPEATS = 3


@dataclass(frozen=True, slots=True)
class Size:
    """How much a run does."""

    records: int
    sample: int
    choices: tuple[jdbc_sink.Choice, ...]


FULL = Size(
    records=1_000_000,
    sample=200_000,
    choices=tuple(
        jdbc_sink.Choice(tasks, batch_size, unnest)
        for unnest in (False, True)
        for tasks in (1, 2, 4)
        for batch_size in (500, 2_000, 5_000)
    ),
)
QUICK = Size(
    records=100_000, sample=20_000, choices=(jdbc_sink.Choice(1, 5_000, False), jdbc_sink.Choice(1, 5_000, True))
)


@dataclass(frozen=True, slots=True)
class Results:
    """Costs by contender on the flat topic and on the nested one, and the settings that won for the JDBC sink.

    `searched` has for each choice what it cost, or why it failed.
    """

    size: Size
    flat: dict[str, Cost]
    nested: dict[str, Cost]
    searched: dict[jdbc_sink.Mode, dict[jdbc_sink.Choice, Cost | str]]
    chosen: dict[jdbc_sink.Mode, jdbc_sink.Choice]

    def summary(self) -> dict[str, object]:
        """What the last line of the output says."""
        rows = {name: cost.rows_per_s for name, cost in self.flat.items()}
        ours = self.flat["ours"]
        cpu_ratio = ours.cpu_seconds["sink"] / self.flat["jdbc_insert"].cpu_seconds["connect"]
        return {
            "rows_per_s": {name: round(rate) for name, rate in rows.items()},
            "ours_over_jdbc_insert": round(rows["ours"] / rows["jdbc_insert"], 2),
            "ours_over_jdbc_upsert": round(rows["ours"] / rows["jdbc_upsert"], 2),
            "ours_over_raw_copy": round(rows["ours"] / rows[RAW_COPY], 2),
            "cpu_ours_over_jdbc_insert": round(cpu_ratio, 3),
            "sink_peak_rss_mb": round(max(ours.peak_rss_mb, self.nested["ours"].peak_rss_mb)),
        }


def main() -> None:
    """Run the bench."""
    arguments = argparse.ArgumentParser(description=__doc__)
    arguments.add_argument("--quick", action="store_true", help="few records, one setting; writes no page")
    quick = arguments.parse_args().quick
    with tempfile.TemporaryDirectory(prefix="scopehouse-bench-") as folder:
        Path(folder).chmod(0o755)  # Postgres may run as another user
        with _servers(Path(folder)) as settings:
            results = _measure(settings, QUICK if quick else FULL)
    section = _section(results)
    sys.stdout.write(section)
    if not quick:
        page.write_section(BENCH, section)
    sys.stdout.write(json.dumps(results.summary()) + "\n")


@contextmanager
def _servers(folder: Path) -> Iterator[Settings]:
    """Postgres (migrated, with the schema `bench`), Kafka with the bench's topics, the registry."""
    for name in CONNECTIONS:
        os.environ.pop(name, None)
    os.environ.update(embedded_environment(folder / "state"))
    os.environ["SCOPEHOUSE_CONTRACTS_DIR"] = str(folder / "contracts")
    write_contracts(folder / "contracts")
    # Autovacuum comes once a minute: it would fall into one contender's time and not into another's.
    SETTINGS.update(track_commit_timestamp="on", autovacuum="off")
    stack.up(read_settings())
    try:
        settings = read_settings()
        migrate(settings)
        with psycopg.connect(settings.url_of("migrate")) as connection:
            connection.execute("create schema bench")
        yield settings
    finally:
        stack.down(read_settings())


def _measure(settings: Settings, size: Size) -> Results:
    contracts = load_contracts(settings.contracts_dir)
    counts = {SAMPLE: size.sample, FLAT: size.records, NESTED: size.records}
    _say(f"sends {sum(counts.values()):,} records to {', '.join(counts)}")
    with ProcessPoolExecutor(2, get_context("spawn")) as producers:
        list(producers.map(partial(produce, settings), counts.keys(), counts.values()))
    flat: dict[str, Cost] = {}
    searched: dict[jdbc_sink.Mode, dict[jdbc_sink.Choice, Cost | str]] = {"insert": {}, "upsert": {}}
    chosen = {}
    with _connect(settings) as (connect, pids):
        for mode, costs in searched.items():
            for choice in size.choices:
                costs[choice] = _try(connect, pids, size.sample, mode, choice)
            best = chosen[mode] = max(costs, key=lambda choice: _rate(costs[choice]))
            runs = []
            for _ in range(REPEATS):
                _settle(settings)
                runs.append(jdbc_sink.run(connect, pids, FLAT, size.records, mode, best))
            flat[f"jdbc_{mode}"] = _median(f"jdbc_{mode}", runs)
    # Connect is stopped by now: it would cost CPU and memory beside the others.
    nested: dict[str, Cost] = {}
    for topic, costs in ((FLAT, flat), (NESTED, nested)):
        contract = contracts[topic]
        costs["ours"] = _median(f"ours, {topic}", [_run_ours(settings, contract, size.records) for _ in range(REPEATS)])
        costs[RAW_COPY] = _median(f"{RAW_COPY}, {topic}", _run_raw_copies(settings, contract, size.records))
    return Results(size, flat, nested, searched, chosen)


def _try(
    connect: Connect, pids: Mapping[str, int], count: int, mode: jdbc_sink.Mode, choice: jdbc_sink.Choice
) -> Cost | str:
    try:
        found = jdbc_sink.run(connect, pids, SAMPLE, count, mode, choice)
    except jdbc_sink.JdbcSinkError as error:
        _say(f"jdbc_{mode}, {choice}: failed ({error})")
        return str(error)
    _say(f"jdbc_{mode}, {choice}: {found.rows_per_s:,.0f} rows/s on the sample")
    return found


def _rate(cost: Cost | str) -> float:
    return 0.0 if isinstance(cost, str) else cost.rows_per_s


@contextmanager
def _connect(settings: Settings) -> Iterator[tuple[Connect, dict[str, int]]]:
    """A worker with the JDBC sink, and the processes of it, Postgres and the broker."""
    jars.ensure(("connect", *jdbc_sink.PLUGINS), settings.cache_dir)
    password = postgres_environment(settings.url_of("migrate"))["PGPASSWORD"]
    connect = Connect(settings, jdbc_sink.PLUGINS, {jdbc_sink.PASSWORD_VARIABLE: password})
    connect.start(Event())
    try:
        process = connect.process()
        assert process is not None
        yield connect, {"connect": process.pid, **_pids(settings)}
    finally:
        connect.stop()


def _run_ours(settings: Settings, contract: Contract, count: int) -> Cost:
    """`scopehouse ingest run` with the topic's raw table empty, until it has landed all."""
    table = raw_table(contract)
    command = [sys.executable, "-m", "scopehouse", "ingest", "run", contract.topic]
    with psycopg.connect(settings.url_of("migrate"), autocommit=True) as connection:
        connection.execute(sql.SQL("truncate {}").format(table))
        connection.execute("delete from ingest.offsets where topic = %s", [contract.topic])
        _settle(settings)
        with subprocess.Popen(command, cwd=PROJECT_ROOT) as sink:
            try:
                with Meter({"sink": sink.pid, **_pids(settings)}) as meter:
                    await_rows(connection, table, count, lambda _: _raise_if_ended(sink))
                return cost_of(connection, table, meter, peak_rss_mb(sink.pid))
            finally:
                sink.terminate()


def _raise_if_ended(sink: subprocess.Popen[bytes]) -> None:
    if sink.poll() is not None:
        raise RuntimeError(f"The sink ended with {sink.returncode}.")


def _run_raw_copies(settings: Settings, contract: Contract, count: int) -> list[Cost]:
    """COPY the rows that ours has just landed, encoded beforehand, in its batches, into a table like its own."""
    table = sql.Identifier("bench", "raw_copy")
    with psycopg.connect(settings.url_of("migrate"), autocommit=True) as connection:
        source = raw_table(contract).as_string(connection)
        names = connection.execute(f"select * from {source} limit 0").description or []
        columns = ", ".join(f'"{column.name}"' for column in names if column.name != "_ingested_at")
        # Rows of one table come in the order in which they were written.
        connection.execute("set synchronize_seqscans = off")
        batches = [
            _encoded(connection, f"select {columns} from {source} offset {start} limit {settings.batch_rows}")
            for start in range(0, count, settings.batch_rows)
        ]
        costs = []
        for _ in range(REPEATS):
            connection.execute(f"create table bench.raw_copy (like {source} including defaults including indexes)")
            _settle(settings)
            with Meter({"copy": os.getpid(), **_pids(settings)}) as meter:
                for chunks in batches:
                    with connection.cursor().copy(f"copy bench.raw_copy ({columns}) from stdin (format binary)") as out:
                        for chunk in chunks:
                            out.write(chunk)
            costs.append(cost_of(connection, table, meter))
            connection.execute("drop table bench.raw_copy")
    return costs


def _encoded(connection: psycopg.Connection, query: str) -> list[bytes]:
    """A query's rows in Postgres' binary COPY format, in chunks of a megabyte."""
    with connection.cursor().copy(f"copy ({query}) to stdout (format binary)") as copy:
        whole = b"".join(bytes(part) for part in copy)
    return [whole[start : start + 1_000_000] for start in range(0, len(whole), 1_000_000)]


def _settle(settings: Settings) -> None:
    """A checkpoint now, so that none of an earlier run falls into the next one."""
    with Postgres(settings).connect("postgres") as connection:
        connection.execute("checkpoint")


def _pids(settings: Settings) -> dict[str, int]:
    processes = {"postgres": Postgres(settings).process(), "broker": Kafka(settings).process()}
    return {name: process.pid for name, process in processes.items() if process is not None}


def _median(name: str, costs: list[Cost]) -> Cost:
    middle = sorted(costs, key=lambda each: each.rows_per_s)[len(costs) // 2]
    cpu = ", ".join(f"{process} {seconds:.2f}" for process, seconds in middle.cpu_seconds.items())
    rates = ", ".join(f"{each.rows_per_s:,.0f}" for each in costs)
    _say(f"{name}: {rates} rows/s; CPU s a million: {cpu}; peak {middle.peak_rss_mb:.0f} MB")
    return middle


def _section(results: Results) -> str:
    """The page's section on the sink."""
    summary = results.summary()
    size = results.size
    lines = [
        f"{page.machine()}, Kafka and Connect {jars.version_of('kafka')}, Debezium's JDBC sink "
        f"{jars.version_of('jdbc-sink')}. Command: `make bench-sink`. Everything runs on the same machine.",
        "",
        f"### {size.records:,} Avro records of 6 flat columns, 4 partitions",
        "",
        *_table(results.flat),
        "",
        f"### {size.records:,} nested `tracking_events`, 4 partitions",
        "",
        *_table(results.nested),
        "",
        "The JDBC sink is not in the second table: it has no column for an array of records.",
        "",
        "### Ratios",
        "",
        "| | wanted | measured |",
        "|---|---|---|",
        f"| ours over JDBC insert, rows a second | at least 4 | {summary['ours_over_jdbc_insert']} |",
        f"| ours over JDBC upsert, rows a second | at least 6 | {summary['ours_over_jdbc_upsert']} |",
        f"| ours over bare COPY, rows a second | at least 0.4 | {summary['ours_over_raw_copy']} |",
        f"| ours over JDBC insert, CPU a row (sink and Connect) | at most 0.25 | "
        f"{summary['cpu_ours_over_jdbc_insert']} |",
        f"| peak memory of the sink, MB | at most 400 | {summary['sink_peak_rss_mb']} |",
        "",
        "### The JDBC sink's settings",
        "",
        f"Searched on {size.sample:,} records, rows a second:",
        "",
        "| tasks | batch size | unnest | insert | upsert |",
        "|---|---|---|---|---|",
    ]
    for choice, insert in results.searched["insert"].items():
        rates = [
            f"{_rate(cost):,.0f}" if _rate(cost) else "fails" for cost in (insert, results.searched["upsert"][choice])
        ]
        lines.append(
            f"| {choice.tasks} | {choice.batch_size} | {'yes' if choice.unnest else 'no'} | {' | '.join(rates)} |"
        )
    failures = {cost for costs in results.searched.values() for cost in costs.values() if isinstance(cost, str)}
    lines += ["", *(f"Where it fails: `{failure}`" for failure in sorted(failures))]
    for mode, choice in results.chosen.items():
        lines += ["", f"Chosen for {mode} (`reWriteBatchedInserts=true` in the URL besides):", "", "```properties"]
        lines += [f"{name}={value}" for name, value in jdbc_sink.connector_settings(FLAT, mode, choice).items()]
        lines.append("```")
    return page.section(BENCH, lines)


def _table(costs: dict[str, Cost]) -> list[str]:
    names = {
        "jdbc_insert": "JDBC sink, insert without key (at least once)",
        "jdbc_upsert": "JDBC sink, upsert by Kafka coordinates",
        "ours": "ours (exactly once)",
        RAW_COPY: "bare COPY of rows encoded beforehand",
    }
    lines = [
        "| | rows/s | CPU s a million rows: itself | Postgres | broker | peak memory, MB |",
        "|---|---|---|---|---|---|",
    ]
    for name, cost in costs.items():
        itself = next(seconds for process, seconds in cost.cpu_seconds.items() if process not in ("postgres", "broker"))
        lines.append(
            f"| {names[name]} | {cost.rows_per_s:,.0f} | {itself:.1f} | {cost.cpu_seconds['postgres']:.1f} "
            f"| {cost.cpu_seconds['broker']:.1f} | {f'{cost.peak_rss_mb:.0f}' if cost.peak_rss_mb else ''} |"
        )
    return lines


def _say(text: str) -> None:
    sys.stderr.write(f"{time.strftime('%H:%M:%S')} {text}\n")


if __name__ == "__main__":
    main()
