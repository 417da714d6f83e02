"""`scopehouse climatiq sync`: ask what making each bike emits."""

from __future__ import annotations

import json
from dataclasses import asdict
from decimal import Decimal
from typing import TYPE_CHECKING, Annotated

import typer

from scopehouse.progress import progress_bars
from services.settings import Settings, settings

if TYPE_CHECKING:
    from ingest.climatiq_sync import SyncSummary

NO_KEY = (
    "CLIMATIQ_API_KEY is not set: nothing was asked, the numbers come from the factor in seeds/emission_factors.csv."
)

commands = typer.Typer(help="Estimates of Climatiq's API.", no_args_is_help=True)


def mount(app: typer.Typer) -> None:
    """Add the commands to `app`."""
    app.add_typer(commands, name="climatiq")


@commands.callback()
def _climatiq() -> None:
    """Estimates of Climatiq's API."""


@commands.command()
def sync(
    price: Annotated[
        list[float] | None,
        typer.Option(help="US dollars; again for more. Without it: every price that a bike model has had."),
    ] = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Say what would be asked; ask nothing. Needs no key.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object on standard output.")] = False,
) -> None:
    """Ask for an estimate of making each distinct price, once; keep it for ever.

    At most SCOPEHOUSE_CLIMATIQ_MONTHLY_CALLS a month. Ends with 1 where a price has no estimate.

    Examples: scopehouse climatiq sync --dry-run    scopehouse climatiq sync --price 1481.94 --json
    """
    from ingest.climatiq_sync import NOTHING_ASKED
    from ingest.climatiq_sync import sync as ask
    from ingest.sources.climatiq import in_cents

    try:
        prices = [in_cents(each) for each in price or ()]
    except ValueError as error:
        raise typer.BadParameter(f"{error}.", param_hint="--price") from None
    has_key = settings().climatiq_api_key is not None
    if not has_key and not dry_run:
        typer.echo(json.dumps({**asdict(NOTHING_ASKED), "note": NO_KEY}) if as_json else NO_KEY)
        return
    with progress_bars() as progress:
        summary = ask(settings(), prices or prices_of_bike_models(settings()), is_dry_run=dry_run, progress=progress)
    if as_json:
        typer.echo(json.dumps(asdict(summary) if has_key else {**asdict(summary), "note": NO_KEY}))
    else:
        _print(summary)
        if not has_key:
            typer.echo(NO_KEY)
    if summary.failed:
        raise typer.Exit(1)


def prices_of_bike_models(now: Settings) -> list[Decimal]:
    """Every price (US dollars, in cents) that any version of a bike model has had; what can be no price is left out.

    Raises:
        MendableError: the dimension has not been built, or Postgres can't be reached.
    """
    import psycopg
    from psycopg import errors

    from ingest.sources.climatiq import HIGHEST_PRICE_USD, in_cents
    from services.errors import MendableError

    try:
        with psycopg.connect(now.url_of("transform"), connect_timeout=10) as connection:
            rows = connection.execute(
                "select distinct purchase_price_usd from mobility.dim_bike_model"
                " where purchase_price_usd >= 0.01 and purchase_price_usd < %s",
                [HIGHEST_PRICE_USD],
            ).fetchall()
    except (errors.UndefinedTable, errors.InvalidSchemaName) as error:
        raise MendableError(
            "There are no bike models yet (mobility.dim_bike_model): run `scopehouse demo`, or give --price."
        ) from error
    except psycopg.OperationalError as error:
        reason = (str(error) or type(error).__name__).splitlines()[0]
        raise MendableError(f"Postgres can't be used ({reason}): run `scopehouse up`, or mend DATABASE_URL.") from error
    return [in_cents(row[0]) for row in rows]


def _print(summary: SyncSummary) -> None:
    for estimate in (*summary.asked, *summary.from_cache):
        origin = "asked now" if estimate in summary.asked else "from cache"
        typer.echo(
            f"{estimate.price_usd:,.2f} USD: {estimate.kg_co2e:,.2f} kg CO2e (release {estimate.release}, {origin})"
        )
    for price_usd in summary.to_ask_usd:
        typer.echo(f"{price_usd:,.2f} USD: would be asked")
    for failure in summary.failed:
        typer.echo(f"{failure.price_usd:,.2f} USD: no estimate: {failure.reason}")
    typer.echo(
        f"{len(summary.asked)} asked, {len(summary.from_cache)} from cache, {len(summary.failed)} failed; "
        f"{summary.calls} calls, {summary.budget_left} left this month."
    )
