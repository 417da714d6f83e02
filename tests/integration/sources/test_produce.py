"""What is produced is what the broker has: consumed back, and decoded with the registered schema."""

import io
import json
import signal
import struct
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from functools import cache
from math import fsum
from pathlib import Path

import fastavro
import pytest
from confluent_kafka import Consumer, KafkaError, Message, TopicPartition
from confluent_kafka.admin import AdminClient
from confluent_kafka.cimpl import NewTopic
from confluent_kafka.schema_registry import SchemaRegistryClient

from ingest.contracts.contract import load_contracts
from ingest.sources import country_emissions, tracking_events
from ingest.sources.bike_fleet import Fleet
from ingest.sources.country_emissions import produce_country_emissions
from ingest.sources.owid_co2 import OwidUnreachableError
from ingest.sources.topic_writer import ProduceError, TopicWriter, avro_header
from ingest.sources.tracking_events import TrackingEventsProduced, produce_tracking_events
from services.settings import Settings

COMMAND = str(Path(sys.executable).with_name("scopehouse"))
FACTORS = {5: -0.011, 6: -0.016, 7: -0.006}


def consumed(settings: Settings, topic: str) -> list[tuple[bytes, bytes]]:
    """Every (key, value) of a topic, partition by partition."""
    return [(message.key(), message.value()) for message in messages(settings, topic)]


def messages(settings: Settings, topic: str) -> list[Message]:
    """Every record of a topic, partition by partition."""
    consumer = Consumer(
        {
            "bootstrap.servers": settings.bootstrap_servers,
            "group.id": "test",
            "enable.auto.commit": False,
            "enable.partition.eof": True,
            "fetch.wait.max.ms": 10,
        }
    )
    partitions = consumer.list_topics(topic, timeout=10).topics[topic].partitions
    consumer.assign([TopicPartition(topic, partition, 0) for partition in partitions])
    records, ended = [], 0
    while ended < len(partitions):
        for message in consumer.consume(10_000, timeout=0.1):
            if message.error() is None:
                records.append(message)
            else:
                assert message.error().code() == KafkaError._PARTITION_EOF
                ended += 1
    consumer.close()
    return records


def events_of(settings: Settings, produced: TrackingEventsProduced) -> list[dict]:
    """The events of one run, in the order of their ids, decoded by fastavro as the registry says."""
    registry = SchemaRegistryClient({"url": settings.registry_url})

    @cache
    def schema(schema_id: int) -> dict:
        return fastavro.parse_schema(json.loads(registry.get_schema(schema_id).schema_str))

    events = []
    for key, value in consumed(settings, tracking_events.TOPIC):
        if key.isdigit() and produced.first_event_id <= int(key) <= produced.last_event_id:
            magic, schema_id = struct.unpack(">bI", value[:5])
            event = fastavro.schemaless_reader(io.BytesIO(value[5:]), schema(schema_id), None)
            assert magic == 0
            assert str(event["id"]).encode() == key
            events.append(event)
    return sorted(events, key=lambda event: event["id"])


def assert_agrees(produced: TrackingEventsProduced, events: list[dict]) -> None:
    """The broker has just what the run said."""
    measurements = [one for event in events for one in event["measurement_list"]]
    assert [event["id"] for event in events] == list(range(produced.first_event_id, produced.last_event_id + 1))
    assert len(events) == produced.events
    assert len(measurements) == produced.measurements
    assert fsum(FACTORS[one["product_id"]] * one["journey_km"] for one in measurements) == pytest.approx(
        produced.expected_operating_kg_co2e, rel=1e-9
    )


