"""A trip's numbers taken back to where they came from: inputs, formulas, factor, bike model, record, dbt run.

Nothing is believed: each formula is computed here once more from its inputs and compared with what is stored.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import psycopg
from psycopg import errors
from psycopg.rows import dict_row

from scopehouse.original_record import OriginalRecord, original_record
from services.errors import MendableError
from services.settings import Settings

TABLE = "mobility.fct_trip_emissions"
MEASUREMENT_KEY = re.compile(r"-?\d+-\d+")
_CHANGES = "adventure.public.bike_emissions"
_RELATIVE_TOLERANCE = 1e-9
# A version's columns, as the change log has them.
_OF_CHANGE = {
    "name": "name",
    "purchase_price_usd": "avg_cost",
    "scope1_kg_co2e_per_km": "co2e_km_scope1",
    "scope2_kg_co2e_per_km": "co2e_km_scope2",
}

_UNITS = (
    ("_kg_co2e_per_km", "kg CO2e/km"),
    ("kg_co2e_per_usd", "kg CO2e/USD"),
    ("_kg_co2e", "kg CO2e"),
    ("_percent", "%"),
    ("_km", "km"),
    ("_usd", "USD"),
)


class ExplainError(MendableError):
    """The row can't be explained: there is none, or more than one, or nothing was built."""


@dataclass(frozen=True, slots=True)
class Quantity:
    """A number with its unit, where it stands and what dbt's documentation says of it."""

    name: str
    value: float | None
    unit: str
    table: str
    description: str | None


@dataclass(frozen=True, slots=True)
class Formula:
    """How a column is computed: in names, with the numbers in it, the result here and the one that is stored.

    `result` is None where an input is not known. `agrees`: both are the same to 1e-9, or both are not known.
    """

    column: str
    unit: str
    expression: str
    with_numbers: str
    result: float | None
    stored: float | None
    agrees: bool


@dataclass(frozen=True, slots=True)
class Explanation:
    """Everything behind one row. Maps hold columns as JSON has them, times are UTC.

    `problems` has a sentence for each thing that does not fit; empty where the row is as it should be. `bike_model` is
    None for a model that had no version then, `dbt_run` where the run is not on record. A change of the bike model has
    raw's columns and `_topic`; `_dead_letter` has its partition and offset before it was replayed, else None.
    """

    table: str
    key: str
    row: dict[str, Any]
    inputs: list[Quantity]
    formulas: list[Formula]
    emission_factor: dict[str, Any] | None
    production_estimate: dict[str, Any] | None
    climatiq: dict[str, Any] | None
    bike_model: dict[str, Any] | None
    bike_model_changes: list[dict[str, Any]]
    record: OriginalRecord
    measurement_position: int | None
    measurement_count: int | None
    dbt_run: dict[str, Any] | None
    problems: list[str] = field(default_factory=list)


def unit_of(column: str) -> str:
    """The unit that a column's name ends with; empty where it has none."""
    return next((unit for ending, unit in _UNITS if column.endswith(ending)), "")


def explain(settings: Settings, table: str, key: str | None, event_id: int | None = None) -> Explanation:
    """Explain the row of `table` with that key, or the trip of an event, or without both the latest.

    Raises:
        ExplainError: there is no such row (it says so where it was rejected), there are several, or the tables have not
            been built.
        MendableError: Postgres can't be reached.
    """
    if table != TABLE:
        raise ExplainError(f"Rows of {table} can't be explained: give {TABLE}.")
    try:
        with psycopg.connect(settings.url_of("transform"), row_factory=dict_row, connect_timeout=10) as connection:
            connection.execute("set timezone = 'UTC'")
            connection.execute("set transaction isolation level repeatable read, read only")
            return _explain(settings, connection, _find(connection, key, event_id))
    except (errors.UndefinedTable, errors.UndefinedColumn, errors.InvalidSchemaName) as error:
        raise ExplainError(
            f"Not everything that explains a trip has been built ({error.diag.message_primary}): "
            "run `scopehouse demo`, or `scopehouse migrate` and `dbt build`."
        ) from error
    except psycopg.OperationalError as error:
        reason = (str(error) or type(error).__name__).splitlines()[0]
        raise MendableError(f"Postgres can't be used ({reason}): run `scopehouse up`, or mend DATABASE_URL.") from error


