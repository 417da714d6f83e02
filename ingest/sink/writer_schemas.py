"""The schemas that values were written with, from the registry."""

from __future__ import annotations

from typing import cast

from confluent_kafka.schema_registry.error import SchemaRegistryError

from ingest.clients import make_registry
from ingest.sink.avro_decoder import UnknownSchemaError
from services.settings import Settings

# A bare 404 may come from a proxy, or from a registry that is still starting.
_NO_SUCH_SCHEMA = 40403


class WriterSchemas:
    """Looks schemas up by id. The client keeps those it has seen."""

    def __init__(self, settings: Settings) -> None:
        self._client = make_registry(settings)

    def schema_text(self, schema_id: int) -> str:
        """The Avro schema of that id as JSON text.

        Raises:
            UnknownSchemaError: the registry answered that it has none.
            SchemaRegistryError, httpx2.HTTPError: the registry could not be asked.
        """
        try:
            return cast(str, self._client.get_schema(schema_id).schema_str)
        except SchemaRegistryError as error:
            if error.error_code == _NO_SUCH_SCHEMA:
                raise UnknownSchemaError(schema_id) from error
            raise
