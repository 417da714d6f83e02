"""Readers of some customers' rows: one Postgres login a data scope, and which customers are in it.

Superset's connection mutator picks the login by the reader's role; the policies on marts (dbt's macro
keep_scopes_apart) go by the login. A scope's password is a file of its login's name in `folder`, which Superset reads.
"""

from __future__ import annotations

import re
import secrets
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import psycopg
from psycopg import sql
from psycopg.errors import InsufficientPrivilege, InvalidSchemaName, UndefinedObject, UndefinedTable

from services.embedded.passwords import write_private
from services.errors import MendableError
from services.roles import SCOPED
from services.settings import Settings

Range = tuple[int, int]

_PREFIX = "scopehouse_bi_"


class ScopeError(MendableError):
    """A scope can't be made; the sentence says why and what to do."""


def folder(settings: Settings) -> Path:
    """Where the scopes' passwords lie."""
    return settings.scopes_dir or settings.state_dir / "scopes"


def login_of(scope: str) -> str:
    """The scope's login. Raises ScopeError where the name is none."""
    if not re.fullmatch(r"[a-z][a-z0-9_]{0,39}", scope):
        raise ScopeError(f"A scope can't be called {scope!r}: use up to 40 small letters, digits and underscores.")
    return f"{_PREFIX}{scope}"


def read_ranges(text: str) -> list[Range]:
    """Customers as they are typed, `1-500,700`: first and last of each range. Raises ScopeError."""
    ranges = []
    for part in text.split(","):
        found = re.fullmatch(r"\s*(\d{1,18})(?:-(\d{1,18}))?\s*", part)
        first, last = (int(found[1]), int(found[2] or found[1])) if found else (1, 0)
        if first > last:
            raise ScopeError(f"Customers can't be read from {text!r}: write them as 1-500,700.")
        ranges.append((first, last))
    return ranges


def add(settings: Settings, scope: str, ranges: Sequence[Range]) -> str:
    """Make the scope's login, or bring it up to date, with these customers and no others.

    Returns:
        The login.

    Raises:
        ScopeError: Postgres can't be reached, or has no group of such logins yet.
    """
    login = login_of(scope)
    file = folder(settings) / login
    if not file.exists():
        write_private(file, secrets.token_urlsafe(24) + "\n")
    name = sql.Identifier(login)
    with _owner(settings) as connection:
        known = connection.execute("select from pg_roles where rolname = %s", [login]).fetchone() is not None
        # Postgres gets a verifier: a password in a statement could end in its log.
        verifier = connection.pgconn.encrypt_password(file.read_bytes().strip(), login.encode(), b"scram-sha-256")
        connection.execute(
            sql.SQL("{} role {} login password {}").format(
                sql.SQL("alter" if known else "create"), name, sql.Literal(verifier.decode())
            )
        )
        # Has the group's rights and can't be the group.
        connection.execute(sql.SQL("grant {} to {} with inherit true, set false").format(sql.Identifier(SCOPED), name))
        connection.execute(sql.SQL("alter role {} set default_transaction_read_only = on").format(name))
        connection.execute(sql.SQL("alter role {} set statement_timeout = '30s'").format(name))
        connection.execute("delete from access.scopes where login = %s", [login])
        connection.cursor().executemany(
            "insert into access.scopes values (%s, %s, %s)", [(login, first, last) for first, last in ranges]
        )
    return login


def remove(settings: Settings, scope: str) -> None:
    """Remove the scope's login, customers and password; who has its role in Superset reads nothing then.

    Raises:
        ScopeError: Postgres can't be reached, or there is nothing of such a scope.
    """
    login = login_of(scope)
    file = folder(settings) / login
    was_there = file.exists()
    file.unlink(missing_ok=True)
    with _owner(settings) as connection:
        connection.execute("delete from access.scopes where login = %s", [login])
        known = connection.execute("select from pg_roles where rolname = %s", [login]).fetchone() is not None
        connection.execute(sql.SQL("drop role if exists {}").format(sql.Identifier(login)))
        logins = connection.execute("select distinct login from access.scopes order by login").fetchall()
    if not (was_there or known):
        others = [other.removeprefix(_PREFIX) for (other,) in logins]
        raise ScopeError(
            f"There is no scope {scope}: the scopes are {', '.join(others)}."
            if others
            else f"There is no scope {scope}, nor any other."
        )


@contextmanager
def _owner(settings: Settings) -> Iterator[psycopg.Connection]:
    """A transaction of the warehouse's owner."""
    try:
        with psycopg.connect(settings.url_of("migrate"), application_name="scopehouse scopes") as connection:
            yield connection
    except (UndefinedObject, UndefinedTable, InvalidSchemaName) as error:
        raise ScopeError(
            f"The warehouse knows no scopes yet ({error.diag.message_primary}): run `scopehouse up` (or, for a "
            "Postgres of your own, `scopehouse roles`), then `scopehouse migrate`."
        ) from error
    except InsufficientPrivilege as error:
        raise ScopeError(
            f"The owner of the warehouse may not do that ({error.diag.message_primary}): run `scopehouse roles`, or "
            "remove a login of that name that somebody else made."
        ) from error
    except psycopg.OperationalError as error:
        raise ScopeError(f"Postgres can't be reached ({str(error).strip()}): is it running?") from error
