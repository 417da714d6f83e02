"""`scopehouse migrate`, `ingest drain`, `ingest run`: from Kafka into the warehouse."""

from __future__ import annotations

import json
from dataclasses import asdict
from typing import Annotated

import structlog
import typer

from scopehouse.progress import progress_bars
from services.sessions import open_session
from services.settings import settings

Topics = Annotated[list[str] | None, typer.Argument(help="Topics; all that have a contract by default.")]
Json = Annotated[bool, typer.Option("--json", help="Print one JSON object on standard output.")]

commands = typer.Typer(help="Kafka to Postgres, exactly once.", no_args_is_help=True)


def mount(app: typer.Typer) -> None:
    """Add the commands to `app`."""
    app.command()(migrate)
    app.add_typer(commands, name="ingest")


def migrate() -> None:
    """Bring the warehouse, the topics and the registry up to the contracts; safe to repeat.

    Example: scopehouse migrate
    """
    from scopehouse.migration import migrate as apply

    apply(settings())
    typer.echo("The warehouse, the topics and the registry are what the contracts say.")


@commands.command()
def drain(topics: Topics = None, as_json: Json = False) -> None:
    """Land everything up to today's end of every topic, then stop.

    Examples: scopehouse ingest drain    scopehouse ingest drain tracking_events --json
    """
    from ingest.capture.watch import look_once
    from ingest.sink.broker import spare_the_collector
    from ingest.sink.drain import StandstillError
    from ingest.sink.drain import drain as drain_topics

    spare_the_collector()
    look_once(settings())
    standstill = None
    with progress_bars() as progress:
        try:
            results = drain_topics(settings(), topics or None, progress)
        except StandstillError as error:
            standstill, results = error, error.results
    if as_json:
        typer.echo(json.dumps({name: asdict(result) for name, result in results.items()}))
    else:
        for result in results.values():
            typer.echo(f"{result.topic}: {result.rows:,} rows, {result.dead_letters:,} dead letters")
    if standstill is not None:
        raise standstill


@commands.command()
def run(topics: Topics = None) -> None:
    """Land records for ever, as a member of the consumer group; Ctrl-C or SIGTERM ends it cleanly.

    `scopehouse status` shows how it does; SCOPEHOUSE_METRICS_PORT makes it serve Prometheus metrics. Connectors that
    fail meanwhile are started again.

    Examples: scopehouse ingest run    scopehouse ingest run tracking_events
    """
    from ingest.capture.watch import watched
    from ingest.sink.broker import spare_the_collector
    from ingest.sink.reporter import Reporter
    from ingest.sink.run import run_until_told
    from ingest.sink.sentences import sentence, where
    from services.errors import MendableError

    spare_the_collector()
    try:
        with Reporter(settings()) as reporter, watched(settings()):
            run_until_told(settings(), topics or None, reporter)
    except MendableError:
        raise
    except Exception as error:
        # Not a traceback as Python prints it: an error's text may quote a record.
        structlog.get_logger("scopehouse.sink").critical(
            "ended by an error that nobody expected",
            error=sentence(error),
            kind=type(error).__name__,
            at_lines=where(error),
        )
        raise typer.Exit(1) from None


@commands.command()
def resume(topic: Annotated[str, typer.Argument(help="A topic that stands still.")]) -> None:
    """Let a topic go on that stopped because of too many dead letters; a running sink takes it up in seconds.

    Example: scopehouse ingest resume tracking_events
    """
    from ingest.contracts.contract import load_contracts
    from ingest.sink.landing import connect
    from ingest.sink.limits import resume as resume_topic
    from services.errors import MendableError

    with open_session(settings(), "ingest", connect) as connection:
        count = resume_topic(connection, topic)
    contracts = load_contracts(settings().contracts_dir)
    if not count and topic not in contracts:
        raise MendableError(f"Topic {topic} has no contract: the topics are {', '.join(contracts)}.")
    typer.echo(f"{topic}: {count} partitions may go on" if count else f"{topic}: no partition stands still")
