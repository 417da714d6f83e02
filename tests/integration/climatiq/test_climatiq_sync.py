"""Estimates in a real Postgres: asked once, kept for ever, within the budget."""

from __future__ import annotations

import json
import logging
import math
import os
import random
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from decimal import Decimal
from threading import Barrier

import psycopg
import pytest
from psycopg import errors

from ingest.climatiq_sync import BudgetSpentError, Ledger, SyncSummary, sync
from ingest.database.migrate import migrate
from ingest.sources.climatiq import KeyRefusedError, in_cents
from services.settings import Settings
from tests.fakes.climatiq import KEY, FakeClimatiq, Trouble

PRICES = (1481.94, 1912.15, 2171.29)
NUMBERS = {1481.94: 240.07, 1912.15: 309.77, 2171.29: 351.75}
CALLS = "select call_count, outcome, http_status from ingest.api_calls order by api_call_id"


class Naps:
    """Instead of sleeping: how long it would have been."""

    def __init__(self) -> None:
        self.seconds: list[float] = []

    def __call__(self, seconds: float) -> None:
        self.seconds.append(seconds)


def run(settings: Settings, *prices: float, is_dry_run: bool = False) -> SyncSummary:
    return sync(settings, prices or PRICES, is_dry_run=is_dry_run, sleep=Naps())


def changed(settings: Settings, **update: object) -> Settings:
    return settings.model_copy(update=update)


def test_three_prices_are_asked_in_one_call_and_land(
    settings: Settings, fake: FakeClimatiq, owner: psycopg.Connection
) -> None:
    summary = run(settings)
    assert {each.price_usd: round(each.kg_co2e, 2) for each in summary.asked} == NUMBERS
    assert (summary.failed, summary.from_cache, summary.calls, summary.budget_left) == ((), (), 3, 247)
    assert len(fake.requests) == 1
    rows = owner.execute(
        "select price_usd, round(kg_co2e::numeric, 2), data_version, release, http_status, error_code,"
        " body::jsonb #>> '{emission_factor,source}', request #>> '{parameters,money}', responded_at >= requested_at,"
        " length(request_hash) from raw.climatiq_estimates order by price_usd"
    ).fetchall()
    assert rows == [
        (Decimal(str(price)), Decimal(str(kg)), "29", "29", 200, None, "EPA", str(price), True, 64)
        for price, kg in NUMBERS.items()
    ]


def test_what_was_asked_is_kept_for_ever(settings: Settings, fake: FakeClimatiq, owner: psycopg.Connection) -> None:
    run(settings)
    owner.execute("update raw.climatiq_estimates set requested_at = '2001-01-01', responded_at = '2001-01-01'")
    migrate(settings)
    summary = run(settings, 1481.9379, 1912.15, 2171.29, 500.0)
    assert {each.price_usd: round(each.kg_co2e, 2) for each in summary.from_cache} == NUMBERS
    assert [each.price_usd for each in summary.asked] == [500.0]
    assert fake.processed == [*PRICES, 500.0]
    assert summary.budget_left == 246


def test_another_release_or_factor_is_asked_anew(settings: Settings, fake: FakeClimatiq) -> None:
    for other in (settings, changed(settings, climatiq_data_version="30"), changed(settings, climatiq_activity_id="x")):
        assert len(run(other).asked) == 3
    assert len(fake.processed) == 9


def test_more_than_a_hundred_go_in_batches(settings: Settings, fake: FakeClimatiq) -> None:
    summary = run(settings, *(float(price) for price in range(1, 206)))
    assert [len(content) for _, content in fake.requests] == [100, 100, 5]
    assert (len(summary.asked), summary.budget_left) == (205, 45)


def test_a_final_error_fails_one_price_and_is_never_asked_again(settings: Settings, fake: FakeClimatiq) -> None:
    fake.item_errors = {1481.94: "no_emission_factors_found", 1912.15: "invalid_unit_type_supplied"}
    first, second = run(settings), run(settings)
    assert [each.price_usd for each in first.asked] == [2171.29]
    assert [(each.price_usd, each.is_final) for each in second.failed] == [(1481.94, True), (1912.15, True)]
    assert len(fake.requests) == 1
    assert (first.calls, second.calls) == (3, 0)


