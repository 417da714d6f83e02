"""Only a registry that says that it has no such schema makes a record a dead letter; some schemas are refused."""

from __future__ import annotations

import json
import threading
from base64 import b64encode
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import pytest
from confluent_kafka.schema_registry.error import SchemaRegistryError

from ingest.sink.avro_decoder import UnknownSchemaError
from ingest.sink.writer_schemas import WriterSchemas, refuse_boundless
from services.settings import Settings


@contextmanager
def answering(body: bytes, status: int = 404, login: str | None = None) -> Iterator[Settings]:
    """A server that answers so; only to those who log in, if it wants a login."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            is_let_in = login is None or self.headers["Authorization"] == f"Basic {b64encode(login.encode()).decode()}"
            self.send_response(status if is_let_in else 401)
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            pass

    with HTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield Settings(SCHEMA_REGISTRY_URL=f"http://127.0.0.1:{server.server_port}")
        finally:
            server.shutdown()
            thread.join()


def test_a_registry_that_wants_a_login_gets_that_of_the_properties_file(tmp_path: Path) -> None:
    file = tmp_path / "kafka.properties"
    file.write_text("schema.registry.basic.auth.user.info=sink:a-password\n")
    with answering(b'{"schema": "\\"int\\""}', 200, "sink:a-password") as settings:
        assert WriterSchemas(settings.model_copy(update={"kafka_properties": file})).schema_text(7) == '"int"'
        with pytest.raises(SchemaRegistryError) as refused:
            WriterSchemas(settings).schema_text(7)
        assert refused.value.http_status_code == 401


def test_a_registry_that_has_no_such_schema_says_so() -> None:
    with (
        answering(b'{"error_code": 40403, "message": "Schema 7 not found"}') as settings,
        pytest.raises(UnknownSchemaError),
    ):
        WriterSchemas(settings).schema_text(7)


@pytest.mark.parametrize("body", [b"<h1>Not Found</h1>", b"", b'{"error_code": 404, "message": "HTTP 404 Not Found"}'])
def test_a_404_of_something_else_is_no_answer_about_the_schema(body: bytes) -> None:
    with answering(body) as settings, pytest.raises(SchemaRegistryError):
        WriterSchemas(settings).schema_text(7)


def record(*types: Any, name: str = "R") -> dict[str, Any]:
    fields = [{"name": f"f{number}", "type": type_} for number, type_ in enumerate(types)]
    return {"type": "record", "name": name, "fields": fields}


def array(items: Any) -> dict[str, Any]:
    return {"type": "array", "items": items}


@pytest.mark.parametrize(
    "schema",
    [
        record(array("null")),
        record(array({"type": "null"})),
        record("int", ["null", array(record(name="Empty"))]),
        record(array(record(record("null", name="Inner"), name="Outer"))),
        record(record(name="Empty"), array(array("Empty"))),
        record({"type": "map", "values": array({"type": "fixed", "name": "F", "size": 0})}),
    ],
)
def test_an_array_whose_items_take_no_bytes_is_refused(schema: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="items take no bytes"):
        refuse_boundless(json.dumps(schema))


@pytest.mark.parametrize(
    "schema",
    [
        record(record(name="Empty"), "null"),
        record(array(["null", "null_or_less"]), name="null_or_less"),
        record(array(record("null", "boolean", name="Inner"))),
        record({"type": "map", "values": "null"}),
        record(["null", "Tree"], array("Tree"), name="Tree"),
    ],
)
def test_what_takes_bytes_is_not(schema: dict[str, Any]) -> None:
    refuse_boundless(json.dumps(schema))
