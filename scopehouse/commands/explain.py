"""`scopehouse explain`: why is this trip's number what it is?"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated, Any

import typer

from services.settings import settings

if TYPE_CHECKING:
    from scopehouse.explanation import Explanation


def mount(app: typer.Typer) -> None:
    """Add the command to `app`."""
    app.command()(explain)


def explain(
    table: Annotated[str, typer.Argument(help="mobility.fct_trip_emissions")],
    key: Annotated[str | None, typer.Argument(help="The row's measurement_key.")] = None,
    event_id: Annotated[
        int | None, typer.Option("--event-id", help="The trip of this event, instead of a key.")
    ] = None,
    latest: Annotated[bool, typer.Option("--latest", help="The latest trip, instead of a key.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object on standard output.")] = False,
) -> None:
    """Follow a row's numbers back to where they came from.

    Its inputs with their units, each formula with the numbers in it (computed once more and compared with what is
    stored), the emission factor with its release, the bike model's version, the original record and the run of dbt that
    wrote the row. Ends with 1 where something does not fit.

    Examples: scopehouse explain mobility.fct_trip_emissions --latest
    scopehouse explain mobility.fct_trip_emissions 17-2 --json
    """
    from scopehouse.explanation import explain as explain_row

    if (key is not None) + (event_id is not None) + latest != 1:
        raise typer.BadParameter("give a key, --event-id or --latest, one of them.")
    explanation = explain_row(settings(), table, key, event_id)
    if as_json:
        typer.echo(json.dumps(asdict(explanation)))
    else:
        for line in _lines(explanation):
            typer.echo(line)
    if explanation.problems:
        raise typer.Exit(1)


def _lines(explanation: Explanation) -> Iterator[str]:
    row = explanation.row
    yield f"{explanation.table} {explanation.key}"
    place = (
        f"measurement {explanation.measurement_position} of {explanation.measurement_count} of "
        if explanation.measurement_position
        else ""
    )
    yield (
        f"{place}event {row['event_id']} at {row['event_at']}: vehicle {row['vehicle_id']}, bike model "
        f"{row['bike_model_id']}, customer {row['customer_id']}"
    )
    yield ""
    yield "Inputs"
    for each in explanation.inputs:
        yield f"  {each.name} = {_number(each.value)} {each.unit}  ({each.table}) {each.description or ''}".rstrip()
    yield ""
    yield "Formulas"
    for formula in explanation.formulas:
        verdict = "as stored" if formula.agrees else f"BUT {_number(formula.stored)} IS STORED"
        yield f"  {formula.column} = {formula.expression}"
        yield f"    = {formula.with_numbers} = {_number(formula.result)} {formula.unit}, {verdict}"
    yield ""
    yield from _factor(explanation)
    yield from bike_model_lines(explanation)
    yield from _record(explanation)
    yield ""
    yield "Written by"
    run = explanation.dbt_run
    if run is None:
        yield "  a run of dbt that is not on record"
    else:
        rows = "all rows" if run["is_whole"] else "what it touched"
        yield (
            f"  dbt {run['dbt_version']}, invocation {run['invocation_id']} at {run['started_at']} "
            f"({run['row_count']:,} rows, {rows})"
        )
    if explanation.problems:
        yield ""
        yield "DOES NOT FIT"
        yield from (f"  {problem}" for problem in explanation.problems)


def _factor(explanation: Explanation) -> Iterator[str]:
    yield "Emission factor"
    factor, estimate, climatiq = explanation.emission_factor, explanation.production_estimate, explanation.climatiq
    if factor is None:
        yield "  none was in use"
    else:
        yield (
            f"  {factor['name']}, {factor['source']}, release {factor['release']} "
            f"(factor_source {factor['factor_source']})"
        )
        yield (
            f"  {_number(factor['kg_co2e_per_usd'])} {factor['unit']}, {_words(factor, 'region', 'factor_year')}"
            f"{_words(factor, 'lifecycle', 'gwp_set', 'price_basis', 'price_year')}known from {factor['known_from']}"
        )
    if estimate is not None:
        stale = f"; STALE: {estimate['last_failure']}" if estimate["is_stale"] else ""
        yield f"  quality: {estimate['data_quality_flags'] or 'no flags'}{stale}"
    if climatiq is not None:
        yield f"  Climatiq was asked at {climatiq['requested_at']} (request {climatiq['request_hash']}):"
        yield f"    {json.dumps(climatiq['request'], ensure_ascii=False)}"
        yield f"  and answered at {climatiq['responded_at']}:"
        yield f"    {climatiq['body']}"
    yield ""


def bike_model_lines(explanation: Explanation) -> Iterator[str]:
    """The paragraph on the bike model's version and the change that it came by."""
    yield "Bike model"
    model = explanation.bike_model
    if model is None:
        yield f"  no version of model {explanation.row['bike_model_id']} was valid at the event's time"
    else:
        yield (
            f"  {model['name']}, valid from {model['valid_from']} to {model['valid_to']}, "
            f"version {model['bike_model_key']}"
        )
    for change in explanation.bike_model_changes:
        in_raw = (change["_kafka_partition"], change["_kafka_offset"])
        partition, offset = change["_dead_letter"] or in_raw
        yield (
            f"  change: {change['_topic']}, partition {partition}, offset {offset} "
            f"(op {change['_op']}, LSN {change['_source_lsn']}, committed {change['_source_at']})"
        )
        if change["_dead_letter"]:
            yield "  it was a dead letter first; in raw it is partition {}, offset {}".format(*in_raw)
    yield ""


def _record(explanation: Explanation) -> Iterator[str]:
    record = explanation.record
    yield "Original record"
    yield f"  {record.topic}, partition {record.partition}, offset {record.offset}"
    if record.replayed_as is not None:
        yield "  it was a dead letter first; in raw it is partition {}, offset {}".format(*record.replayed_as)
    source = f"read from {record.read_from}" if record.content is not None else "it is gone from Kafka and raw"
    yield f"  {source}{f' ({record.why_not_kafka})' if record.why_not_kafka else ''}:"
    if record.content is not None:
        yield f"    {json.dumps(record.content, ensure_ascii=False)}"


def _words(values: Mapping[str, Any], *names: str) -> str:
    return "".join(f"{name.replace('_', ' ')} {values[name]}, " for name in names if values[name] is not None)


def _number(value: float | None) -> str:
    return "(not known)" if value is None else f"{value:.12g}"
