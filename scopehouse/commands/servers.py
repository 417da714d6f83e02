"""`scopehouse up`, `down`, `status`, `env`, `ui`: the embedded servers, and how to reach them."""

from __future__ import annotations

import json
import os
import shlex
import socket
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from threading import Lock
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn
from rich.table import Table

from services.errors import MendableError
from services.settings import PROJECT_ROOT, postgres_environment, read_settings, settings

if TYPE_CHECKING:
    from ingest.capture.status import CaptureStatus
    from scopehouse.sink_status import Status
    from services.embedded.progress import Report

COLOURS = {"running": "green", "stopped": "dim", "died": "bold red", "failed": "bold red", "lost": "bold red"}
PARTITION_COLOURS = {"landing": "green", "idle": "green", "no sink": "dim", "died": "bold red", "stopped": "bold red"}


def mount(app: typer.Typer) -> None:
    """Add the commands to `app`."""
    for command in (up, down, status, env, ui):
        app.command(rich_help_panel="Servers")(command)


def up(
    also: Annotated[str, typer.Option("--with", metavar="NAMES", help="Others to start: connect, superset.")] = "",
) -> None:
    """Start the embedded servers: Postgres, Kafka, schema registry.

    Healthy when it returns; what runs already is left alone, what died is started again.

    The first time, some 200 MB of jars are fetched into a cache (SCOPEHOUSE_CACHE_DIR).

    Data, logs and passwords live in .scopehouse (SCOPEHOUSE_STATE_DIR).

    --with takes several names, parted by commas.

    Examples: scopehouse up && eval "$(scopehouse env)" && psql    scopehouse up --with connect,superset
    """
    from services.embedded import stack

    names = [name for name in also.split(",") if name]
    for name in names:
        if name not in stack.OPTIONAL:
            raise typer.BadParameter(f"{name} is none of {', '.join(stack.OPTIONAL)}.", param_hint="--with")
    with shown_progress() as report:
        stack.up(settings(), report, more=names)


def down() -> None:
    """Stop the embedded servers; their data stays.

    Example: scopehouse down
    """
    from services.embedded import stack

    with shown_progress() as report:
        stack.down(settings(), report)


def status(
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object and nothing else.")] = False,
) -> None:
    """Show which of the embedded servers run, how change capture does, and the sink: what landed, is left, is wrong.

    Example: scopehouse status --json | jq '.servers[] | select(.state != "running")'
    """
    from ingest.capture.status import capture_status
    from scopehouse.sink_status import sink_status
    from services.embedded import stack

    servers = stack.status(settings())
    captures = capture_status(settings())
    sink = sink_status(settings())
    if as_json:
        rows = [{**asdict(server), "since": _utc(server.since), "log": str(server.log)} for server in servers]
        capture = [asdict(each) for each in captures]
        typer.echo(json.dumps({"servers": rows, "capture": capture, **_with_utc(asdict(sink))}))
        return
    table = Table("server", "state", "pid", "port", "since", "version", "log", box=None, pad_edge=False)
    for server in servers:
        table.add_row(
            server.name,
            f"[{COLOURS[server.state]}]{server.state}[/]",
            str(server.pid or ""),
            str(server.port),
            _utc(server.since) or "",
            server.version,
            min(str(server.log), os.path.relpath(server.log), key=len),
        )
    console = Console(width=None if sys.stdout.isatty() else 200, highlight=False)
    console.print(table)
    _print_capture(console, captures)
    _print_sink(console, sink)


def _print_capture(console: Console, captures: list[CaptureStatus]) -> None:
    """The connectors, each with its slot, and what is wrong with them."""
    if not captures:
        return
    table = Table("connector", "state", "slot", "wal", "lag", "kept", "left", box=None, pad_edge=False)
    for each in captures:
        slot = each.slot
        sizes = (slot.lag_bytes, slot.retained_bytes, slot.left_bytes) if slot else (None, None, None)
        colour = COLOURS.get(each.state or "", "yellow")
        table.add_row(
            each.connector,
            f"[{colour}]{each.state or '?'}[/]",
            slot.name if slot else "?",
            slot.wal_status if slot else "?",
            *("?" if size is None else f"{size / 1e6:,.1f} MB" for size in sizes),
        )
    console.print()
    console.print(table)
    for each in captures:
        if each.why:
            console.print(f"[yellow]{escape(each.why)}[/]")


