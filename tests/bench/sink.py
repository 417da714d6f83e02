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
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from threading import Event

import psycopg

from ingest.contracts.contract import Contract, load_contracts
from ingest.contracts.raw_tables import raw_table
from ingest.database.migrate import migrate
from services.embedded import jars, stack
from services.embedded.connect import Connect
from services.embedded.kafka import Kafka
from services.embedded.postgres import Postgres
from services.settings import PROJECT_ROOT, Settings, postgres_environment, read_settings
from tests.bench import jdbc_sink, page
from tests.bench.processes import Cost, Meter
from tests.bench.topics import FLAT, NESTED, SAMPLE, produce, write_contracts
from tests.integration.conftest import CONNECTIONS, embedded_environment

BENCH = "bench-sink"
RAW_COPY = "raw_copy"
# Ours and the bare COPY take seconds: the median of so many runs.
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
    for topic, count in ((SAMPLE, size.sample), (FLAT, size.records), (NESTED, size.records)):
        _say(f"sends {count:,} records to {topic}")
        produce(settings, topic, count)
    flat: dict[str, Cost] = {}
    searched: dict[jdbc_sink.Mode, dict[jdbc_sink.Choice, Cost | str]] = {"insert": {}, "upsert": {}}
    chosen = {}
    with _connect(settings) as (connect, meter):
        for mode, costs in searched.items():
            for choice in size.choices:
                costs[choice] = _try(connect, meter, size.sample, mode, choice)
            chosen[mode] = max(costs, key=lambda choice: _rate(costs[choice]))
            flat[f"jdbc_{mode}"] = jdbc_sink.run(connect, meter, FLAT, size.records, mode, chosen[mode])
            _tell(f"jdbc_{mode}", flat[f"jdbc_{mode}"])
    # Connect is stopped by now: it would cost CPU and memory beside the others.
    nested: dict[str, Cost] = {}
    for topic, costs in ((FLAT, flat), (NESTED, nested)):
        costs["ours"] = _median([_run_ours(settings, contracts[topic], size.records) for _ in range(REPEATS)])
        _tell(f"ours, {topic}", costs["ours"])
        costs[RAW_COPY] = _run_raw_copy(settings, contracts[topic], size.records)
        _tell(f"{RAW_COPY}, {topic}", costs[RAW_COPY])
    return Results(size, flat, nested, searched, chosen)


def _try(connect: Connect, meter: Meter, count: int, mode: jdbc_sink.Mode, choice: jdbc_sink.Choice) -> Cost | str:
    try:
        cost = jdbc_sink.run(connect, meter, SAMPLE, count, mode, choice)
    except jdbc_sink.JdbcSinkError as error:
        _say(f"jdbc_{mode}, {choice}: failed ({error})")
        return str(error)
    _say(f"jdbc_{mode}, {choice}: {cost.rows_per_s:,.0f} rows/s on the sample")
    return cost


def _rate(cost: Cost | str) -> float:
    return 0.0 if isinstance(cost, str) else cost.rows_per_s


@contextmanager
def _connect(settings: Settings) -> Iterator[tuple[Connect, Meter]]:
    """A worker with the JDBC sink, and a meter of it, Postgres and the broker."""
    jars.ensure(("connect", *jdbc_sink.PLUGINS), settings.cache_dir)
    password = postgres_environment(settings.url_of("migrate"))["PGPASSWORD"]
    connect = Connect(settings, jdbc_sink.PLUGINS, {jdbc_sink.PASSWORD_VARIABLE: password})
    connect.start(Event())
    try:
        process = connect.process()
        assert process is not None
        yield connect, Meter({"connect": process.pid, **_pids(settings)})
    finally:
        connect.stop()


def _run_ours(settings: Settings, contract: Contract, count: int) -> Cost:
    """Drain the topic into its emptied raw table, in a process of its own."""
    with psycopg.connect(settings.url_of("migrate"), autocommit=True) as connection:
        connection.execute(f"truncate {raw_table(contract).as_string(connection)}")
        connection.execute("delete from ingest.offsets where topic = %s", [contract.topic])
        _settle(settings)
        meter = Meter(_pids(settings))
        command = [sys.executable, "-m", "tests.bench.drain_once", contract.topic]
        ended = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True, cwd=PROJECT_ROOT)
        cpu = meter.read().cpu_seconds
        found = connection.execute(f"select count(*) from {raw_table(contract).as_string(connection)}").fetchone()
    own = json.loads(ended.stdout)
    if own["rows"] != count or found != (count,):
        raise RuntimeError(f"{count} records were sent, {own['rows']} rows were reported and {found} are there.")
    millions = count / 1e6
    cpu_seconds = {"sink": own["cpu_seconds"], **cpu}
    return Cost(
        rows_per_s=count / own["seconds"],
        cpu_seconds={name: seconds / millions for name, seconds in cpu_seconds.items()},
        peak_rss_mb=own["peak_rss_mb"],
    )


def _run_raw_copy(settings: Settings, contract: Contract, count: int) -> Cost:
    """COPY the rows that ours has just landed, encoded beforehand, in its batches, into a table like its own."""
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
            connection.execute("drop table if exists bench.raw_copy")
            connection.execute(f"create table bench.raw_copy (like {source} including defaults including indexes)")
            _settle(settings)
            meter = Meter({"copy": os.getpid(), **_pids(settings)})
            for chunks in batches:
                with connection.cursor().copy(f"copy bench.raw_copy ({columns}) from stdin (format binary)") as copy:
                    for chunk in chunks:
                        copy.write(chunk)
            costs.append(meter.read().cost(count, 0.0))
    return _median(costs)


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


def _median(costs: list[Cost]) -> Cost:
    return sorted(costs, key=lambda cost: cost.rows_per_s)[len(costs) // 2]


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


def _tell(name: str, cost: Cost) -> None:
    cpu = ", ".join(f"{process} {seconds:.2f}" for process, seconds in cost.cpu_seconds.items())
    _say(f"{name}: {cost.rows_per_s:,.0f} rows/s; CPU s a million: {cpu}; peak {cost.peak_rss_mb:.0f} MB")


def _say(text: str) -> None:
    sys.stderr.write(f"{time.strftime('%H:%M:%S')} {text}\n")


if __name__ == "__main__":
    main()