def test_two_runs_make_one_stream_that_a_run_of_both_would_have_made(stack: Settings) -> None:
    reports = []
    first = produce_tracking_events(stack, events=3_000, seed=101, progress=lambda *report: reports.append(report))
    second = produce_tracking_events(stack, events=2_000, seed=101)
    assert second.first_event_id == first.last_event_id + 1
    assert_agrees(first, events_of(stack, first))
    assert_agrees(second, events_of(stack, second))
    assert reports[-1] == ("tracking_events", 3_000, 3_000)

    both = events_of(stack, replace(first, last_event_id=second.last_event_id))
    expected = Fleet(202).take(5_000)
    measurements = [one for event in both for one in event["measurement_list"]]
    assert [one["vehicle_id"] for one in measurements] == expected.vehicle_ids.tolist()
    assert [one["total_km"] for one in measurements] == (expected.totals_m / 1000).tolist()
    assert [event["date_time"] for event in both] == expected.times.tolist()


def test_a_run_goes_on_behind_thousands_of_records_that_are_not_its_own(stack: Settings) -> None:
    first = produce_tracking_events(stack, events=10, seed=102)
    produce_tracking_events(stack, events=6_000, seed=103)
    second = produce_tracking_events(stack, events=10, seed=102)
    assert second.first_event_id == first.last_event_id + 1


def test_live_events_are_dated_now_and_come_from_bikes_of_their_own(stack: Settings) -> None:
    history = produce_tracking_events(stack, events=100, seed=104)
    before = int(time.time())
    live = produce_tracking_events(stack, events=40, rate=100, seed=104)
    events = events_of(stack, live)
    assert_agrees(live, events)
    assert all(before <= event["date_time"] <= time.time() for event in events)

    def bikes(some: list[dict]) -> set[int]:
        return {one["vehicle_id"] for event in some for one in event["measurement_list"]}

    assert not bikes(events) & bikes(events_of(stack, history))


@pytest.mark.parametrize(
    ("arguments", "seed"), [(["--rate", "500", "--events", "0"], 105), (["--events", "90000000"], 106)]
)
def test_an_interrupted_run_says_how_many_events_are_delivered(
    stack: Settings, arguments: list[str], seed: int
) -> None:
    words = [COMMAND, "produce", "tracking-events", "--json", "--seed", str(seed), *arguments]
    process = subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    fleet = Fleet(2 * seed + ("--rate" in arguments))
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline and tracking_events._position(stack, fleet, 4) < 200:
        time.sleep(0.1)
    process.send_signal(signal.SIGINT)
    output, errors = process.communicate(timeout=60)
    assert process.returncode == 130, errors
    produced = TrackingEventsProduced(**json.loads(output))
    assert produced.is_interrupted
    assert produced.events >= 200
    assert_agrees(produced, events_of(stack, produced))


