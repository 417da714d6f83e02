"""Who logs in to Postgres, and the databases: made by an administrator, once, for `scopehouse migrate` to go on from.

Grants on schemas and tables are the migration's: it owns them.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import psycopg
from psycopg import sql
from psycopg.errors import InsufficientPrivilege

from services.errors import MendableError
from services.settings import Settings

DATABASE = "scopehouse"

# What each role may be.
ROLES = {
    "scopehouse_migrate": "login createrole",
    "scopehouse_ingest": "login",
    "scopehouse_transform": "login",
    "scopehouse_cdc": "login replication",
    "scopehouse_bi": "login",
    # The e-bike company's own login: a source, which owns nothing of ours.
    "adventure": "login",
    "registry": "login",
    "dagster": "login",
    "superset": "login",
}
# Every login that reads the rows of some customers only is a member (services.scopes makes them): policies and grants
# are this group's.
SCOPED = "scopehouse_scoped"
# Each database's owner. The warehouse is open to every scopehouse_* role, the company's to change capture, the others
# to their owner alone.
DATABASES = {
    DATABASE: "scopehouse_migrate",
    "adventure": "adventure",
    "registry": "registry",
    "dagster": "dagster",
    "superset": "superset",
}


def make_roles(connection: psycopg.Connection, passwords: Mapping[str, str]) -> list[str]:
    """Make the roles that have a password, and their databases; what is there is brought up to date.

    Args:
        connection: an administrator's, each statement its own transaction.
        passwords: by role. A role without one is left out, and so is its database.

    Returns:
        The roles, made or brought up to date.
    """
    roles = [role for role in ROLES if role in passwords]
    for role in roles:
        _make_role(connection, role, passwords[role])
    if "scopehouse_migrate" in roles and "scopehouse_transform" in roles:
        # The owner of the warehouse sets transform's default privileges and so must be able to be it.
        connection.execute("grant scopehouse_transform to scopehouse_migrate")
    if "scopehouse_bi" in roles:
        connection.execute("alter role scopehouse_bi set default_transaction_read_only = on")
        connection.execute("alter role scopehouse_bi set statement_timeout = '30s'")
    if "scopehouse_migrate" in roles:
        _make_scoped_group(connection)
    known = {name for (name,) in connection.execute("select datname from pg_database")}
    for database, owner in DATABASES.items():
        if owner in roles:
            guests = {DATABASE: "scopehouse_", "adventure": "scopehouse_cdc"}.get(database, owner)
            members = [role for role in roles if role == owner or role.startswith(guests)]
            _make_database(connection, database, owner, members, is_new=database not in known)
    # Where only the superuser has business.
    connection.execute("revoke all on database postgres, template1 from public")
    return roles


def make_roles_of_files(settings: Settings) -> list[str]:
    """Make the roles whose passwords lie in SCOPEHOUSE_SECRETS_DIR, on SCOPEHOUSE_ADMIN_DATABASE_URL's server.

    Raises:
        MendableError: a setting is missing, Postgres can't be reached, or the login may not make roles.
    """
    passwords = read_passwords(settings.secrets_dir)
    if not passwords:
        raise MendableError(
            f"No passwords to make roles with: put one file a role ({', '.join(ROLES)}) into a folder and name it in "
            "SCOPEHOUSE_SECRETS_DIR."
        )
    try:
        with psycopg.connect(settings.url_of("admin"), autocommit=True) as connection:
            return make_roles(connection, passwords)
    except InsufficientPrivilege as error:
        raise MendableError(
            f"SCOPEHOUSE_ADMIN_DATABASE_URL's login may not do that ({error.diag.message_primary}): use a superuser's."
        ) from error
    except psycopg.OperationalError as error:
        raise MendableError(f"Postgres can't be reached ({str(error).strip()}): is it running?") from error


def read_passwords(folder: Path | None) -> dict[str, str]:
    """The password of each role that has a file in `folder`; none without a folder."""
    if folder is None:
        return {}
    return {role: (folder / role).read_text().strip() for role in ROLES if (folder / role).is_file()}


def _make_role(connection: psycopg.Connection, role: str, password: str) -> None:
    # Postgres gets a verifier: a password in a statement could end in its log.
    verifier = connection.pgconn.encrypt_password(password.encode(), role.encode(), b"scram-sha-256")
    known = connection.execute("select from pg_roles where rolname = %s", [role]).fetchone()
    connection.execute(
        sql.SQL("{} role {} with {} password {}").format(
            sql.SQL("alter" if known is not None else "create"),
            sql.Identifier(role),
            sql.SQL(ROLES[role]),
            sql.Literal(verifier.decode()),
        )
    )


def _make_scoped_group(connection: psycopg.Connection) -> None:
    group = sql.Identifier(SCOPED)
    if connection.execute("select from pg_roles where rolname = %s", [SCOPED]).fetchone() is None:
        connection.execute(sql.SQL("create role {} nologin").format(group))
    # Migration adds members to it, and can't be it.
    connection.execute(
        sql.SQL("grant {} to scopehouse_migrate with admin true, inherit false, set false").format(group)
    )


def _make_database(
    connection: psycopg.Connection, database: str, owner: str, members: list[str], *, is_new: bool
) -> None:
    name = sql.Identifier(database)
    if is_new:
        connection.execute(sql.SQL("create database {} owner {}").format(name, sql.Identifier(owner)))
    connection.execute(sql.SQL("revoke all on database {} from public").format(name))
    connection.execute(
        sql.SQL("grant connect, temporary on database {} to {}").format(
            name, sql.SQL(", ").join(map(sql.Identifier, members))
        )
    )
