"""The bike models of the simulator, sent as change capture would send a snapshot of them, and landed."""

from __future__ import annotations

from confluent_kafka import Producer
from confluent_kafka.schema_registry import Schema, SchemaRegistryClient

from ingest.contracts.contract import load_contracts
from ingest.sink.drain import drain
from services.settings import Settings
from tests.fakes.debezium import TIME, encode, envelope

TOPIC = "adventure.public.bike_emissions"
# Price (US dollars), scope 1 and scope 2 (kg CO2e a kilometre) by model.
BIKE_MODELS = {5: (1912.15, 0.005, -0.016), 6: (2171.29, 0.005, -0.021), 7: (1481.94, 0.005, -0.011)}


def land_bike_models(settings: Settings) -> None:
    """Land a snapshot of the models, without which every trip is of an unknown one. Once more changes nothing."""
    schema = envelope(
        {
            "product_category_id": "int",
            "name": "string",
            "avg_cost": "double",
            "co2e_km_scope1": "double",
            "co2e_km_scope2": "double",
            "modified_at": TIME,
        }
    )
    registry = SchemaRegistryClient({"url": settings.registry_url})
    schema_id = registry.register_schema(load_contracts()[TOPIC].subject, Schema(schema, "AVRO"))
    changes = [
        {
            "op": "r",
            "after": {
                "product_category_id": model,
                "name": f"Bike {model}",
                "avg_cost": price_usd,
                "co2e_km_scope1": scope1,
                "co2e_km_scope2": scope2,
                "modified_at": "2020-01-01T00:00:00Z",
            },
            "source": {"lsn": 1, "ts_us": 1_600_000_000_000_000},
        }
        for model, (price_usd, scope1, scope2) in BIKE_MODELS.items()
    ]
    producer = Producer({"bootstrap.servers": settings.bootstrap_servers})
    for value in encode(schema, changes, schema_id):
        producer.produce(TOPIC, value)
    assert producer.flush(30) == 0
    assert drain(settings, [TOPIC])[TOPIC].dead_letters == 0
