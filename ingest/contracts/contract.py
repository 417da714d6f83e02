"""A topic's contract: its Avro schema and what the extra properties beside it say."""

from __future__ import annotations

import hashlib
import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args

import pyarrow as pa

from services.errors import MendableError

CONTRACTS_FOLDER = Path(__file__).parent

Encoding = Literal["avro", "json", "debezium"]

_EXTRA_PROPERTIES = (
    "topic",
    "domain",
    "source",
    "key",
    "partitions",
    "encoding",
    "compatibility",
    "retention",
)
_TOPIC = re.compile(r"[A-Za-z0-9._-]{1,249}")
_AVRO_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_IDENTIFIER_BYTES = 63
# Each Postgres table has these.
_SYSTEM_COLUMNS = {"ctid", "xmin", "xmax", "cmin", "cmax", "tableoid"}

_EXTRA_FIELD_PROPERTIES = ("unit", "personal", "time")

# Avro primitive or logical type -> Postgres type, Arrow type. What is not here is no column of ours.
_COLUMN_TYPES: dict[str, tuple[str, pa.DataType]] = {
    "boolean": ("boolean", pa.bool_()),
    "int": ("integer", pa.int32()),
    "long": ("bigint", pa.int64()),
    "float": ("real", pa.float32()),
    "double": ("double precision", pa.float64()),
    "string": ("text", pa.string()),
    "enum": ("text", pa.string()),
    "date": ("date", pa.date32()),
    "timestamp": ("timestamptz", pa.timestamp("us", tz="UTC")),
    "nested": ("jsonb", pa.string()),
}
# Those that a field of a JSON topic may have.
_JSON_KINDS = {"boolean", "int", "long", "float", "double", "string"}


class ContractError(MendableError):
    """A contract file is not what a contract must be; the sentence names the file and the field."""


@dataclass(frozen=True, slots=True)
class Field:
    """One field of a topic and the raw column it becomes.

    `unix_seconds` is true for an integer of Unix seconds (UTC) that the sink turns into a timestamptz.
    """

    name: str
    doc: str
    unit: str | None
    is_personal: bool
    is_nullable: bool
    has_default: bool
    default: Any
    kind: str
    unix_seconds: bool

    @property
    def postgres_type(self) -> str:
        """The raw column's type."""
        return _COLUMN_TYPES[self.kind][0]

    @property
    def arrow_type(self) -> pa.DataType:
        """The Arrow type in which the sink hands the column to COPY; nested values are JSON text."""
        return _COLUMN_TYPES[self.kind][1]


@dataclass(frozen=True, slots=True)
class Contract:
    """A topic: its name, where it goes, and its fields in order.

    `fields` become the raw table's columns; of a change log (encoding `debezium`) they are the source table's columns
    and then `CHANGE_FIELDS`. `retention_days` is how long raw keeps its rows; None is for ever. `schema` is the plain
    Avro schema, without our extra properties: that is what is registered.
    """

    topic: str
    domain: str
    source: str
    key: str
    partitions: int
    encoding: Encoding
    compatibility: str
    retention_days: int | None
    doc: str
    fields: tuple[Field, ...]
    schema: dict[str, Any]

    @property
    def table(self) -> str:
        """The raw table's name, without the schema: the topic in snake_case."""
        return identifier(re.sub(r"[^0-9a-z]+", "_", self.topic.lower()))

    @property
    def subject(self) -> str:
        """The registry's subject."""
        return f"{self.topic}-value"


def _change_field(name: str, kind: str, doc: str) -> Field:
    return Field(
        name=name,
        doc=doc,
        unit=None,
        is_personal=False,
        is_nullable=False,
        has_default=False,
        default=None,
        kind=kind,
        unix_seconds=False,
    )


# What stands beside the row in each entry of a change log.
CHANGE_FIELDS = (
    _change_field("_op", "string", "r read by a snapshot, c created, u updated, d deleted (the row is that before)."),
    _change_field("_source_lsn", "long", "Where the change stands in the source's write-ahead log."),
    _change_field("_source_at", "timestamp", "When the source committed the change; of a snapshot, when it was read."),
)


