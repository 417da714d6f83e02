"""Apache Superset: dashboards, its metadata in a Postgres database of its own."""

from __future__ import annotations

import hashlib
from pathlib import Path
from urllib.error import URLError
from urllib.request import ProxyHandler, build_opener

from services import scopes
from services.embedded import passwords
from services.embedded.server import Launch, Server, ServerError
from services.roles import DATABASE
from services.settings import PROJECT_ROOT
from services.superset import environment
from services.superset.files import ASSETS

FILES = ASSETS.parent


class Superset(Server):
    """Superset behind gunicorn, with the dashboards that lie in git. Its environment must have been made."""

    name = "superset"
    port_settings = ("superset_port",)
    needs = ("postgres",)

    @property
    def version(self) -> str:
        """The locked one's."""
        return environment.version()

    @property
    def url(self) -> str:
        """Where people open it."""
        return f"http://127.0.0.1:{self.port}"

    @property
    def mark(self) -> tuple[str, ...]:
        """Gunicorn, with a file of this folder."""
        return ("python", "-m", "gunicorn", "--pid", str(self.folder / "gunicorn.pid"))

    def prepare(self) -> None:
        """Make or upgrade its metadata and import the dashboards, where either has changed since it last did."""
        self.folder.mkdir(parents=True, exist_ok=True)
        self.folder.chmod(0o700)
        done, now = self.folder / "prepared", _fingerprint()
        if done.exists() and done.read_text() == now:
            return
        self._do("prepare", why="Superset's metadata can't be made")
        done.write_text(now)

    def import_files(self, folder: Path = ASSETS) -> None:
        """Make its dashboards equal the files in `folder`. Raises ServerError."""
        self._do("import", str(folder), why="The dashboards can't be imported")

    def export_files(self, folder: Path = ASSETS) -> None:
        """Write its certified dashboards as files. Raises ServerError."""
        self._do("export", str(folder), why="The dashboards can't be exported")

    def make_scope_role(self, scope: str) -> None:
        """Make the role whose users read as the scope's login. Raises ServerError."""
        self._do("scope", scope, why="The scope's role can't be made")

    def launch(self) -> Launch:
        """Gunicorn, two workers: a page asks for a dozen charts at once."""
        options = ("--bind", f"127.0.0.1:{self.port}", "--workers", "2", "--threads", "6", "--timeout", "120")
        return self._with_superset(*self.mark[1:], *options, "superset.app:create_app()")

    def is_healthy(self) -> bool:
        """Whether its web server answers."""
        try:
            with build_opener(ProxyHandler({})).open(f"{self.url}/health", timeout=2) as response:
                return bool(response.status == 200)
        except (URLError, OSError):
            return False

    def _do(self, *words: str, why: str) -> None:
        """Run a command of services.superset.inside with Superset's Python."""
        if not (self.folder.exists() and environment.python(self.settings.cache_dir).exists()):
            raise ServerError("Superset was never started here: run `scopehouse up --with superset`.")
        if self._with_superset("-m", "services.superset.inside", *words).run(self.log) != 0:
            raise ServerError(f"{why}: see {self.log}.")

    def _with_superset(self, *words: str) -> Launch:
        secrets = passwords.read(self.state)

        def address(role: str, database: str) -> str:
            return f"postgresql://{role}:{secrets[role]}@127.0.0.1:{self.settings.postgres_port}/{database}"

        told = {
            "SUPERSET_CONFIG_PATH": str(FILES / "superset_config.py"),
            "SUPERSET_HOME": str(self.folder),
            "SUPERSET_DATABASE_URL": address("superset", "superset"),
            "SUPERSET_SECRET_KEY": secrets["superset_secret_key"],
            "SUPERSET_ADMIN_PASSWORD": secrets["superset_admin"],
            "SCOPEHOUSE_BI_DATABASE_URL": address("scopehouse_bi", DATABASE),
            "SCOPEHOUSE_SCOPES_DIR": str(scopes.folder(self.settings)),
            "SCARF_ANALYTICS": "false",
            "PYTHONPATH": str(PROJECT_ROOT),
            "PYTHONDONTWRITEBYTECODE": "1",
        }
        return Launch((str(environment.python(self.settings.cache_dir)), *words), self.folder, told)


def _fingerprint() -> str:
    """Changes with the lock, the configuration and every file of a dashboard."""
    files = sorted(file for file in FILES.rglob("*") if file.suffix in {".py", ".txt", ".yaml"})
    content = b"".join(str(file.relative_to(FILES)).encode() + file.read_bytes() for file in files)
    return hashlib.sha256(content).hexdigest()
