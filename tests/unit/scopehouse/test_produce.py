"""`scopehouse produce`: what it refuses before it asks any server."""

from __future__ import annotations

import pytest
from typer.testing import CliRunner

from scopehouse.cli import app


@pytest.mark.parametrize("source", ["tracking-events", "bike-factors"])
@pytest.mark.parametrize("rate", ["inf", "1e308", "nan", "-inf", "0"])
def test_a_rate_that_nothing_can_keep_is_a_wrong_call(source: str, rate: str) -> None:
    ran = CliRunner().invoke(app, ["produce", source, f"--rate={rate}"])
    assert ran.exit_code == 2
    assert "--rate" in ran.output