def _find(connection: psycopg.Connection[dict[str, Any]], key: str | None, event_id: int | None) -> str:
    """The whole measurement_key."""
    if event_id is not None:
        rows = connection.execute(
            "select measurement_key from mobility.fct_trip_emissions where event_id = %s order by 1", [event_id]
        ).fetchall()
        what = f"trip of event {event_id}"
    elif key is None:
        rows = connection.execute(
            "select measurement_key from mobility.fct_trip_emissions order by event_at desc, measurement_key limit 1"
        ).fetchall()
        what = "trip"
    else:
        rows = connection.execute(
            "select measurement_key from mobility.fct_trip_emissions where measurement_key = %s", [key]
        ).fetchall()
        what = f"row with the key {key}"
    if not rows:
        _say_if_rejected(connection, key, event_id)
        if key is not None and not MEASUREMENT_KEY.fullmatch(key):
            raise ExplainError(
                f"{key} is no key of {TABLE}: give a measurement_key, the event's id and the place in it (as 17-2)."
            )
        raise ExplainError(f"{TABLE} has no {what}: `--latest` explains the latest trip.")
    if len(rows) > 1:
        keys = ", ".join(row["measurement_key"] for row in rows[:3]) + (", ..." if len(rows) > 3 else "")
        raise ExplainError(f"{TABLE} has more than one {what}: give one of {keys}.")
    return str(rows[0]["measurement_key"])


def _say_if_rejected(connection: psycopg.Connection[dict[str, Any]], key: str | None, event_id: int | None) -> None:
    """Raises ExplainError where the measurement was rejected, or one of the event, or the event whole (by the sink)."""
    of_key = re.match(r"(-?\d{1,18})-", key or "")
    rejected = connection.execute(
        """
        select
            rejected_measurement_key,
            rejection_reason,
            rejection_detail,
            source_topic,
            coalesce(letters.partition, source_partition) as source_partition,
            coalesce(letters."offset", source_offset) as source_offset
        from mobility.rejected_measurements as rejected
        left join ingest.dead_letters as letters
            on
                letters.topic = source_topic
                and letters.replayed_partition = source_partition
                and letters.replayed_offset = source_offset
        where
            rejected_measurement_key = %(key)s::text
            or rejected.event_id = %(event)s::numeric
            or (rejected.event_id = %(event_of_key)s::numeric and customer_id is null)
        order by rejected_measurement_key <> %(key)s::text, rejected_measurement_key
        """,
        {"key": key, "event": event_id, "event_of_key": of_key and of_key[1]},
    ).fetchall()
    if rejected:
        first, more = rejected[0], len(rejected) - 1
        raise ExplainError(
            f"{key or f'Event {event_id}'} was rejected as {first['rejection_reason']} "
            f"({first['rejection_detail'].rstrip('.')}): its record is {first['source_topic']}, "
            f"partition {first['source_partition']}, offset {first['source_offset']}, "
            f"see {first['rejected_measurement_key']}{f' and {more} more' if more else ''} in "
            "mobility.rejected_measurements."
        )