def test_an_error_that_is_not_final_is_asked_again_by_the_next_sync_alone(
    settings: Settings, fake: FakeClimatiq
) -> None:
    fake.item_errors = {1481.94: "internal"}
    summary = run(settings)
    assert [(each.price_usd, each.is_final) for each in summary.failed] == [(1481.94, False)]
    assert len(fake.requests) == 1
    fake.item_errors = {}
    assert [each.price_usd for each in run(settings).asked] == [1481.94]


@pytest.mark.parametrize("status", [401, 403])
def test_a_refused_key_stops_at_once(
    settings: Settings, fake: FakeClimatiq, owner: psycopg.Connection, status: int
) -> None:
    fake.troubles.append(Trouble(status))
    with pytest.raises(KeyRefusedError, match="CLIMATIQ_API_KEY"):
        run(settings, *(float(price) for price in range(1, 206)))
    assert len(fake.requests) == 1
    assert owner.execute(CALLS).fetchall() == [(100, "failed", status)]


def test_retry_after_is_honoured_and_every_attempt_is_counted(
    settings: Settings, fake: FakeClimatiq, owner: psycopg.Connection
) -> None:
    fake.troubles += [Trouble(429, retry_after="20"), Trouble(503), Trouble(503, retry_after="7")]
    naps = Naps()
    summary = sync(settings, PRICES, sleep=naps)
    assert {each.price_usd: round(each.kg_co2e, 2) for each in summary.asked} == NUMBERS
    first, second, third = naps.seconds
    assert 20 <= first <= 21 and 2 <= second <= 3 and 7 <= third <= 8
    assert owner.execute(CALLS).fetchall() == [
        (3, "failed", 429),
        (3, "failed", 503),
        (3, "failed", 503),
        (3, "answered", 200),
    ]
    assert (summary.calls, summary.budget_left) == (12, 238)


def test_a_wait_longer_than_anybody_has_ends_the_sync_and_names_it(settings: Settings, fake: FakeClimatiq) -> None:
    fake.troubles.append(Trouble(429, retry_after="3600"))
    naps = Naps()
    summary = sync(settings, PRICES, sleep=naps)
    assert naps.seconds == []
    assert {each.reason for each in summary.failed} == {"429 error_429: Something about 429.; it asks to wait 3600 s"}


def test_an_api_that_stays_away_is_given_up_and_what_is_known_stays(settings: Settings, fake: FakeClimatiq) -> None:
    run(settings, 1481.94)
    fake.troubles += [Trouble(503)] * 5
    naps = Naps()
    summary = sync(settings, PRICES, sleep=naps)
    assert [each.price_usd for each in summary.from_cache] == [1481.94]
    assert [each.price_usd for each in summary.failed] == [1912.15, 2171.29]
    assert len(naps.seconds) == 4
    assert summary.calls == 10


@pytest.mark.parametrize("drop", ["before", "after"])
def test_a_lost_answer_counts(settings: Settings, fake: FakeClimatiq, owner: psycopg.Connection, drop: str) -> None:
    fake.troubles += [Trouble(drop=drop)] * 2
    summary = run(settings)
    assert len(summary.asked) == 3
    assert owner.execute(CALLS).fetchall() == [(3, "lost", None)] * 2 + [(3, "answered", 200)]
    assert summary.budget_left == 241


def test_without_a_connection_no_call_is_counted(
    settings: Settings, fake: FakeClimatiq, owner: psycopg.Connection
) -> None:
    summary = run(changed(settings, climatiq_url="http://127.0.0.1:1"))
    assert len(summary.failed) == 3
    assert owner.execute(CALLS).fetchall() == [(3, "unsent", None)] * 5
    assert (summary.calls, summary.budget_left) == (0, 250)


