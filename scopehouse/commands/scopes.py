"""`scopehouse scopes ...`: readers who see the rows of some customers only."""

from __future__ import annotations

from typing import Annotated

import typer

from services.settings import settings

Name = Annotated[str, typer.Argument(help="The scope, in small letters.")]


def mount(app: typer.Typer) -> None:
    """Add the commands to `app`."""
    group = typer.Typer(no_args_is_help=True, help="Data scopes: readers who see the rows of some customers only.")
    for command in (add, remove):
        group.command()(command)
    app.add_typer(group, name="scopes")


def add(
    name: Name, customers: Annotated[str, typer.Option(help="Ranges of customers: all that the scope has.")]
) -> None:
    """Make a scope's Postgres login and Superset role, or give it other customers.

    Who has the role `Scope NAME` in Superset reads as that login.

    Example: scopehouse scopes add north --customers 1-500,700
    """
    from services import scopes
    from services.embedded.superset import Superset

    login = scopes.add(settings(), name, scopes.read_ranges(customers))
    superset = Superset(settings())
    if superset.folder.exists():
        superset.make_scope_role(name)
        typer.echo(f"{login} reads them; in Superset, whoever you give the role `Scope {name}`")
    else:
        typer.echo(f"{login} reads them")


def remove(name: Name) -> None:
    """Remove a scope's login, customers and password. Who still has its role in Superset reads nothing.

    Example: scopehouse scopes remove north
    """
    from services import scopes

    scopes.remove(settings(), name)
    typer.echo(f"removed {name}")
