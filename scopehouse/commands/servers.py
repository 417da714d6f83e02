"""`scopehouse up`, `down`, `status`, `env`, `ui`: the embedded servers, and how to reach them."""

from __future__ import annotations

import json
import os
import shlex
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from threading import Lock
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.progress import BarColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn
from rich.table import Table

from services.settings import PROJECT_ROOT, postgres_environment, read_settings, settings

if TYPE_CHECKING:
    from services.embedded.progress import Report

COLOURS = {"running": "green", "stopped": "dim", "died": "bold red"}


def mount(app: typer.Typer) -> None:
    """Add the commands to `app`."""
    for command in (up, down, status, env, ui):
        app.command(rich_help_panel="Servers")(command)


def up() -> None:
    """Start the embedded servers: Postgres, Kafka, schema registry.

    Healthy when it returns; what runs already is left alone, what died is started again.

    The first time, some 200 MB of jars are fetched into a cache (SCOPEHOUSE_CACHE_DIR).

    Data, logs and passwords live in .scopehouse (SCOPEHOUSE_STATE_DIR).

    Example: scopehouse up && eval "$(scopehouse env)" && psql
    """
    from services.embedded import stack

    with shown_progress() as report:
        stack.up(settings(), report)


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
    """Show which of the embedded servers run.

    Example: scopehouse status --json | jq '.servers[] | select(.state != "running")'
    """
    from services.embedded import stack

    servers = stack.status(settings())
    if as_json:
        rows = [{**asdict(server), "since": _utc(server.since), "log": str(server.log)} for server in servers]
        typer.echo(json.dumps({"servers": rows}))
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
    Console(width=None if sys.stdout.isatty() else 200).print(table)


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
    environment = {**os.environ, **connection_environment()}
    words = ("-m", "dagster", "dev", "-m", "dagster_pipelines.definitions", "-h", "127.0.0.1", "-p", str(port))
    os.chdir(PROJECT_ROOT)
    os.execve(sys.executable, (sys.executable, *words), environment)  # noqa: S606 - no shell is wanted


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


def _utc(since: float | None) -> str | None:
    return None if since is None else datetime.fromtimestamp(since, UTC).isoformat(timespec="seconds")
