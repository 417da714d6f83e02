"""`scopehouse climatiq sync` without a key."""

from __future__ import annotations

import json

import psycopg
import pytest

from services.settings import Settings
from tests.fakes.climatiq import FakeClimatiq
from tests.integration.climatiq.test_climatiq_sync import command


@pytest.mark.parametrize("price", ["nan", "inf", "-3", "0.001"])
def test_a_price_that_can_be_none_is_a_wrong_call_without_a_key_too(settings: Settings, price: str) -> None:
    ran = command(settings, f"--price={price}", key="")
    assert (ran.returncode, ran.stdout, "is no price" in ran.stderr) == (2, "", True)


def test_a_dry_run_without_a_key_says_what_would_be_asked(
    settings: Settings, fake: FakeClimatiq, owner: psycopg.Connection
) -> None:
    assert command(settings, "--price", "500").returncode == 0
    words = ("--dry-run", "--price", "500", "--price", "1481.94")
    ran = command(settings, *words, key="")
    assert ran.returncode == 0, ran.stderr
    assert "1,481.94 USD: would be asked" in ran.stdout
    assert "500.00 USD: would be asked" not in ran.stdout
    assert "CLIMATIQ_API_KEY is not set: nothing was asked" in ran.stdout
    summary = json.loads(command(settings, *words, "--json", key="").stdout)
    assert (summary["has_key"], summary["is_dry_run"], summary["to_ask_usd"]) == (False, True, [1481.94])
    assert len(fake.requests) == 1
    assert owner.execute("select count(*) from ingest.api_calls").fetchone() == (1,)
