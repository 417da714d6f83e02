"""A stand-in for Climatiq's API: real HTTP on loopback, its answers computed with the factor of our own seed."""

from __future__ import annotations

import json
import threading
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

KEY = "CLIMATIQ-KEY-0123456789ABCDEF"
FACTOR_KG_CO2E_PER_USD = 0.162
MESSAGES = {
    "no_emission_factors_found": "No emission factors could be found with this query.",
    "invalid_unit_type_supplied": "The factor does not take this unit type.",
}


@dataclass(frozen=True)
class Trouble:
    """What the next request gets instead of its answer.

    `drop`: "before" closes the connection without doing anything, "after" once the request was processed and counted.
    `body` is sent as it is. `hold`: the answer waits for it.
    """

    status: int = 200
    retry_after: str | None = None
    body: str | None = None
    drop: str | None = None
    hold: threading.Event | None = None


@dataclass
class FakeClimatiq:
    """What it is to do, and what it saw. `processed` are the prices it made estimates of, each a call of the plan."""

    url: str = ""
    latest_release: str = "29"
    has_audit_trail: bool = True
    echoes_the_key: bool = False
    troubles: deque[Trouble] = field(default_factory=deque)
    item_errors: dict[float, str] = field(default_factory=dict)
    requests: list[tuple[str, Any]] = field(default_factory=list)
    processed: list[float] = field(default_factory=list)
    guard: threading.Lock = field(default_factory=threading.Lock)

    def result(self, item: dict[str, Any]) -> dict[str, Any]:
        """An item's estimate or error."""
        factor, parameters = item["emission_factor"], item["parameters"]
        price = parameters["money"]
        with self.guard:
            self.processed.append(price)
        if code := self.item_errors.get(price):
            message = MESSAGES.get(code, "Something else.") + (f" Key {KEY}." if self.echoes_the_key else "")
            return {"error": "bad_request", "error_code": code, "message": message}
        return {
            "co2e": price * FACTOR_KG_CO2E_PER_USD,
            "co2e_unit": "kg",
            "co2e_calculation_method": "ar4",
            "emission_factor": {
                "name": "Motorcycle/bicycle and parts",
                "activity_id": factor["activity_id"],
                "id": "00000000-0000-0000-0000-000000000162",
                "source": "EPA",
                "year": 2020,
                "region": "US",
                "source_lca_activity": "cradle_to_shelf",
                "data_quality_flags": [],
            }
            if self.has_audit_trail
            else None,
            "constituent_gases": {"co2e_total": price * FACTOR_KG_CO2E_PER_USD, "co2": None, "ch4": None, "n2o": None}
            if self.has_audit_trail
            else None,
            "activity_data": {"activity_value": price, "activity_unit": parameters["money_unit"]},
        }


def error_body(status: int, fake: FakeClimatiq, authorization: str | None) -> dict[str, Any]:
    """A whole call's error, as careless as it may be."""
    echo = f" You sent {authorization}." if fake.echoes_the_key else ""
    return {"error": f"error_{status}", "error_code": None, "message": f"Something about {status}.{echo}"}


def _handler(fake: FakeClimatiq) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            self._serve(None)

        def do_POST(self) -> None:
            self._serve(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))

        def _serve(self, content: Any) -> None:
            with fake.guard:
                fake.requests.append((self.path, content))
                trouble = fake.troubles.popleft() if fake.troubles else Trouble()
            if trouble.drop == "before":
                self.close_connection = True
                return
            authorization = self.headers.get("Authorization")
            if authorization != f"Bearer {KEY}":
                self._send(401, json.dumps(error_body(401, fake, authorization)))
                return
            if trouble.status != 200:
                body = (
                    trouble.body
                    if trouble.body is not None
                    else json.dumps(error_body(trouble.status, fake, authorization))
                )
                self._send(trouble.status, body, trouble.retry_after)
                return
            if self.path == "/data/v1/data-versions":
                answer: Any = {"latest_release": fake.latest_release, "latest": f"{fake.latest_release}.0"}
            elif len(content) > 100:
                self._send(400, json.dumps(error_body(400, fake, authorization)))
                return
            else:
                answer = {"results": [fake.result(item) for item in content]}
            if trouble.hold is not None:
                trouble.hold.wait(60)
            if trouble.drop == "after":
                self.close_connection = True
                return
            self._send(200, trouble.body if trouble.body is not None else json.dumps(answer))

        def _send(self, status: int, body: str, retry_after: str | None = None) -> None:
            content = body.encode()
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(content)))
            if retry_after is not None:
                self.send_header("Retry-After", retry_after)
            self.end_headers()
            self.wfile.write(content)

        def log_message(self, *_words: object) -> None:
            """Nothing."""

    return Handler


@contextmanager
def fake_climatiq() -> Iterator[FakeClimatiq]:
    """A running fake on a port of its own."""
    fake = FakeClimatiq()
    server = ThreadingHTTPServer(("127.0.0.1", 0), _handler(fake))
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, args=(0.05,))
    thread.start()
    try:
        fake.url = f"http://127.0.0.1:{server.server_port}"
        yield fake
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
