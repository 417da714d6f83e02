"""`scopehouse dead-letters`: look at records that could not become rows, and try them again."""

from __future__ import annotations

import json
from dataclasses import asdict
from datetime import UTC, datetime
from typing import Annotated

import typer

from scopehouse.progress import progress_bars
from services.sessions import open_session
from services.settings import settings

Json = Annotated[bool, typer.Option("--json", help="Print one JSON object on standard output.")]

# A 10 MB value is for a file, not for a screen.
_SHOWN_CHARACTERS = 4_000

commands = typer.Typer(help="Records that could not become rows.", no_args_is_help=True)


def mount(app: typer.Typer) -> None:
    """Add the commands to `app`."""
    app.add_typer(commands, name="dead-letters")


@commands.command("list")
def list_(as_json: Json = False) -> None:
    """Count the dead letters that wait, by topic and reason.

    Example: scopehouse dead-letters list
    """
    from ingest.sink.inspection import waiting
    from ingest.sink.landing import connect

    with open_session(settings(), "ingest", connect) as connection:
        reasons = waiting(connection)
    if as_json:
        typer.echo(json.dumps({"dead_letters": [asdict(reason) for reason in reasons]}, default=_time))
        return
    if not reasons:
        typer.echo("No dead letter waits.")
        return
    for each in reasons:
        first, last = _time(each.first_failed_at), _time(each.last_failed_at)
        typer.echo(f"{each.topic} {each.error_class}: {each.dead_letters:,}, first {first}, last {last}")
        typer.echo(f"    the newest is {each.newest_id}: {each.newest_error}")


@commands.command()
def show(
    dead_letter_id: Annotated[int, typer.Argument(metavar="ID", help="From `dead-letters list`.")],
    as_json: Json = False,
) -> None:
    """Show one dead letter, decoded as far as possible; hex otherwise.

    Example: scopehouse dead-letters show 17
    """
    from ingest.sink.inspection import show as show_one
    from ingest.sink.landing import connect
    from ingest.sink.writer_schemas import WriterSchemas

    with open_session(settings(), "ingest", connect) as connection:
        letter = asdict(show_one(connection, WriterSchemas(settings()), dead_letter_id))
    if as_json:
        typer.echo(json.dumps(letter, default=_time))
        return
    for name, value in letter.items():
        if value is not None and value != []:
            text = value if isinstance(value, str) else json.dumps(value, default=_time, ensure_ascii=False)
            cut = f" ... ({len(text):,} characters; whole with --json)" if len(text) > _SHOWN_CHARACTERS else ""
            typer.echo(f"{name}: {text[:_SHOWN_CHARACTERS]}{cut}")


@commands.command()
def replay(
    topic: Annotated[str | None, typer.Option(help="Only this topic's.")] = None,
    reason: Annotated[str | None, typer.Option(help="Only those with this reason, as `list` names it.")] = None,
    dead_letter_id: Annotated[int | None, typer.Option("--id", help="Only this one.")] = None,
    as_json: Json = False,
) -> None:
    """Decode dead letters again and land those that have become good; the others stay. Safe to repeat.

    Examples: scopehouse dead-letters replay    scopehouse dead-letters replay --topic tracking_events
    """
    from ingest.sink.replay import Selection
    from ingest.sink.replay import replay as replay_selected

    with progress_bars() as progress:
        results = replay_selected(settings(), Selection(topic, reason, dead_letter_id), progress)
    if as_json:
        typer.echo(json.dumps({name: asdict(result) for name, result in results.items()}))
        return
    for result in results.values():
        if result.has_contract:
            typer.echo(f"{result.topic}: {result.landed:,} landed, {result.failed:,} still fail")
        else:
            typer.echo(f"{result.topic}: has no contract any more, nothing was tried")


@commands.command()
def expire(as_json: Json = False) -> None:
    """Delete dead letters that are older than SCOPEHOUSE_DEAD_LETTER_DAYS (90), and count them.

    Example: scopehouse dead-letters expire
    """
    from ingest.sink.retention import expire as expire_old

    gone = expire_old(settings())
    if as_json:
        typer.echo(json.dumps({"expired": gone}))
        return
    days = settings().dead_letter_days
    for topic, count in gone.items():
        typer.echo(f"{topic}: {count:,} dead letters older than {days} days are gone")
    if not gone:
        typer.echo(f"No dead letter is older than {days} days.")


def _time(value: object) -> str:
    """A time as text, UTC."""
    assert isinstance(value, datetime)  # noqa: S101 nothing else needs it
    return value.astimezone(UTC).isoformat(timespec="seconds")
