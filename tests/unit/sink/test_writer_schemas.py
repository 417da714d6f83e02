"""Only a registry that says that it has no such schema makes a record a dead letter."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, HTTPServer

import pytest
from confluent_kafka.schema_registry.error import SchemaRegistryError

from ingest.sink.avro_decoder import UnknownSchemaError
from ingest.sink.writer_schemas import WriterSchemas
from services.settings import Settings


@contextmanager
def answering(body: bytes) -> Iterator[Settings]:
    """A server that answers 404 with that body."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(404)
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