def _explain(settings: Settings, connection: psycopg.Connection[dict[str, Any]], key: str) -> Explanation:
    row = _one(
        connection,
        "select to_jsonb(fact) as found from mobility.fct_trip_emissions as fact where measurement_key = %s",
        [key],
    )
    assert row is not None  # noqa: S101 one transaction, one snapshot
    model = _one(
        connection,
        "select to_jsonb(dim) as found from mobility.dim_bike_model as dim where bike_model_key = %s",
        [row["bike_model_key"]],
    )
    factor = _one(
        connection,
        "select to_jsonb(dim) as found from mobility.dim_emission_factor as dim where emission_factor_key = %s",
        [row["emission_factor_key"]],
    )
    estimate = model and _one(
        connection,
        "select to_jsonb(dim) as found from mobility.dim_production_estimate as dim where purchase_price_usd = %s",
        [model["purchase_price_usd"]],
    )
    climatiq = None
    if factor and model and factor["factor_source"] == "climatiq":
        climatiq = _one(
            connection,
            """
            select to_jsonb(answers) as found
            from raw.climatiq_estimates as answers
            inner join intermediate.int_mobility__climatiq_estimates as used
                using (request_hash, price_usd, release, responded_at)
            where used.emission_factor_key = %s and used.price_usd = round(%s::float8::numeric, 2) and used.is_in_use
            limit 1
            """,
            [row["emission_factor_key"], model["purchase_price_usd"]],
        )
    formulas = formulas_of(row, model, factor, climatiq)
    record = original_record(settings, connection, row["source_topic"], row["source_partition"], row["source_offset"])
    measurements = (record.content or {}).get("measurement_list") or []
    position = position_of(key, row["event_id"], len(measurements))
    explanation = Explanation(
        table=TABLE,
        key=key,
        row=row,
        inputs=_inputs(connection, row, model, factor, climatiq),
        formulas=formulas,
        emission_factor=factor,
        production_estimate=estimate,
        climatiq=climatiq,
        bike_model=model,
        bike_model_changes=_changes(connection, model) if model else [],
        record=record,
        measurement_position=position,
        measurement_count=len(measurements) if record.content else None,
        dbt_run=_one(
            connection,
            """
            select to_jsonb(run) - 'model' as found
            from ingest.model_runs as run
            inner join intermediate.int_mobility__measurements as stored on stored.xmin = run.transaction_id::xid
            where run.model = 'intermediate.int_mobility__measurements' and stored.measurement_key = %s
            order by run.transaction_id desc
            limit 1
            """,
            [key],
        ),
    )
    explanation.problems.extend(problems_of(explanation, measurements[position - 1] if position else None))
    return explanation


def formulas_of(
    row: Mapping[str, Any],
    model: Mapping[str, Any] | None,
    factor: Mapping[str, Any] | None,
    climatiq: Mapping[str, Any] | None,
) -> list[Formula]:
    """The columns of a trip that are computed, in the order in which they are, from its bike model and factor."""
    scope1 = model and model["scope1_kg_co2e_per_km"]
    scope2 = model and model["scope2_kg_co2e_per_km"]
    price = model and model["purchase_price_usd"]
    market = None if scope2 is None else max(scope2, 0.0)
    avoided = None if scope2 is None else min(scope2, 0.0)
    journey, total = row["journey_km"], row["total_km"]
    per_km = None if scope1 is None or scope2 is None else scope1 + market + avoided
    if climatiq is not None:
        production = ("Climatiq's estimate for the purchase price", "{}", [climatiq["kg_co2e"]], lambda kg: kg)
    else:
        value = factor and factor["kg_co2e_per_usd"]
        production = (
            "purchase_price_usd * kg_co2e_per_usd",
            "{} USD * {} kg CO2e/USD",
            [price, value],
            lambda usd, kg: usd * kg,
        )
    stored = {name: row[name] for name in ("scope1_kg_co2e", "scope2_market_kg_co2e", "avoided_kg_co2e")}
    steps: list[tuple[str, str, str, list[Any], Any]] = [
        (
            "scope1_kg_co2e",
            "scope1_kg_co2e_per_km * journey_km",
            "{} kg CO2e/km * {} km",
            [scope1, journey],
            lambda a, b: a * b,
        ),
        (
            "scope2_market_kg_co2e",
            "max(scope2_kg_co2e_per_km, 0) * journey_km",
            "max({}, 0) kg CO2e/km * {} km",
            [scope2, journey],
            lambda a, b: max(a, 0.0) * b,
        ),
        (
            "avoided_kg_co2e",
            "min(scope2_kg_co2e_per_km, 0) * journey_km",
            "min({}, 0) kg CO2e/km * {} km",
            [scope2, journey],
            lambda a, b: min(a, 0.0) * b,
        ),
        (
            "operating_kg_co2e",
            "scope1_kg_co2e + scope2_market_kg_co2e + avoided_kg_co2e",
            "{} + {} + {} kg CO2e",
            list(stored.values()),
            lambda a, b, c: a + b + c,
        ),
        (
            "total_operating_kg_co2e",
            "(scope1_kg_co2e_per_km + scope2_kg_co2e_per_km) * total_km",
            "{} kg CO2e/km * {} km",
            [per_km, total],
            lambda a, b: a * b,
        ),
        ("production_kg_co2e", *production),
        (
            "break_even_percent",
            "-total_operating_kg_co2e / production_kg_co2e * 100",
            "-({}) kg CO2e / {} kg CO2e * 100",
            [row["total_operating_kg_co2e"], row["production_kg_co2e"]],
            lambda a, b: -a / b * 100 if b else None,
        ),
    ]
    return [_formula(row, *step) for step in steps]