def _print_sink(console: Console, status: Status) -> None:
    """The sinks, the partitions, and what could not be learnt."""
    if status.sinks:
        table = Table("sink", "state", "group", "since", "last error", box=None, pad_edge=False)
        for sink in status.sinks:
            state = f"waiting for {sink.waiting_for}" if sink.state == "waiting" else sink.state
            error = f"{sink.last_error} ({_utc(sink.last_error_at)})" if sink.last_error else ""
            colour = COLOURS.get(sink.state, "yellow")
            table.add_row(
                f"pid {sink.pid}", f"[{colour}]{state}[/]", escape(sink.group), _utc(sink.started_at), escape(error)
            )
        console.print()
        console.print(table)
    if status.partitions:
        headings = ("topic", "partition", "state", "next offset", "end", "lag", "dead letters", "rows/s", "landed")
        table = Table(*headings, box=None, pad_edge=False)
        for column in table.columns[3:8]:
            column.justify = "right"
        for each in status.partitions:
            counts = (each.next_offset, each.end, each.lag, each.dead_letters)
            table.add_row(
                escape(each.topic),
                str(each.partition),
                f"[{PARTITION_COLOURS.get(each.state, 'yellow')}]{each.state}[/]",
                *("?" if count is None else f"{count:,}" for count in counts),
                f"{each.rows_per_s:,.0f}",
                _utc(each.landed_at) or "",
            )
        console.print()
        console.print(table)
    for why in dict.fromkeys(f"{each.topic}[{each.partition}]: {each.why}" for each in status.partitions if each.why):
        console.print(f"[yellow]{escape(why)}[/]")
    for problem in status.problems:
        console.print(f"[yellow]{escape(problem)}[/]")


def env() -> None:
    """Print the connection settings as shell exports, for dbt, psql, dagster and scripts of your own.

    Example: eval "$(scopehouse env)" && dbt test
    """
    for name, value in connection_environment().items():
        typer.echo(f"export {name}={shlex.quote(value)}")
    typer.echo(f'export PATH={shlex.quote(_programs())}:"$PATH"')


def _programs() -> str:
    """The folders of dbt, dagster and scopehouse, and of psql, as PATH has them."""
    from services.embedded.postgres import programs

    return os.pathsep.join(map(str, (Path(sys.executable).parent, programs())))


def ui(
    port: Annotated[int, typer.Option(help="The port on 127.0.0.1.", min=1, max=65535)] = 3000,
) -> None:
    """Open the Dagster UI on the running servers; Ctrl-C ends it.

    Example: scopehouse ui --port 3001
    """
    _refuse_taken_port(port)
    environment = {**os.environ, **connection_environment()}
    # Dagster would have `dg dev` instead, which needs a package of its own.
    quietly = ("-W", "ignore:Function `dev_command` is superseded:FutureWarning")
    dagster = ("-m", "dagster", "dev", "-m", "dagster_pipelines.definitions", "-h", "127.0.0.1", "-p", str(port))
    os.chdir(PROJECT_ROOT)
    os.execve(sys.executable, (sys.executable, *quietly, *dagster), environment)  # noqa: S606 - no shell is wanted


def _refuse_taken_port(port: int) -> None:
    """Dagster would load for long before its web server tells."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError as error:
            raise MendableError(
                f"Port {port} can't be used ({error.strerror}): stop what uses it, or give a free one by --port."
            ) from None


def connection_environment() -> dict[str, str]:
    """The variables by which dbt, psql, dagster and scripts reach the servers; Dagster's folder is made.

    Raises:
        SettingsError: no servers are set.
    """
    now = read_settings()
    dagster_home = now.state_dir.resolve() / "dagster"
    dagster_home.mkdir(parents=True, exist_ok=True)
    url = now.url_of("transform")
    dbt_project = str(PROJECT_ROOT / "dbt_project")
    return {
        "DATABASE_URL": url,
        **postgres_environment(url),
        "KAFKA_BOOTSTRAP_SERVERS": now.bootstrap_servers,
        "SCHEMA_REGISTRY_URL": now.registry_url,
        "DBT_PROJECT_DIR": dbt_project,
        "DBT_PROFILES_DIR": dbt_project,
        "DBT_SEND_ANONYMOUS_USAGE_STATS": "false",
        "DAGSTER_HOME": str(dagster_home),
        "DAGSTER_DISABLE_TELEMETRY": "yes",
    }


@contextmanager
def shown_progress() -> Iterator[Report]:
    """Show on standard error what the servers do: a line a task, live on a terminal."""
    console = Console(stderr=True)
    guard = Lock()
    if not console.is_terminal:
        last: dict[str, str] = {}

        def write(task: str, doing: str, fraction: float | None = None) -> None:
            part_way = fraction is not None and 0 < fraction < 1
            with guard:
                if not part_way and last.get(task) != doing:
                    last[task] = doing
                    typer.echo(f"{task}: {doing}", err=True)

        yield write
        return

    columns = SpinnerColumn(finished_text="✓"), TextColumn("{task.fields[name]:<9}"), BarColumn(20)
    with Progress(*columns, TextColumn("{task.description}"), TimeElapsedColumn(), console=console) as live:
        tasks: dict[str, int] = {}

        def draw(task: str, doing: str, fraction: float | None = None) -> None:
            with guard:
                if task not in tasks:
                    tasks[task] = live.add_task(doing, total=None, name=task)
                total = None if fraction is None else 1.0
                live.update(tasks[task], description=doing, completed=fraction or 0, total=total)  # type: ignore[arg-type]

        yield draw


def _with_utc(tree: Any) -> Any:
    """The same with every time, a number under a name that ends in `_at`, written out."""
    if isinstance(tree, list):
        return [_with_utc(item) for item in tree]
    if isinstance(tree, dict):
        return {name: _utc(value) if name.endswith("_at") else _with_utc(value) for name, value in tree.items()}
    return tree


def _utc(since: float | None) -> str | None:
    return None if since is None else datetime.fromtimestamp(since, UTC).isoformat(timespec="seconds")