def test_an_answer_that_cant_be_read_is_counted_and_not_asked_again(
    settings: Settings, fake: FakeClimatiq, owner: psycopg.Connection
) -> None:
    fake.troubles.append(Trouble(body='{"results": [{"co2e": 1'))
    summary = run(settings)
    assert len(summary.failed) == 3
    assert len(fake.requests) == 1
    assert owner.execute(CALLS).fetchall() == [(3, "failed", 200)]


def test_the_budget_is_exact_under_lost_answers(settings: Settings, fake: FakeClimatiq) -> None:
    small = changed(settings, climatiq_monthly_calls=8)
    fake.troubles += [Trouble(drop="after"), Trouble(drop="after")]
    summary = run(small)
    assert fake.processed == [*PRICES, *PRICES, *PRICES[:2]]
    assert [each.price_usd for each in summary.asked] == [1481.94, 1912.15]
    assert [(each.price_usd, "SCOPEHOUSE_CLIMATIQ_MONTHLY_CALLS" in each.reason) for each in summary.failed] == [
        (2171.29, True)
    ]
    assert (summary.calls, summary.budget_left) == (8, 0)
    run(small)
    assert len(fake.processed) == 8


def test_a_new_month_has_a_new_budget(settings: Settings, fake: FakeClimatiq, owner: psycopg.Connection) -> None:
    small = changed(settings, climatiq_monthly_calls=2)
    assert len(run(small).asked) == 2
    owner.execute("update ingest.api_calls set reserved_at = date_trunc('month', now(), 'UTC') - interval '1 second'")
    assert [each.price_usd for each in run(small).asked] == [2171.29]


def test_two_syncs_at_once_ask_once(settings: Settings, fake: FakeClimatiq) -> None:
    gate = Barrier(2)

    def one(_: int) -> SyncSummary:
        gate.wait()
        return run(settings)

    with ThreadPoolExecutor(2) as pool:
        summaries = list(pool.map(one, range(2)))
    assert sorted(len(summary.asked) for summary in summaries) == [0, 3]
    assert sorted(len(summary.from_cache) for summary in summaries) == [0, 3]
    assert fake.processed == list(PRICES)


def test_the_ledger_never_gives_more_than_the_budget_to_many_at_once(settings: Settings) -> None:
    gate = Barrier(4)

    def take(_: int) -> int:
        taken = 0
        with psycopg.connect(settings.url_of("ingest"), autocommit=True) as connection:
            ledger = Ledger(connection, "climatiq", 100)
            gate.wait()
            while True:
                try:
                    taken += ledger.reserve("/x", 7)[1]
                except BudgetSpentError:
                    return taken

    with ThreadPoolExecutor(4) as pool:
        assert sum(pool.map(take, range(4))) == 100


def test_a_moving_version_is_resolved_and_its_release_kept(
    settings: Settings, fake: FakeClimatiq, owner: psycopg.Connection
) -> None:
    moving = changed(settings, climatiq_data_version="^27")
    summary = run(moving)
    assert (summary.release, summary.calls) == ("29", 4)
    assert {item["emission_factor"]["data_version"] for item in fake.requests[1][1]} == {"29"}
    assert owner.execute("select distinct data_version, release from raw.climatiq_estimates").fetchall() == [
        ("^27", "29")
    ]
    assert owner.execute("select data_version, release, http_status from raw.climatiq_releases").fetchall() == [
        ("^27", "29", 200)
    ]
    fake.latest_release = "30"
    assert run(moving).calls == 0
    owner.execute("update raw.climatiq_releases set responded_at = now() - interval '8 days'")
    later = run(moving)
    assert (later.release, len(later.asked), later.calls) == ("30", 3, 4)
    assert len(run(settings).from_cache) == 3


def test_the_last_release_serves_while_the_api_fails(
    settings: Settings, fake: FakeClimatiq, owner: psycopg.Connection
) -> None:
    moving = changed(settings, climatiq_data_version="^29")
    run(moving)
    owner.execute("update raw.climatiq_releases set responded_at = now() - interval '8 days'")
    fake.troubles += [Trouble(503)] * 5
    summary = run(moving)
    assert (summary.release, len(summary.from_cache), summary.failed) == ("29", 3, ())