def _formula(
    row: Mapping[str, Any], column: str, expression: str, template: str, inputs: list[Any], compute: Any
) -> Formula:
    result = None if any(each is None for each in inputs) else compute(*inputs)
    shown = template.format(*("(not known)" if each is None else f"{each:.12g}" for each in inputs))
    stored = row[column]
    if result is None or stored is None:
        agrees = result is None and stored is None
    else:
        agrees = math.isclose(result, stored, rel_tol=_RELATIVE_TOLERANCE, abs_tol=1e-12)
    return Formula(column, unit_of(column), expression, shown, result, stored, agrees)


def position_of(key: str, event_id: int, count: int) -> int | None:
    """Which of an event's `count` measurements a key is of, from 1; None where it is none of them."""
    return next((position for position in range(1, count + 1) if key == f"{event_id}-{position}"), None)


def problems_of(explanation: Explanation, measurement: Mapping[str, Any] | None) -> list[str]:
    """A sentence for each thing that does not fit together."""
    row, model = explanation.row, explanation.bike_model
    found = [
        f"{each.column} is stored as {each.stored} and computes to {each.result}."
        for each in explanation.formulas
        if not each.agrees
    ]
    if model and not model["valid_from"] <= row["event_at"] < model["valid_to"] and model["valid_from"] != "-infinity":
        found.append("The bike model's version was not valid at the event's time.")
    if model and not explanation.bike_model_changes:
        found.append("The change that the bike model's version came by is not in the log.")
    for change in explanation.bike_model_changes if model else ():
        # What can't be true is not known in the version.
        found += [
            f"The bike model's {name} is {model[name]}, its change says {change[of_change]}."
            for name, of_change in _OF_CHANGE.items()
            if model[name] is not None and model[name] != change[of_change]
        ]
    if row["bike_model_key"] is not None and model is None:
        found.append("The bike model's version is not there any more: run `dbt build`.")
    if explanation.record.content is None:
        found.append("The original record is neither in Kafka nor in raw.")
    elif measurement is None:
        found.append("The original record has no such measurement.")
    else:
        said = {
            "vehicle_id": measurement["vehicle_id"],
            "bike_model_id": measurement["product_id"],
            "journey_km": measurement["journey_km"],
            "total_km": measurement["total_km"],
        }
        found += [
            f"{name} is {row[name]}, the original record says {value}."
            for name, value in said.items()
            if not math.isclose(row[name], value, rel_tol=_RELATIVE_TOLERANCE)
        ]
    return found


