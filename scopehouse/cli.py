"""The `scopehouse` command: mounts the commands and turns mendable errors into one sentence."""

from __future__ import annotations

import sys

import typer
from rich.console import Console
from rich.markup import escape

from scopehouse.commands import (
    capture,
    climatiq,
    dead_letters,
    demo,
    explain,
    ingest,
    produce,
    roles,
    scopes,
    servers,
    superset,
)
from scopehouse.logs import configure_logs
from services.errors import MendableError
from services.settings import PROJECT_ROOT

app = typer.Typer(
    name="scopehouse",
    help="An analytics warehouse for carbon and energy: Kafka to Postgres exactly once, dbt, Dagster, K-means.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
    rich_markup_mode="rich",
)
demo.mount(app)
servers.mount(app)
produce.mount(app)
ingest.mount(app)
dead_letters.mount(app)
climatiq.mount(app)
explain.mount(app)
roles.mount(app)
scopes.mount(app)
capture.mount(app)
superset.mount(app)


def main() -> None:
    """Run the command; 0 done, 1 an error the user can mend, 2 a wrong call, 130 interrupted."""
    configure_logs()
    try:
        _refuse_without_project()
        app()
    except MendableError as error:
        Console(stderr=True, soft_wrap=True).print(f"[bold red]error:[/] {escape(str(error))}", highlight=False)
        sys.exit(1)
    except KeyboardInterrupt:
        sys.exit(130)


def _refuse_without_project() -> None:
    """A wheel holds the code alone; the dbt project, seeds and dashboards are read where the repository has them."""
    if not (PROJECT_ROOT / "dbt_project").is_dir():
        raise MendableError(
            f"scopehouse runs from its repository, and there is no dbt_project in {PROJECT_ROOT}: clone it, and run"
            " `make setup` there."
        )