def identifier(name: str) -> str:
    """A name that Postgres takes whole: one over 63 bytes is cut and ends with a hash of the whole."""
    raw = name.encode()
    if len(raw) <= _IDENTIFIER_BYTES:
        return name
    digest = hashlib.sha256(raw).hexdigest()[:12]
    return f"{raw[: _IDENTIFIER_BYTES - 13].decode(errors='ignore')}_{digest}"


def read_contract(path: Path) -> Contract:
    """Read and validate one `.avsc` file.

    Raises:
        ContractError: a property is missing, or a field's type can't be a raw column.
    """
    try:
        document = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ContractError(f"{path.name} is not JSON ({error}): mend the file.") from error
    for name in (*_EXTRA_PROPERTIES, "fields", "doc"):
        if name not in document:
            raise ContractError(f'{path.name} has no "{name}": add it beside the schema\'s name.')
    if document["topic"] != path.stem:
        raise ContractError(f'{path.name} is the contract of topic "{document["topic"]}": name the file after it.')
    if not _TOPIC.fullmatch(document["topic"]) or document["topic"] in (".", ".."):
        raise ContractError(f"{path.name}: Kafka takes no topic of that name: use letters, digits, '.', '_' and '-'.")
    fields = tuple(_read_field(path.name, field) for field in document["fields"])
    contract = Contract(
        topic=document["topic"],
        domain=document["domain"],
        source=document["source"],
        key=document["key"],
        partitions=document["partitions"],
        encoding=document["encoding"],
        compatibility=document["compatibility"],
        retention_days=document["retention"],
        doc=document["doc"],
        fields=fields + CHANGE_FIELDS if document["encoding"] == "debezium" else fields,
        schema=_without_extras(document),
    )
    if contract.encoding not in get_args(Encoding):
        raise ContractError(
            f'{path.name}: encoding "{contract.encoding}" is not known: use "avro", "json" or "debezium".'
        )
    _check_names(path.name, contract)
    if contract.key not in {field.name for field in contract.fields}:
        raise ContractError(f'{path.name}: the key "{contract.key}" is no field of it.')
    return contract


def load_contracts(folder: Path | None = None) -> dict[str, Contract]:
    """All contracts of a folder (the repository's own by default), by topic name, in the order of the names.

    Raises:
        ContractError: a file is no contract, or two topics would share a raw table.
    """
    contracts = [read_contract(path) for path in sorted((folder or CONTRACTS_FOLDER).glob("*.avsc"), key=_stem)]
    tables: dict[str, str] = {}
    for contract in contracts:
        if other := tables.get(contract.table):
            raise ContractError(f"Topics {other} and {contract.topic} would share raw.{contract.table}: rename one.")
        tables[contract.table] = contract.topic
    return {contract.topic: contract for contract in contracts}


def _stem(path: Path) -> str:
    return path.stem


def _read_field(file: str, field: dict[str, Any]) -> Field:
    where = f"{file}, field {field.get('name')!r}"
    for name in ("doc", "personal"):
        if name not in field:
            raise ContractError(f'{where} has no "{name}": add it.')
    if field["name"].startswith("_"):
        raise ContractError(f"{where}: a leading underscore is kept for the sink's own columns: rename it.")
    avro_type, is_nullable = _strip_null(where, field["type"])
    kind = _kind(where, avro_type)
    unix_seconds = field.get("time") == "unix_seconds"
    if unix_seconds:
        if kind not in ("int", "long"):
            raise ContractError(f'{where}: "time": "unix_seconds" needs an int or a long.')
        kind = "timestamp"
    return Field(
        name=field["name"],
        doc=field["doc"],
        unit=field.get("unit"),
        is_personal=field["personal"],
        is_nullable=is_nullable,
        has_default="default" in field,
        default=field.get("default"),
        kind=kind,
        unix_seconds=unix_seconds,
    )


