"""Superset's configuration; it is told the rest by the environment: where its databases are, and its secrets.

A variable NAME may be given as NAME_FILE, a file that holds the value.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from flask import g
from sqlalchemy.engine.url import URL, make_url
from superset.security import SupersetSecurityManager


def _told(name: str, default: str | None = None) -> str:
    if file := os.environ.get(f"{name}_FILE"):
        return Path(file).read_text().strip()
    return os.environ.get(name) or default or os.environ[name]


def _address(url: str) -> URL:
    return make_url(url).set(drivername="postgresql+psycopg2")


_HOME = Path(os.environ["SUPERSET_HOME"])
_WAREHOUSE = _address(_told("SCOPEHOUSE_BI_DATABASE_URL"))

APP_NAME = "Scopehouse"
SECRET_KEY = _told("SUPERSET_SECRET_KEY")
ADMIN_PASSWORD = _told("SUPERSET_ADMIN_PASSWORD", " ")  # `inside prepare` alone asks for it
SQLALCHEMY_DATABASE_URI = _address(_told("SUPERSET_DATABASE_URL")).render_as_string(hide_password=False)

# The embedded one speaks plain HTTP on loopback. Pages load nothing from other servers.
SESSION_COOKIE_SAMESITE = "Lax"
TALISMAN_CONFIG = {
    "content_security_policy": {
        "base-uri": ["'self'"],
        "default-src": ["'self'"],
        "img-src": ["'self'", "blob:", "data:"],
        "worker-src": ["'self'", "blob:"],
        "connect-src": ["'self'"],
        "object-src": "'none'",
        "style-src": ["'self'", "'unsafe-inline'"],
        "script-src": ["'self'", "'strict-dynamic'"],
    },
    "content_security_policy_nonce_in": ["script-src"],
    "force_https": False,
    "session_cookie_secure": False,
}

FEATURE_FLAGS = {
    # Two readers may see different rows of one table: what one was shown is not for the other.
    "CACHE_QUERY_BY_USER": True,
}

# Answers are kept for a minute: the warehouse moves all the time.
DATA_CACHE_CONFIG = {
    "CACHE_TYPE": "FileSystemCache",
    "CACHE_DIR": str(_HOME / "cache"),
    "CACHE_DEFAULT_TIMEOUT": 60,
    "CACHE_KEY_PREFIX": "data_",
}
# Whole responses of older charts would be kept here by their address, for whoever asks next.
CACHE_CONFIG = {"CACHE_TYPE": "NullCache"}

SQL_MAX_ROW = 10_000
ROW_LIMIT = 10_000
SQLLAB_TIMEOUT = 30
SUPERSET_WEBSERVER_TIMEOUT = 60

LANGUAGES: dict[str, dict[str, str]] = {}


def _login_of_user(manager: Any) -> tuple[str | None, str | None]:
    """The Postgres login of the user's data scope and its password; None for who sees all rows.

    A scope is a role `Scope NAME`: only an administrator gives roles. Whatever is in doubt reads nothing.
    """
    if getattr(g, "user", None) is None:
        raise PermissionError("Nobody is signed in.")
    scopes = {role.name for role in manager.get_user_roles(g.user) if role.name.startswith("Scope ")}
    if not scopes:
        return None, None
    if len(scopes) > 1:
        raise PermissionError(f"{', '.join(sorted(scopes))}: a user reads by one scope; take the other roles away.")
    (scope,) = scopes
    login = f"scopehouse_bi_{scope.removeprefix('Scope ')}"
    file = Path(os.environ.get("SCOPEHOUSE_SCOPES_DIR", "")) / login
    if not (os.environ.get("SCOPEHOUSE_SCOPES_DIR") and file.is_file()):
        raise PermissionError(f"{scope} is no scope of the warehouse: see `scopehouse scopes add`.")
    return login, file.read_text().strip()


def DB_CONNECTION_MUTATOR(  # noqa: N802 - Superset's name
    _uri: URL, params: dict[str, Any], _username: str | None, manager: Any, _source: Any
) -> tuple[URL, dict[str, Any]]:
    """Which Postgres login queries run as. What the database's entry in Superset says counts for nothing, so that there
    is no password in it and nobody can change where it leads."""
    login, password = _login_of_user(manager)
    return _WAREHOUSE.set(username=login, password=password) if login else _WAREHOUSE, params


class CUSTOM_SECURITY_MANAGER(SupersetSecurityManager):  # type: ignore[misc]  # noqa: N801 - Superset's name
    """Superset's own, but no answer is kept for another login: CACHE_QUERY_BY_USER forgets older charts (maps)."""

    def get_rls_cache_key(self, datasource: Any) -> list[str]:
        """What rows of the dataset the user sees."""
        return [*super().get_rls_cache_key(datasource), f"login {_login_of_user(self)[0]}"]
