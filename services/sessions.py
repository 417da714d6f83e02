"""A command's session on the warehouse's Postgres: one that can't be had is a sentence, not a traceback."""

from __future__ import annotations

from collections.abc import Callable

import psycopg

from services.errors import MendableError
from services.settings import Role, Settings


def open_session(
    settings: Settings, role: Role, connect: Callable[[Settings], psycopg.Connection] | None = None
) -> psycopg.Connection:
    """A session as `role`, opened by `connect` where it is no plain one.

    Raises:
        MendableError: there is none; the sentence names the server, without the password, and the setting.
    """
    try:
        if connect is not None:
            return connect(settings)
        return psycopg.connect(settings.url_of(role), connect_timeout=10)
    except psycopg.OperationalError as error:
        # The first line tells host and port; hints follow, and every further address that was tried.
        reason = str(error).strip().partition("\n")[0]
        raise MendableError(
            f"Postgres can't be reached ({reason}): start it (`scopehouse up` starts the embedded one), or correct "
            f"{_variable(settings, role)}."
        ) from error
    except psycopg.ProgrammingError:
        # Its text quotes the URL, and so the password.
        raise MendableError(
            f"{_variable(settings, role)} can't be read: write it as postgresql://user:password@host:port/database."
        ) from None


def _variable(settings: Settings, role: Role) -> str:
    """The variable that the role's URL comes from."""
    field = f"{role}_database_url"
    own = role != "transform" and getattr(settings, field) is not None
    return str(Settings.model_fields[field].alias) if own else "DATABASE_URL"