def _check_names(file: str, contract: Contract) -> None:
    """Refuse fields that can't be columns under their own names, or that a decoder can't find."""
    names = [field.name for field in contract.fields]
    for name in names:
        where = f"{file}, field {name!r}"
        if names.count(name) > 1:
            raise ContractError(f"{where} is there twice: rename one.")
        if not 1 <= len(name.encode(errors="surrogatepass")) <= _IDENTIFIER_BYTES:
            raise ContractError(f"{where}: a column's name has 1 to {_IDENTIFIER_BYTES} bytes: use another.")
        if name in _SYSTEM_COLUMNS:
            raise ContractError(f"{where}: Postgres has a column of that name in each table: use another.")
        if contract.encoding != "json" and not _AVRO_NAME.fullmatch(name):
            raise ContractError(f"{where}: Avro's names have letters, digits and underscores: use another.")
        if any(each in '"\\' or each < " " or "\ud800" <= each <= "\udfff" for each in name):
            raise ContractError(f"{where}: the name has a quotation mark, backslash or control character: use another.")
    for field in contract.fields:
        if contract.encoding == "debezium" and field.kind == "nested":
            raise ContractError(f"{file}, field {field.name!r}: a table's column comes as plain value: use a string.")
        if contract.encoding == "json" and field.kind not in _JSON_KINDS and not field.unix_seconds:
            raise ContractError(
                f"{file}, field {field.name!r}: a JSON topic's fields are booleans, numbers and strings: use one of "
                'these, for a time a long with "time": "unix_seconds", or encoding avro.'
            )


def _strip_null(where: str, avro_type: Any) -> tuple[Any, bool]:
    """The type without its null branch, and whether it had one."""
    if not isinstance(avro_type, list):
        return avro_type, False
    others = [branch for branch in avro_type if branch != "null"]
    if len(others) != 1 or len(others) == len(avro_type):
        raise ContractError(f"{where}: a union must be null and one other type.")
    return others[0], True


def _kind(where: str, avro_type: Any) -> str:
    """The row of _COLUMN_TYPES for a type without null."""
    if isinstance(avro_type, str):
        if avro_type in _COLUMN_TYPES and avro_type not in ("enum", "date", "timestamp", "nested"):
            return avro_type
    elif avro_type.get("logicalType") == "date":
        return "date"
    elif avro_type.get("logicalType") in ("timestamp-millis", "timestamp-micros"):
        return "timestamp"
    elif "logicalType" not in avro_type:
        if avro_type["type"] in ("array", "record"):
            _check_nested(where, avro_type)
            return "nested"
        if avro_type["type"] == "enum":
            return "enum"
        return _kind(where, avro_type["type"])
    raise ContractError(f"{where}: type {json.dumps(avro_type)} can't be a raw column: use another.")


def _check_nested(where: str, avro_type: Any) -> None:
    """Nested values become JSON: only what JSON holds exactly may stand in them."""
    avro_type, _ = _strip_null(where, avro_type)
    if isinstance(avro_type, dict) and avro_type["type"] == "array":
        _check_nested(where, avro_type["items"])
    elif isinstance(avro_type, dict) and avro_type["type"] == "record":
        if not avro_type["fields"]:
            raise ContractError(f"{where}: a record without fields holds nothing: give it one.")
        for field in avro_type["fields"]:
            _check_nested(f"{where}.{field['name']}", field["type"])
    elif avro_type not in ("boolean", "int", "long", "float", "double", "string"):
        raise ContractError(f"{where}: type {json.dumps(avro_type)} can't be held inside a jsonb column: use another.")


def _without_extras(node: Any) -> Any:
    """A copy of a schema without our extra properties, at every depth."""
    if isinstance(node, list):
        return [_without_extras(item) for item in node]
    if not isinstance(node, dict):
        return node
    extras = _EXTRA_PROPERTIES if "fields" in node else _EXTRA_FIELD_PROPERTIES
    return {name: _without_extras(value) for name, value in node.items() if name not in extras}
