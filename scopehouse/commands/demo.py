"""`scopehouse demo`: the whole path, with a summary."""

from __future__ import annotations

import json
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

from scopehouse.commands.servers import shown_progress
from scopehouse.progress import progress_bars


def mount(app: typer.Typer) -> None:
    """Add the command to `app`."""
    app.command()(demo)


def demo(
    events: Annotated[int, typer.Option(min=1, help="How many tracking events to send.")] = 50_000,
    start_servers: Annotated[
        bool,
        typer.Option("--servers/--no-servers", help="Use the embedded servers, or those that your settings name."),
    ] = True,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object and nothing else.")] = False,
) -> None:
    """Run the whole path: servers, sources, Kafka, raw, dbt, K-means; then check its numbers.

    A second run adds to what is there. Exits with 1 when a number that must agree does not.

    Examples: scopehouse demo    scopehouse demo --events 1000 --json
    """
    from scopehouse.demo import Demo

    steps = Console(stderr=True, highlight=False)

    def on_step(name: str, seconds: float | None) -> None:
        if seconds is not None:
            steps.print(f"[green]done[/] {name} [dim]{seconds:.1f} s[/]")
        elif not steps.is_terminal:
            steps.print(f"     {name} ...")

    with shown_progress() as report, progress_bars() as progress:
        summary = Demo(on_step).run(events, start_servers, report, progress)
    if as_json:
        typer.echo(json.dumps(summary))
    else:
        _print(summary)
    if summary["problems"]:
        raise typer.Exit(1)


def _print(summary: dict[str, Any]) -> None:
    console = Console(highlight=False, soft_wrap=True)
    mobility, countries, dbt = summary["mobility"], summary["countries"], summary["dbt"]
    table = Table(box=None, show_header=False, pad_edge=False)
    table.add_column(style="bold")
    table.add_row(
        "mobility",
        f"{mobility['events_produced']:,} events sent, {mobility['raw_rows']:,} in raw, "
        f"{mobility['dead_letters']:,} dead letters",
    )
    table.add_row(
        "",
        f"{mobility['measurements_produced']:,} journeys measured, {mobility['fact_rows']:,} in "
        "mobility.fct_trip_emissions",
    )
    table.add_row(
        "",
        f"{mobility['operating_kg_co2e']:,.3f} kg CO2e of riding; the simulator expected "
        f"{mobility['expected_operating_kg_co2e']:,.3f}",
    )
    table.add_row(
        "",
        f"{mobility['bike_factor_changes']:,} changes of the bike models meanwhile, "
        f"{mobility['bike_factor_changes_captured']:,} captured",
    )
    table.add_row("countries", f"{countries['raw_rows']:,} rows from {countries['source']}")
    table.add_row(
        "",
        f"{countries['countries_clustered']:,} countries clustered, sizes "
        f"{' / '.join(map(str, countries['cluster_sizes']))}",
    )
    table.add_row("dbt", f"{dbt['models']} models, {dbt['tests_passed']} tests passed, {dbt['tests_failed']} failed")
    steps = ", ".join(f"{name} {value:.1f}" for name, value in summary["seconds"].items() if name != "total")
    table.add_row("seconds", f"{summary['seconds']['total']:.1f} ({steps})")
    console.print()
    console.print(table)
    if summary["notice"]:
        console.print(f"\n[bold yellow]{summary['notice']}[/]")
    console.print("\n[bold]Where to look[/]")
    for what, command in summary["where_to_look"].items():
        console.print(f"  {what:<9} {command}")
    for problem in summary["problems"]:
        console.print(f"[bold red]problem:[/] {problem}")
