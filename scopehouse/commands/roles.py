"""`scopehouse roles`: who logs in to a Postgres of one's own."""

from __future__ import annotations

import typer

from services.settings import settings


def mount(app: typer.Typer) -> None:
    """Add the command to `app`."""
    app.command()(roles)


def roles() -> None:
    """Make the roles and databases on a Postgres of your own, as its administrator; safe to repeat.

    Logs in by SCOPEHOUSE_ADMIN_DATABASE_URL. Each role that has a file of its name in SCOPEHOUSE_SECRETS_DIR is made,
    with the password in it. The embedded Postgres needs none of this.

    Example: SCOPEHOUSE_SECRETS_DIR=secrets scopehouse roles && scopehouse migrate
    """
    from services.roles import make_roles_of_files

    for role in make_roles_of_files(settings()):
        typer.echo(role)
