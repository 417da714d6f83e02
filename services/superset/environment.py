"""Superset's own Python environment: made once from the hashed lock beside this file, in the cache folder."""

from __future__ import annotations

import fcntl
import hashlib
import shutil
import subprocess
import sys
from pathlib import Path

from services.embedded.progress import Report, silent
from services.errors import MendableError

LOCK = Path(__file__).with_name("requirements.txt")

# The locked pandas and numpy have wheels for these.
_VERSIONS = ((3, 11), (3, 12))


class EnvironmentError(MendableError):  # noqa: A001 - Python's own of that name is an old alias of OSError
    """Superset's environment can't be made; the sentence says why and what to do."""


def version() -> str:
    """The locked Superset's version."""
    return next(
        line.split("==")[1].split()[0] for line in LOCK.read_text().splitlines() if line.startswith("apache-superset==")
    )


def folder(cache_dir: Path) -> Path:
    """Where the environment of the lock as it stands lies, made or not."""
    return cache_dir / "superset" / hashlib.sha256(LOCK.read_bytes()).hexdigest()[:16]


def python(cache_dir: Path) -> Path:
    """Its Python; call `ensure` first."""
    return folder(cache_dir) / "bin" / "python"


def ensure(cache_dir: Path, report: Report = silent) -> None:
    """Have the environment; no network is touched where it is there already. Takes half a minute and 650 MB.

    Raises:
        EnvironmentError: no fitting Python is there, or a package can't be fetched.
    """
    target = folder(cache_dir)
    whole = target / ".whole"  # written last: an environment without it is half made, and made anew
    if whole.exists():
        return
    target.parent.mkdir(parents=True, exist_ok=True)
    with target.with_suffix(".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if whole.exists():
            return
        shutil.rmtree(target, ignore_errors=True)
        packages = LOCK.read_text().count("==")
        report("superset", f"installing {packages} packages, once", 0.0)
        for words in _commands(target):
            done = subprocess.run(words, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False)
            if done.returncode != 0:
                last = (done.stderr.strip() or "no message").splitlines()[-1]
                raise EnvironmentError(
                    f"Superset's packages can't be installed ({last}): check the network and try again."
                )
        whole.touch()
        report("superset", "installed", 1.0)


def _commands(target: Path) -> tuple[tuple[str, ...], ...]:
    """What makes it: uv where there is one, which is quicker, else pip."""
    base, made = _base_python(), str(target / "bin" / "python")
    uv = shutil.which("uv", path=str(Path(sys.prefix) / "uv" / "bin")) or shutil.which("uv")
    if uv is not None:
        sync = ("pip", "sync", "--quiet", "--require-hashes", "--python", made, str(LOCK))
        return (uv, "venv", "--quiet", "--python", base, str(target)), (uv, *sync)
    install = ("-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--require-hashes", "-r", str(LOCK))
    return (base, "-m", "venv", str(target)), (made, *install)


def _base_python() -> str:
    if sys.version_info[:2] in _VERSIONS:
        # Not the virtual environment's: it may be removed, this one stays.
        return str(getattr(sys, "_base_executable", sys.executable))
    for major, minor in _VERSIONS:
        if found := shutil.which(f"python{major}.{minor}"):
            return found
    raise EnvironmentError("Superset needs Python 3.11 or 3.12, and neither is found: install one of them.")
