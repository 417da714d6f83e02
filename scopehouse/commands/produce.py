"""`scopehouse produce`: let a source send what it has."""

from __future__ import annotations

import dataclasses
import json
import math
from typing import Annotated

import typer

from scopehouse.progress import progress_bars

_Json = Annotated[bool, typer.Option("--json", help="Print one JSON object on standard output, nothing else.")]

MOST_A_SECOND = 1_000_000


def _no_nan(rate: float | None) -> float | None:
    """Refuse what is no number: it is within any range."""
    if rate is not None and math.isnan(rate):
        raise typer.BadParameter(f"it must be a number from 0.001 to {MOST_A_SECOND}.")
    return rate


def mount(app: typer.Typer) -> None:
    """Add the commands to `app`."""
    group = typer.Typer(help="Let a source send what it has.", no_args_is_help=True)
    group.command("tracking-events")(tracking_events)
    group.command("country-emissions")(country_emissions)
    group.command("bike-factors")(bike_factors)
    app.add_typer(group, name="produce")


def tracking_events(
    events: Annotated[int, typer.Option(min=0, help="How many; 0 with --rate: until interrupted.")] = 50_000,
    rate: Annotated[
        float | None,
        typer.Option(
            min=0.001,
            max=MOST_A_SECOND,
            callback=_no_nan,
            show_default=False,
            help="Events a second, dated now. Without it: as fast as possible, dated from October 2025 on.",
        ),
    ] = None,
    seed: Annotated[
        int, typer.Option(min=0, max=1_000_000, help="Which bikes. Two seeds share no event, bike or rider.")
    ] = 1,
    as_json: _Json = False,
) -> None:
    """Simulated e-bikes report their journeys. Each run goes on after the last event that the topic has."""
    from ingest.sources.tracking_events import produce_tracking_events
    from services.settings import settings

    if events == 0 and rate is None:
        raise typer.BadParameter("0 (until interrupted) needs --rate.", param_hint="--events")
    with progress_bars() as progress:
        produced = produce_tracking_events(settings(), events=events, rate=rate, seed=seed, progress=progress)
    if as_json:
        typer.echo(json.dumps(dataclasses.asdict(produced)))
    else:
        typer.echo(
            f"{produced.events:,} events with {produced.measurements:,} measurements are in tracking_events "
            f"({produced.seconds:.1f} s); riding them emits {produced.expected_operating_kg_co2e:,.3f} kg CO2e."
        )
    if produced.is_interrupted:
        raise typer.Exit(130)


def country_emissions(
    source: Annotated[
        str | None,
        typer.Option(
            show_default=False,
            help="Path or URL of Our World in Data's CO2 CSV. Without it: SCOPEHOUSE_OWID_CO2_SOURCE, else the "
            "official file, of which a copy is kept.",
        ),
    ] = None,
    sample: Annotated[
        bool, typer.Option("--sample", help="Send made-up countries, marked as a sample; needs no network.")
    ] = False,
    as_json: _Json = False,
) -> None:
    """What countries emitted since 1900, as Our World in Data publishes it (CC BY 4.0)."""
    from ingest.sources.country_emissions import produce_country_emissions
    from services.settings import settings

    if sample and source:
        raise typer.BadParameter("give either a source or --sample.", param_hint="--sample")
    with progress_bars() as progress:
        produced = produce_country_emissions(settings(), source=source, only_sample=sample, progress=progress)
    if as_json:
        typer.echo(json.dumps(dataclasses.asdict(produced)))
        return
    kind = "SYNTHETIC rows of made-up countries" if produced.is_sample else "rows"
    copy = ", from the copy of an earlier run: it can't be reached now" if produced.is_earlier_copy else ""
    typer.echo(
        f"{produced.rows:,} {kind} are in emissions-topic ({produced.countries} names, {produced.seconds:.1f} s); "
        f"source: {produced.source}{copy}."
    )


def bike_factors(
    changes: Annotated[int, typer.Option(min=0, help="How many; 0 makes the tables and nothing else.")] = 24,
    seed: Annotated[int, typer.Option(min=0, max=1_000_000, help="Which stream of changes.")] = 1,
    rate: Annotated[
        float | None,
        typer.Option(
            min=0.001,
            max=MOST_A_SECOND,
            callback=_no_nan,
            show_default=False,
            help="Changes a second. Without it: as fast as possible.",
        ),
    ] = None,
    as_json: _Json = False,
) -> None:
    """The e-bike company changes its bike models in its own database. Each run goes on after the last.

    Factors are updated and corrected, a model comes and goes, dated from October 2025 on. It needs change capture
    (`scopehouse up --with connect`): without it, the history would be lost.
    """
    from ingest.sources.bike_factors import produce_bike_factors
    from services.settings import settings

    with progress_bars() as progress:
        produced = produce_bike_factors(settings(), changes=changes, seed=seed, rate=rate, progress=progress)
    if as_json:
        typer.echo(json.dumps(dataclasses.asdict(produced)))
        return
    typer.echo(
        f"{produced.changes:,} changes in adventure.public.bike_emissions: {produced.updates} updates, "
        f"{produced.corrections} corrections of the past, {produced.models_added} models added, "
        f"{produced.models_withdrawn} withdrawn ({produced.seconds:.1f} s)."
    )
