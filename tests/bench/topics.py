"""The bench's topics, with records that are the same in each run."""

from __future__ import annotations

import io
import random
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import fastavro
from confluent_kafka import Producer
from confluent_kafka.schema_registry import SchemaRegistryClient

from ingest.contracts.contract import CONTRACTS_FOLDER, Contract, load_contracts
from services.settings import Settings

FLAT, SAMPLE, NESTED = "bench_flat", "bench_flat_sample", "tracking_events"
_FIRST_SECOND = 1_700_000_000
_RANDOM_BITS = 1_000_003


def write_contracts(folder: Path) -> None:
    """Write the contracts of the bench's topics, for SCOPEHOUSE_CONTRACTS_DIR."""
    folder.mkdir(parents=True, exist_ok=True)
    flat = Path(__file__).with_name("contracts") / f"{FLAT}.avsc"
    shutil.copy(flat, folder)
    shutil.copy(CONTRACTS_FOLDER / f"{NESTED}.avsc", folder)
    (folder / f"{SAMPLE}.avsc").write_text(flat.read_text().replace(f'"{FLAT}"', f'"{SAMPLE}"'))


def produce(settings: Settings, topic: str, count: int) -> None:
    """Send `count` records, spread over the partitions."""
    contract = load_contracts(settings.contracts_dir)[topic]
    schema_id = SchemaRegistryClient({"url": settings.registry_url}).get_latest_version(contract.subject).schema_id
    encode = _encoder(contract, schema_id)
    record = _event if topic == NESTED else _position
    producer = Producer(
        {
            "bootstrap.servers": settings.bootstrap_servers,
            "linger.ms": 20,
            "batch.size": 1_000_000,
            "queue.buffering.max.messages": 200_000,
        }
    )
    for number in range(count):
        value = encode(record(number))
        while True:
            try:
                producer.produce(topic, value, str(number).encode(), partition=number % contract.partitions)
                break
            except BufferError:
                producer.poll(0.1)
        if number % 1_000 == 0:
            producer.poll(0)
    if producer.flush(60):
        raise RuntimeError(f"Kafka did not take all records of {topic}.")


def _encoder(contract: Contract, schema_id: int) -> Callable[[dict[str, Any]], bytes]:
    schema = fastavro.parse_schema(contract.schema)
    header = b"\x00" + schema_id.to_bytes(4, "big")

    def encode(record: dict[str, Any]) -> bytes:
        body = io.BytesIO(header)
        body.seek(len(header))
        fastavro.schemaless_writer(body, schema, record)
        return body.getvalue()

    return encode


def _position(number: int) -> dict[str, Any]:
    bits = number * 2_654_435_761 % _RANDOM_BITS
    return {
        "id": number,
        "vehicle_id": bits % 5_000,
        "measured_at": (_FIRST_SECOND + number) * 1_000,
        "speed_kmh": bits / 8_000,
        "fuel_percent": None if bits % 10 == 0 else bits / 10_000,
        "status": ("driving", "charging", "parked", "in the workshop")[bits % 4],
    }


def _event(number: int) -> dict[str, Any]:
    chance = random.Random(number)
    journeys = [
        {
            "vehicle_id": number % 5_000,
            "product_id": 5 + number % 3,
            "journey_km": chance.random() * 20,
            "total_km": number / 100,
        }
        for _ in range(number % 4)
    ]
    return {
        "id": number,
        "customer_id": number % 50_000,
        "date_time": _FIRST_SECOND + number % 10_000_000,
        "measurement_list": journeys,
    }
