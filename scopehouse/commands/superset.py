"""`scopehouse superset ...`: how to sign in, and its dashboards from git and back."""

from __future__ import annotations

import json
from typing import Annotated

import typer

from services.settings import settings


def mount(app: typer.Typer) -> None:
    """Add the commands to `app`."""
    group = typer.Typer(no_args_is_help=True, help="Dashboards: sign in, import from git, export to it.")
    for command in (login, import_, export):
        group.command(name=command.__name__.rstrip("_"))(command)
    app.add_typer(group, name="superset", rich_help_panel="Servers")


def login(
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object and nothing else.")] = False,
) -> None:
    """Print Superset's address, and the administrator's name and password.

    Example: scopehouse superset login
    """
    from services.embedded import passwords
    from services.embedded.superset import Superset

    state_dir = settings().state_dir
    if not (state_dir / "superset").exists():
        from services.errors import MendableError

        raise MendableError("Superset was never started here: run `scopehouse up --with superset`.")
    values = {
        "address": Superset(settings()).url,
        "user": "admin",
        "password": passwords.read(state_dir)["superset_admin"],
    }
    if as_json:
        typer.echo(json.dumps(values))
        return
    for name, value in values.items():
        typer.echo(f"{name:<9} {value}")


def import_() -> None:
    """Make Superset's dashboards equal the files in services/superset/assets.

    What users made themselves stays; a chart that was taken out of git goes.

    Example: scopehouse superset import
    """
    from services.embedded.superset import Superset

    Superset(settings()).import_files()
    typer.echo("imported services/superset/assets", err=True)


def export() -> None:
    """Write Superset's certified dashboards to the files in services/superset/assets.

    Example: scopehouse superset export && git diff services/superset
    """
    from services.embedded.superset import Superset

    Superset(settings()).export_files()
    typer.echo("exported to services/superset/assets", err=True)