def test_events_that_kafka_has_thrown_away_are_not_sent_a_second_time(
    stack: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    topic = "tracking_events_of_short_memory"
    admin = AdminClient({"bootstrap.servers": stack.bootstrap_servers})
    admin.create_topics([NewTopic(topic, 2)])[topic].result(30)
    fleet = Fleet(214)
    with TopicWriter(stack, topic) as writer:
        writer.write((str(fleet.first_event_id + index).encode(), b"") for index in range(500))
    monkeypatch.setattr(tracking_events, "TOPIC", topic)
    assert tracking_events._position(stack, fleet, 2) == 500
    ends = [TopicPartition(topic, partition, -1) for partition in range(2)]
    for future in admin.delete_records(ends).values():
        future.result(30)
    assert tracking_events._position(stack, fleet, 2) == 500
    admin.delete_topics([topic])[topic].result(30)


def test_country_rows_arrive_as_legal_json_under_their_country(stack: Settings, tmp_path: Path) -> None:
    file = tmp_path / "co2.csv"
    file.write_text(
        "country,year,iso_code,population,gdp,co2,co2_per_capita\n"
        "Testland,2000,XZZ,NaN,,1.5,inf\nTestland,2001,XZZ,10,20,30,40\n",
        encoding="utf-8",
    )
    produced = produce_country_emissions(stack, source=str(file))
    assert (produced.rows, produced.countries, produced.is_sample) == (2, 1, False)
    rows = [
        json.loads(value, parse_constant=pytest.fail)
        for key, value in consumed(stack, country_emissions.TOPIC)
        if key == b"Testland"
    ]
    nothing = {"population": None, "gdp": None, "co2_per_capita": None}
    first = {"country": "Testland", "year": 2000, "iso_code": "XZZ", "co2": 1.5, "is_sample": False}
    assert rows[0] == first | nothing
    assert rows[1]["gdp"] == 20


def test_a_run_tells_where_its_own_records_lie_also_between_those_of_another(stack: Settings, tmp_path: Path) -> None:
    header = "country,year,iso_code,population,gdp,co2,co2_per_capita\n"
    runs = {}
    for name in ("Hereland", "Thereland"):
        file = tmp_path / f"{name}.csv"
        lines = (f"{name} {number},2000,,1,1,1,1\n" for number in range(4_000))
        file.write_text(header + "".join(lines), encoding="utf-8")
        runs[name] = file
    with ThreadPoolExecutor(len(runs)) as both:
        sent = {name: both.submit(produce_country_emissions, stack, source=str(file)) for name, file in runs.items()}
    places: dict[str, list[tuple[int, int]]] = {name: [] for name in runs}
    for message in messages(stack, country_emissions.TOPIC):
        name = message.key().decode().partition(" ")[0]
        if name in places:
            places[name].append((message.partition(), message.offset()))
    for name, run in sent.items():
        told = [(one.partition, offset) for one in run.result().offsets for offset in range(one.start, one.end)]
        assert len(told) == run.result().rows == 4_000
        assert sorted(told) == sorted(places[name])


def test_the_sample_stands_in_for_the_official_file_only_where_that_is_allowed(
    stack: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(country_emissions, "OFFICIAL_URL", "http://127.0.0.1:9/co2.csv")
    alone = stack.model_copy(update={"owid_co2_source": None, "cache_dir": tmp_path})
    with pytest.raises(OwidUnreachableError):
        produce_country_emissions(alone)
    produced = produce_country_emissions(alone, allow_sample=True)
    assert (produced.is_sample, produced.rows, produced.source) == (True, 2_100, "synthetic sample")
    asked_for = alone.model_copy(update={"owid_co2_source": "http://127.0.0.1:9/mine.csv"})
    with pytest.raises(OwidUnreachableError):
        produce_country_emissions(asked_for, allow_sample=True)
    sample = [
        json.loads(value) for key, value in consumed(stack, country_emissions.TOPIC) if key.startswith(b"Sampleland")
    ]
    assert len(sample) == 2_100
    assert all(row["is_sample"] for row in sample)


def test_a_topic_that_is_missing_is_one_sentence(stack: Settings) -> None:
    with pytest.raises(ProduceError, match="has no topic never_made: run `scopehouse migrate`"):
        TopicWriter(stack, "never_made")


def test_a_contract_that_is_not_registered_as_it_stands_is_one_sentence(stack: Settings) -> None:
    contract = load_contracts()["tracking_events"]
    other = contract.schema | {"fields": contract.schema["fields"][:2]}
    for changed in (replace(contract, topic="never_registered"), replace(contract, schema=other)):
        with pytest.raises(ProduceError, match="run `scopehouse migrate`"):
            avro_header(stack, changed)


def test_a_record_that_the_broker_will_not_take_ends_the_run(stack: Settings) -> None:
    with pytest.raises(ProduceError, match=r"took .* of .* records"), TopicWriter(stack, "emissions-topic") as writer:
        writer.write([(b"too large", b"x" * 2_000_000)])


def test_a_broker_that_is_not_there_is_one_sentence(stack: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ingest.sources.topic_writer.CONNECT_SECONDS", 1.0)
    with pytest.raises(ProduceError, match="No Kafka broker answers"):
        TopicWriter(stack.model_copy(update={"kafka_bootstrap_servers": "127.0.0.1:9"}), "emissions-topic")


def test_a_run_in_a_thread_works_too(stack: Settings) -> None:
    results: list[TrackingEventsProduced] = []
    thread = threading.Thread(target=lambda: results.append(produce_tracking_events(stack, events=5, seed=108)))
    thread.start()
    thread.join(60)
    assert results[0].events == 5
