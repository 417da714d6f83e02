"""`scopehouse capture`: what an operator does to change capture by hand."""

from __future__ import annotations

from typing import Annotated

import typer


def mount(app: typer.Typer) -> None:
    """Add the commands to `app`."""
    group = typer.Typer(help="Change capture: databases' changes into Kafka.", no_args_is_help=True)
    group.callback()(_group)
    group.command()(snapshot)
    app.add_typer(group, name="capture")


def _group() -> None:
    """Keep the one command under its own name."""


def snapshot(connector: Annotated[str, typer.Argument(help="A connector, as `scopehouse status` names it.")]) -> None:
    """Begin anew with a snapshot of a connector's tables, in place of changes that are lost.

    What is captured already stays. What changed since the last captured change is not told: only how it is now.

    Example: scopehouse capture snapshot adventure
    """
    from ingest.capture.slots import snapshot as begin_anew
    from services.settings import settings

    begin_anew(settings(), connector)
    typer.echo(f"{connector} begins anew with a snapshot of its tables.")