def test_without_any_release_nothing_is_asked(settings: Settings, fake: FakeClimatiq) -> None:
    fake.latest_release = "28"
    summary = run(changed(settings, climatiq_data_version="^29"))
    assert {each.reason for each in summary.failed} == {"its latest release is 28, before ^29"}
    assert fake.processed == []


def test_a_dry_run_asks_nothing_and_writes_nothing(
    settings: Settings, fake: FakeClimatiq, owner: psycopg.Connection
) -> None:
    run(settings, 1481.94)
    summary = run(settings, is_dry_run=True)
    assert (summary.to_ask_usd, len(summary.from_cache)) == ((1912.15, 2171.29), 1)
    assert run(changed(settings, climatiq_data_version="^29"), is_dry_run=True).to_ask_usd == PRICES
    assert len(fake.requests) == 1
    assert owner.execute("select count(*) from ingest.api_calls").fetchone() == (1,)


def test_without_a_key_nothing_is_asked_and_no_server_is_needed(settings: Settings, fake: FakeClimatiq) -> None:
    nowhere = changed(settings, climatiq_api_key=None, database_url=None, ingest_database_url=None)
    assert not run(nowhere).has_key
    assert fake.requests == []


def test_the_key_is_nowhere(
    settings: Settings,
    fake: FakeClimatiq,
    owner: psycopg.Connection,
    caplog: pytest.LogCaptureFixture,
    capfd: pytest.CaptureFixture[str],
) -> None:
    fake.echoes_the_key = True
    fake.item_errors = {1481.94: "no_emission_factors_found"}
    fake.troubles += [Trouble(503), Trouble(429), Trouble(drop="after"), Trouble(body=f'{{"results": "{KEY}"}}')]
    said = []
    with caplog.at_level(logging.DEBUG):
        said += [repr(run(settings)), repr(run(settings))]
        fake.troubles.append(Trouble(403))
        with pytest.raises(KeyRefusedError) as caught:
            run(settings, 7.0)
    tables = ("raw.climatiq_estimates", "raw.climatiq_releases", "ingest.api_calls")
    rows = [str(owner.execute(f"select * from {table}").fetchall()) for table in tables]
    assert "***" in rows[0]
    output = "".join(capfd.readouterr())
    assert "asked again" in output
    for text in (*said, *rows, str(caught.value), repr(caught.value), caplog.text, output, repr(settings)):
        assert KEY not in text


def test_raw_is_append_only_for_ingestion_and_read_only_for_transformation(settings: Settings) -> None:
    run(settings)
    with psycopg.connect(settings.url_of("ingest"), autocommit=True) as ingest:
        for statement in (
            "update raw.climatiq_estimates set kg_co2e = 1",
            "delete from raw.climatiq_estimates",
            "delete from ingest.api_calls",
            "update ingest.api_calls set call_count = 1",
        ):
            with pytest.raises(errors.InsufficientPrivilege):
                ingest.execute(statement)
    with psycopg.connect(settings.url_of("transform"), autocommit=True) as transform:
        assert transform.execute("select count(*) from raw.climatiq_estimates").fetchone() == (3,)
        with pytest.raises(errors.InsufficientPrivilege):
            transform.execute("delete from raw.climatiq_estimates")


SYNC = (sys.executable, "-m", "scopehouse", "climatiq", "sync")


def environment(settings: Settings, key: str = KEY) -> dict[str, str]:
    return {
        **os.environ,
        "DATABASE_URL": settings.url_of("transform"),
        "SCOPEHOUSE_INGEST_DATABASE_URL": settings.url_of("ingest"),
        "SCOPEHOUSE_CLIMATIQ_URL": settings.climatiq_url,
        "CLIMATIQ_API_KEY": key,
    }


def command(settings: Settings, *words: str, key: str = KEY) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        (*SYNC, *words), env=environment(settings, key), capture_output=True, text=True, check=False, timeout=60
    )


