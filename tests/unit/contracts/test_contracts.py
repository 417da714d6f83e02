"""The contracts, what they refuse, and what is made from them."""

import dataclasses
import io
import json
from pathlib import Path

import fastavro
import pytest

from ingest.contracts import generate
from ingest.contracts.contract import CONTRACTS_FOLDER, ContractError, load_contracts, read_contract
from ingest.contracts.raw_tables import create_table
from ingest.contracts.topics import registered_schema
from ingest.sink.avro_decoder import AvroDecoder
from ingest.sink.debezium_decoder import DebeziumDecoder
from ingest.sink.json_decoder import JsonDecoder
from tests.fakes import debezium

EXAMPLES = sorted((CONTRACTS_FOLDER / "examples").glob("*.json"))


# As a table's columns come: Debezium writes a time as text.
CHANGE_COLUMNS = {
    field["name"]: debezium.TIME if isinstance(field["type"], dict) else field["type"]
    for field in load_contracts()["adventure.public.bike_emissions"].schema["fields"]
}


class OneSchema:
    """A registry that has one schema under every id."""

    def __init__(self, text: str) -> None:
        self._text = text

    def schema_text(self, schema_id: int) -> str:
        return self._text


def write(folder: Path, **changes: object) -> Path:
    document = json.loads((CONTRACTS_FOLDER / "emissions-topic.avsc").read_text())
    path = folder / "emissions-topic.avsc"
    path.write_text(json.dumps(document | changes))
    return path


def field(**changes: object) -> dict[str, object]:
    return {"name": "country", "type": "string", "doc": "A country.", "personal": False} | changes


def test_every_contract_has_an_example() -> None:
    assert {path.name.rsplit(".", 2)[0] for path in EXAMPLES} == set(load_contracts())


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.stem)
def test_an_example_becomes_a_row(path: Path) -> None:
    contract = load_contracts()[path.name.rsplit(".", 2)[0]]
    if contract.encoding == "json":
        decoded = JsonDecoder(contract).decode([path.read_bytes()])
    elif contract.encoding == "debezium":
        schema = debezium.envelope(CHANGE_COLUMNS)
        values = debezium.encode(schema, [json.loads(path.read_text())])
        decoded = DebeziumDecoder(contract, OneSchema(schema)).decode(values)
    else:
        body = io.BytesIO()
        fastavro.schemaless_writer(body, fastavro.parse_schema(contract.schema), json.loads(path.read_text()))
        decoded = AvroDecoder(contract, OneSchema(json.dumps(contract.schema))).decode(
            [b"\x00\x00\x00\x00\x01" + body.getvalue()]
        )
    assert decoded.rejections == []
    assert decoded.columns.num_rows == 1


def test_generated_files_are_what_the_contracts_say() -> None:
    assert generate.drift() == []


def test_a_changed_or_orphaned_source_file_is_named(tmp_path: Path) -> None:
    generate.write(tmp_path)
    path = tmp_path / "models" / "staging" / "owid" / "_owid__sources.yml"
    orphan = tmp_path / "models" / "staging" / "gone" / "_gone__sources.yml"
    orphan.parent.mkdir()
    orphan.write_text(path.read_text())
    path.write_text(path.read_text() + "# by hand\n")
    changed, orphaned = generate.drift(tmp_path)
    assert "_owid__sources.yml is not what the contracts say" in changed
    assert "_gone__sources.yml belongs to no contract" in orphaned


def test_what_is_registered_holds_no_property_of_ours() -> None:
    text = registered_schema(load_contracts()["tracking_events"]).schema_str
    assert text is not None
    schema = json.loads(text)
    assert set(schema) == {"type", "name", "namespace", "doc", "fields"}
    assert set(schema["fields"][1]) == {"name", "type", "doc"}
    assert fastavro.parse_schema(schema)


def test_a_time_in_a_json_topic_is_registered_as_the_number_that_it_is(tmp_path: Path) -> None:
    fields = [field(), field(name="at", type="long", time="unix_seconds")]
    contract = read_contract(write(tmp_path, fields=fields))
    assert json.loads(registered_schema(contract).schema_str or "")["properties"]["at"]["type"] == "integer"


def test_hostile_names_are_quoted_in_ddl() -> None:
    contract = load_contracts()["emissions-topic"]
    hostile = dataclasses.replace(contract.fields[0], name='x"; drop table raw.y; --')
    ddl = create_table(dataclasses.replace(contract, fields=(hostile,))).as_string(None)
    assert '"x""; drop table raw.y; --" text not null' in ddl


def test_a_long_topic_has_a_table_of_its_own(tmp_path: Path) -> None:
    topics = ["long." * 40 + end for end in "ab"]
    for topic in topics:
        (tmp_path / f"{topic}.avsc").write_text(write(tmp_path).read_text().replace("emissions-topic", topic))
    tables = [contract.table for contract in load_contracts(tmp_path).values() if contract.topic in topics]
    assert len(set(tables)) == 2
    assert all(len(table) <= 63 for table in tables)


NOTHINGS = {"type": "array", "items": {"type": "record", "name": "Nothing", "fields": []}}


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"topic": "other"}, "name the file after it"),
        ({"encoding": "xml"}, 'encoding "xml" is not known'),
        ({"key": "nothing"}, 'the key "nothing" is no field'),
        ({"fields": [field(doc=None) | {"type": "bytes"}]}, "can't be a raw column"),
        ({"fields": [{"name": "country", "type": "string", "personal": False}]}, 'has no "doc"'),
        ({"fields": [field(), field(name="_kafka_offset")]}, "kept for the sink's own columns"),
        ({"fields": [field(type=["string", "int"])]}, "a union must be null and one other type"),
        ({"fields": [field(time="unix_seconds")]}, "needs an int or a long"),
        ({"fields": [field(), field()]}, "is there twice"),
        ({"fields": [field(), field(name="xmin")]}, "has a column of that name"),
        ({"fields": [field(), field(name="é" * 32)]}, "1 to 63 bytes"),
        ({"fields": [field(), field(name='a"b')]}, "quotation mark"),
        ({"fields": [field(), field(name="a b")], "encoding": "avro"}, "Avro's names"),
        ({"fields": [field(), field(name="m", type={"type": "map", "values": "int"})]}, "can't be a raw column"),
        ({"fields": [field(), field(name="m", type={"type": "array", "items": "bytes"})]}, "inside a jsonb column"),
        ({"fields": [field(), field(name="m", type=NOTHINGS)]}, "without fields holds nothing"),
        (
            {"fields": [field(), field(name="m", type={"type": "array", "items": "int"})], "encoding": "debezium"},
            "use a string",
        ),
        ({"fields": [field(), field(name="d", type={"type": "int", "logicalType": "date"})]}, "a JSON topic's fields"),
        ({"fields": [field(), field(name="m", type={"type": "array", "items": "int"})]}, "a JSON topic's fields"),
    ],
)
def test_a_wrong_contract_is_refused_with_what_to_mend(
    tmp_path: Path, changes: dict[str, object], sentence: str
) -> None:
    with pytest.raises(ContractError, match=r"emissions-topic\.avsc") as refused:
        read_contract(write(tmp_path, **changes))
    assert sentence in str(refused.value)


def test_two_topics_may_not_share_a_raw_table(tmp_path: Path) -> None:
    write(tmp_path)
    document = json.loads((tmp_path / "emissions-topic.avsc").read_text())
    (tmp_path / "emissions.topic.avsc").write_text(json.dumps(document | {"topic": "emissions.topic"}))
    with pytest.raises(ContractError, match=r"would share raw\.emissions_topic"):
        load_contracts(tmp_path)
