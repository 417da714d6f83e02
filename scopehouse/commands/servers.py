"""`scopehouse up`, `down`, `status`, `env`: the embedded servers."""

import typer


def mount(app: typer.Typer) -> None:
    """Add the commands to `app`."""