def test_a_sync_killed_while_it_waits_has_counted_its_calls_and_leaves_no_lock(
    settings: Settings, fake: FakeClimatiq, owner: psycopg.Connection
) -> None:
    hold = threading.Event()
    fake.troubles.append(Trouble(hold=hold, drop="after"))
    words = (*SYNC, *(word for price in PRICES for word in ("--price", str(price))))
    with subprocess.Popen(words, env=environment(settings)) as process:
        try:
            deadline = time.monotonic() + 60
            while len(fake.processed) < 3:
                assert process.poll() is None and time.monotonic() < deadline
                time.sleep(0.05)
        finally:
            process.kill()
            hold.set()
    assert owner.execute(CALLS).fetchall() == [(3, "lost", None)]
    summary = run(settings)
    assert (len(summary.asked), summary.budget_left) == (3, 244)


def test_the_command_asks_every_price_that_a_bike_model_has_had(settings: Settings, owner: psycopg.Connection) -> None:
    without = command(settings)
    assert (without.returncode, "--price" in without.stderr) == (1, True)
    with psycopg.connect(settings.url_of("transform"), autocommit=True) as transform:
        transform.execute(
            "create table mobility.dim_bike_model as select price as purchase_price_usd"
            " from unnest('{1481.94,1912.15,2171.29,2171.29,NaN,Infinity,0,-5,null}'::float8[]) as price"
        )
        try:
            ran = command(settings, "--json")
            again = command(settings)
        finally:
            transform.execute("drop table mobility.dim_bike_model")
    assert ran.returncode == 0, ran.stderr
    summary = json.loads(ran.stdout)
    assert {each["price_usd"]: round(each["kg_co2e"], 2) for each in summary["asked"]} == NUMBERS
    assert "240.07 kg CO2e (release 29, from cache)" in again.stdout
    assert "0 asked, 3 from cache, 0 failed; 0 calls, 247 left this month." in again.stdout


def test_cents_are_those_by_which_sql_looks_the_estimate_up(owner: psycopg.Connection) -> None:
    chance = random.Random(1)
    halves = [chance.randrange(10 ** chance.randint(1, 10)) / 100 + 0.005 for _ in range(300)]
    prices = [
        *(1912.125, 1.005, 0.125, 999_999_999.995),
        *(near for half in halves for near in (half, math.nextafter(half, 0), math.nextafter(half, math.inf))),
        *(10 ** chance.uniform(-2, 9) for _ in range(500)),
    ]
    by_sql = owner.execute("select round(price::numeric, 2) from unnest(%s::float8[]) as price", [prices]).fetchall()
    assert [in_cents(price) for price in prices] == [cents for (cents,) in by_sql]


def test_a_price_that_can_be_none_is_a_wrong_call(settings: Settings, fake: FakeClimatiq) -> None:
    ran = command(settings, "--price", "nan")
    assert (ran.returncode, ran.stdout, "is no price" in ran.stderr) == (2, "", True)
    assert fake.requests == []


def test_the_command_ends_with_1_where_a_price_has_no_estimate(settings: Settings, fake: FakeClimatiq) -> None:
    fake.item_errors = {7.0: "no_emission_factors_found"}
    ran = command(settings, "--price", "7", "--price", "8")
    assert ran.returncode == 1
    assert "7.00 USD: no estimate: no_emission_factors_found" in ran.stdout
    assert "8.00 USD: 1.30 kg CO2e" in ran.stdout


def test_the_command_without_a_key_says_where_the_numbers_come_from(settings: Settings, fake: FakeClimatiq) -> None:
    ran = command(settings, key="")
    assert (ran.returncode, ran.stdout.count("\n")) == (0, 1)
    assert "factor in seeds/emission_factors.csv" in ran.stdout
    as_json = command(settings, "--json", key="")
    assert json.loads(as_json.stdout)["has_key"] is False
    assert fake.requests == []


def test_the_command_with_a_wrong_key_is_one_sentence(settings: Settings, fake: FakeClimatiq) -> None:
    fake.echoes_the_key = True
    ran = command(settings, "--price", "7", key="another-key")
    assert (ran.returncode, ran.stdout) == (1, "")
    assert "Climatiq refuses the key (401" in ran.stderr and "You sent Bearer ***." in ran.stderr
    assert "Traceback" not in ran.stderr and "another-key" not in ran.stderr
