"""The topics that the sink loads, each with its decoder."""

from __future__ import annotations

from collections.abc import Iterable

from ingest.contracts.contract import Contract, load_contracts
from ingest.sink.avro_decoder import AvroDecoder
from ingest.sink.debezium_decoder import DebeziumDecoder
from ingest.sink.json_decoder import JsonDecoder
from ingest.sink.load import Topic
from ingest.sink.writer_schemas import WriterSchemas
from services.errors import MendableError
from services.settings import Settings


def loaded_topics(settings: Settings, names: Iterable[str] | None = None, is_patient: bool = True) -> dict[str, Topic]:
    """The topics of those names, or all that have a contract.

    A patient one tries the registry several times, for some seconds, before it gives up on a schema.

    Raises:
        MendableError: a name has no contract.
    """
    contracts = load_contracts(settings.contracts_dir)
    wanted = list(contracts) if names is None else list(names)
    for name in wanted:
        if name not in contracts:
            raise MendableError(f"Topic {name} has no contract: the topics are {', '.join(contracts)}.")
    schemas = WriterSchemas(settings, is_patient)
    return {name: _topic(contracts[name], schemas) for name in wanted}


def _topic(contract: Contract, schemas: WriterSchemas) -> Topic:
    match contract.encoding:
        case "avro":
            return Topic(contract, AvroDecoder(contract, schemas))
        case "debezium":
            return Topic(contract, DebeziumDecoder(contract, schemas))
        case "json":
            return Topic(contract, JsonDecoder(contract))