def _inputs(
    connection: psycopg.Connection[dict[str, Any]],
    row: Mapping[str, Any],
    model: Mapping[str, Any] | None,
    factor: Mapping[str, Any] | None,
    climatiq: Mapping[str, Any] | None,
) -> list[Quantity]:
    """What the formulas start from."""
    read: list[tuple[str, Mapping[str, Any], tuple[str, ...]]] = [(TABLE, row, ("journey_km", "total_km"))]
    if model:
        names = ("scope1_kg_co2e_per_km", "scope2_kg_co2e_per_km", "purchase_price_usd")
        read.append(("mobility.dim_bike_model", model, names))
    if climatiq:
        read.append(("raw.climatiq_estimates", climatiq, ("kg_co2e",)))
    elif factor:
        read.append(("mobility.dim_emission_factor", factor, ("kg_co2e_per_usd",)))
    described = {
        (each["relation"], each["attname"]): each["description"]
        for each in connection.execute(
            "select attrelid::regclass::text as relation, attname, col_description(attrelid, attnum) as description"
            " from pg_attribute where attrelid = any(%s::text[]::regclass[]) and attnum > 0",
            [[table for table, _, _ in read]],
        )
    }
    return [
        Quantity(name, values[name], unit_of(f"_{name}"), table, described.get((table, name)))
        for table, values, names in read
        for name in names
    ]


def _changes(connection: psycopg.Connection[dict[str, Any]], model: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The change log's entry that a version of a bike model was made from; its first repeat, if it was read again.

    Lives, order and times are those of dim_bike_model, of the changes that it has read.
    """
    found = connection.execute(
        """
        with transactions as (
            select distinct on (log._source_at) log.*
            from raw.adventure_public_bike_emissions as log
            inner join ingest.model_offsets as mark
                on
                    mark.model = 'mobility.dim_bike_model'
                    and mark.topic = %(topic)s
                    and mark.partition = log._kafka_partition
                    and log._kafka_offset < mark.next_offset
            where log.product_category_id = %(bike_model_id)s
            order by
                log._source_at, log._source_lsn desc, log._kafka_partition < 0, log._kafka_partition, log._kafka_offset
        ),

        lives as (
            select
                *,
                row_number() over in_order as change_number,
                max(_source_at) filter (where _op = 'd') over earlier as previous_deleted_at
            from transactions
            window
                in_order as (order by _source_lsn, _source_at),
                earlier as (in_order rows between unbounded preceding and 1 preceding)
        ),

        starts as (
            select
                *,
                jsonb_build_array(name, avg_cost, co2e_km_scope1, co2e_km_scope2) as described
            from lives
            where
                _op <> 'd'
                and case
                    when %(valid_from)s = '-infinity' then _op = 'r' and change_number = 1
                    else greatest(modified_at, previous_deleted_at) = %(valid_from)s::timestamptz
                end
        )

        select
            to_jsonb(log) as found,
            letters.partition,
            letters."offset"
        from starts
        inner join raw.adventure_public_bike_emissions as log using (_kafka_partition, _kafka_offset)
        left join ingest.dead_letters as letters
            on
                letters.topic = %(topic)s
                and letters.replayed_partition = log._kafka_partition
                and letters.replayed_offset = log._kafka_offset
        where
            starts.change_number > coalesce((select max(change_number) from starts where described <> (
                select described from starts order by change_number desc limit 1
            )), 0)
        order by starts.change_number
        limit 1
        """,
        {"topic": _CHANGES, **model},
    ).fetchall()
    return [
        {
            "_topic": _CHANGES,
            **each["found"],
            "_dead_letter": None if each["partition"] is None else [each["partition"], each["offset"]],
        }
        for each in found
    ]


def _one(connection: psycopg.Connection[dict[str, Any]], query: str, parameters: list[Any]) -> dict[str, Any] | None:
    found = connection.execute(query, parameters).fetchone()
    return None if found is None else found["found"]
