"""What went wrong, in words that may stand in a log: a record's values never do, for they may be personal."""

from __future__ import annotations

import traceback
from pathlib import Path

import httpx2
import psycopg
from confluent_kafka import KafkaException
from confluent_kafka.schema_registry.error import SchemaRegistryError

from ingest.sink.broker import BrokerError
from services.errors import MendableError


def sentence(error: BaseException) -> str:
    """One line about an error. Of errors whose text may quote a value, the kind alone."""
    match error:
        case MendableError():
            return str(error)
        case KafkaException():
            return str(error.args[0].str())
        case psycopg.OperationalError():
            return _first_line(error)
        case psycopg.Error(sqlstate=str() as sqlstate):
            return f"Postgres refused the statement ({type(error).__name__}, SQLSTATE {sqlstate})"
        case SchemaRegistryError():
            return f"the registry answered {error.http_status_code} ({error.error_message})"
        case httpx2.HTTPError():
            return f"the registry can't be reached ({_first_line(error)})"
        case OSError():
            return _first_line(error)
    return type(error).__name__


def server_of(error: BaseException | None) -> str:
    """Which server an error came from: `postgres`, `kafka`, `registry`, or `a server` where it can't be told."""
    while error is not None:
        match error:
            case psycopg.Error():
                return "postgres"
            case KafkaException() | BrokerError():
                return "kafka"
            case SchemaRegistryError() | httpx2.HTTPError():
                return "registry"
        error = error.__cause__
    return "a server"


def where(error: BaseException) -> list[str]:
    """Where an unexpected error came from, outermost first: `file:line function`. Neither values nor its text."""
    return [
        f"{Path(frame.filename).name}:{frame.lineno} {frame.name}"
        for frame in traceback.extract_tb(error.__traceback__)
    ]


def _first_line(error: BaseException) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0]
