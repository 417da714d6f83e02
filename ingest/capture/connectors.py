"""Connectors as the repository has them, on a Kafka Connect: applied, looked at, started again.

All of it may be repeated at any time, and by several at once.
"""

from __future__ import annotations

import json
import time
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from textwrap import shorten
from typing import Any

import httpx

import services.connect
from services.errors import MendableError
from services.settings import Settings

FOLDER = Path(services.connect.__file__).parent
ANSWER_SECONDS = 10.0
_CAUSE_CHARACTERS = 300


class ConnectError(MendableError):
    """Kafka Connect can't be reached, or refuses what it is asked."""


@dataclass(frozen=True, slots=True)
class ConnectorState:
    """How a connector is: Connect's words for it and for its tasks, and the last line of an error that says why."""

    name: str
    states: tuple[str, ...]
    why: str | None

    @property
    def has_failed(self) -> bool:
        """Whether it, or a task of it, stands still until somebody starts it again."""
        return "FAILED" in self.states

    @property
    def is_running(self) -> bool:
        """Whether it and its tasks run. That says nothing of the database it reads from."""
        return len(self.states) > 1 and set(self.states) == {"RUNNING"}


@cache
def configurations() -> dict[str, dict[str, str]]:
    """Every connector's configuration, by its name."""
    return {file.stem: json.loads(file.read_text(encoding="utf-8")) for file in sorted(FOLDER.glob("*.json"))}


class Connectors:
    """The connectors on one Kafka Connect, which is waited for so many seconds. Every method raises ConnectError."""

    def __init__(self, settings: Settings, seconds: float = ANSWER_SECONDS) -> None:
        if settings.connect_url is None:
            raise ConnectError(
                "No Kafka Connect is set: run `scopehouse up --with connect`, or set SCOPEHOUSE_CONNECT_URL."
            )
        self._url = settings.connect_url.rstrip("/")
        self._seconds = seconds

    def apply(self, name: str) -> bool:
        """Make a connector what the repository says, where it is not; whether anything was changed."""
        wanted = configurations()[name]
        found = self._ask("GET", f"/connectors/{name}/config", may_lack=True)
        if found == {**wanted, "name": name}:
            return False
        self._ask("PUT", f"/connectors/{name}/config", wanted)
        return True

    def state(self, name: str) -> ConnectorState | None:
        """How a connector is; None where there is none of that name."""
        status = self._ask("GET", f"/connectors/{name}/status", may_lack=True)
        if status is None:
            return None
        parts = [status["connector"], *status["tasks"]]
        trace = next((part["trace"] for part in parts if part.get("trace")), None)
        return ConnectorState(name, tuple(part["state"] for part in parts), _cause(trace) if trace else None)

    def start_failed(self, name: str) -> None:
        """Start again what of a connector has failed."""
        self._ask("POST", f"/connectors/{name}/restart?includeTasks=true&onlyFailed=true")

    def captured_lsn(self, name: str) -> int | None:
        """Up to where in the source's write-ahead log changes are in Kafka; None before the first."""
        offset = self._offset(name)
        return None if offset is None else int(offset["lsn"])

    def follows_log(self, name: str) -> bool:
        """Whether it is past its snapshot."""
        offset = self._offset(name)
        return offset is not None and "snapshot" not in offset

    def _offset(self, name: str) -> dict[str, Any] | None:
        found = self._ask("GET", f"/connectors/{name}/offsets", may_lack=True) or {"offsets": []}
        offsets = [entry["offset"] for entry in found["offsets"] if (entry["offset"] or {}).get("lsn") is not None]
        return max(offsets, key=lambda offset: int(offset["lsn"]), default=None)

    def stop(self, name: str) -> None:
        """Stop a connector, and wait until it has; how far it came, and its slot, stay."""
        self._ask("PUT", f"/connectors/{name}/stop")
        deadline = time.monotonic() + self._seconds
        while (state := self.state(name)) is not None and state.states != ("STOPPED",):
            if time.monotonic() > deadline:
                raise ConnectError(f"Connector {name} does not stop: see Kafka Connect's log.")
            time.sleep(0.1)

    def forget(self, name: str) -> None:
        """Let a stopped connector forget how far it came: resumed, it begins with a snapshot."""
        self._ask("DELETE", f"/connectors/{name}/offsets")

    def resume(self, name: str) -> None:
        """Let a stopped connector go on."""
        self._ask("PUT", f"/connectors/{name}/resume")

    def _ask(self, method: str, path: str, body: Any = None, may_lack: bool = False) -> Any:
        """The answer's JSON; None for one without content, or a 404 where that `may_lack`."""
        deadline = time.monotonic() + self._seconds
        while True:
            try:
                # Without a proxy: it stands beside us.
                with httpx.Client(trust_env=False, timeout=self._seconds) as client:
                    answer = client.request(method, self._url + path, json=body)
            except httpx.HTTPError as error:
                raise ConnectError(
                    f"Kafka Connect at {self._url} can't be reached ({type(error).__name__}): is it running?"
                ) from error
            # It takes no changes while its group finds together.
            if answer.status_code != httpx.codes.CONFLICT or time.monotonic() > deadline:
                break
            time.sleep(0.2)
        if answer.status_code == httpx.codes.NOT_FOUND and may_lack:
            return None
        if answer.is_error:
            raise ConnectError(f"Kafka Connect refused {method} {path} ({_message(answer)}): see its log.")
        return answer.json() if answer.content else None


def _message(answer: httpx.Response) -> str:
    try:
        return str(answer.json()["message"])
    except (ValueError, KeyError, TypeError):
        return f"status {answer.status_code}"


def _cause(trace: str) -> str:
    """The innermost cause of a Java stack trace, in one line."""
    causes = [line for line in trace.splitlines() if line and not line.startswith(("\t", " "))]
    return shorten(causes[-1].removeprefix("Caused by: ") if causes else trace, _CAUSE_CHARACTERS, placeholder=" ...")
