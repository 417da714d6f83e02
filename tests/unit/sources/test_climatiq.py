"""The client of Climatiq's API against a server of ours, without a warehouse."""

from __future__ import annotations

import json
import logging
import threading
from collections.abc import Iterator
from datetime import UTC, datetime
from decimal import Decimal

import pytest
import tenacity
from pydantic import SecretStr

from ingest.climatiq_sync import wait_s
from ingest.sources.climatiq import (
    CallFailedError,
    CallMayPassError,
    Climatiq,
    ClimatiqSettingsError,
    EstimateRequest,
    KeyRefusedError,
    in_cents,
    retry_after_s,
)
from tests.fakes.climatiq import KEY, FakeClimatiq, Trouble, fake_climatiq

PRICES = (Decimal("1481.94"), Decimal("1912.15"), Decimal("2171.29"))
NOW = datetime(2026, 1, 1, tzinfo=UTC)


def requests(*prices: Decimal) -> list[EstimateRequest]:
    return [EstimateRequest("bikes", "29", price) for price in prices or PRICES]


@pytest.fixture
def fake() -> Iterator[FakeClimatiq]:
    with fake_climatiq() as fake:
        yield fake


@pytest.fixture
def client(fake: FakeClimatiq) -> Iterator[Climatiq]:
    with Climatiq(fake.url, SecretStr(KEY)) as client:
        yield client


def test_the_request_is_the_documented_one(fake: FakeClimatiq, client: Climatiq) -> None:
    client.estimate(requests(Decimal("1481.94")))
    body = {
        "emission_factor": {"activity_id": "bikes", "data_version": "29"},
        "parameters": {"money": 1481.94, "money_unit": "usd"},
    }
    assert fake.requests == [("/data/v1/estimate/batch", [body])]


def test_three_prices_have_the_numbers_of_the_seed_factor(client: Climatiq) -> None:
    answers = client.estimate(requests()).content
    assert [round(answer.kg_co2e or 0, 2) for answer in answers] == [240.07, 309.77, 351.75]


def test_null_emission_factor_and_gases_are_an_estimate_too(fake: FakeClimatiq, client: Climatiq) -> None:
    fake.has_audit_trail = False
    answers = client.estimate(requests()).content
    assert [round(answer.kg_co2e or 0, 2) for answer in answers] == [240.07, 309.77, 351.75]
    assert json.loads(answers[0].body)["emission_factor"] is None


def test_one_failed_item_fails_only_itself(fake: FakeClimatiq, client: Climatiq) -> None:
    fake.item_errors = {1912.15: "no_emission_factors_found"}
    good, bad, good_too = client.estimate(requests()).content
    assert good.kg_co2e and good_too.kg_co2e and bad.kg_co2e is None
    assert bad.error_code == "no_emission_factors_found"
    assert bad.reason == "no_emission_factors_found: No emission factors could be found with this query."


@pytest.mark.parametrize(
    ("result", "reason"),
    [
        ('{"co2e": null, "co2e_unit": "kg"}', "the result has no co2e"),
        ('{"co2e": -1, "co2e_unit": "kg"}', "the result has no co2e"),
        ('{"co2e": 1, "co2e_unit": "t"}', "the result is in t, not in kg"),
        ('{"co2e": "much"}', "the result can't be read (Expected `float | null`, got `str` - at `$.co2e`)"),
        ("7", "the result can't be read (Expected `object`, got `int`)"),
    ],
)
def test_a_result_that_is_no_estimate_says_why(fake: FakeClimatiq, client: Climatiq, result: str, reason: str) -> None:
    fake.troubles.append(Trouble(body=f'{{"results": [{result}]}}'))
    answer = client.estimate(requests(PRICES[0])).content[0]
    assert (answer.kg_co2e, answer.reason, answer.body) == (None, reason, result)


@pytest.mark.parametrize("body", ["", "<html>", "[]", '{"results": [{}]}', '{"results": 7}', '{"results": [{"co2e": 1'])
def test_an_answer_that_cant_be_read_fails_the_call_for_good(fake: FakeClimatiq, client: Climatiq, body: str) -> None:
    fake.troubles.append(Trouble(body=body))
    with pytest.raises(CallFailedError) as caught:
        client.estimate(requests())
    assert not isinstance(caught.value, CallMayPassError)
    assert caught.value.http_status == 200


@pytest.mark.parametrize("status", [401, 403])
def test_a_refused_key_is_a_sentence_without_the_key(fake: FakeClimatiq, client: Climatiq, status: int) -> None:
    fake.echoes_the_key = True
    fake.troubles.append(Trouble(status))
    with pytest.raises(
        KeyRefusedError, match=rf"^Climatiq refuses the key \({status} .*\*\*\*.*check CLIMATIQ_API_KEY"
    ) as caught:
        client.estimate(requests())
    assert KEY not in str(caught.value)


@pytest.mark.parametrize(
    ("trouble", "status", "retry_after", "was_sent"),
    [
        (Trouble(429, retry_after="7"), 429, 7.0, True),
        (Trouble(429), 429, None, True),
        (Trouble(503, retry_after="soon"), 503, None, True),
        (Trouble(500, body="oops"), 500, None, True),
        (Trouble(drop="before"), None, None, True),
        (Trouble(drop="after"), None, None, True),
    ],
)
def test_what_may_pass_says_so(
    fake: FakeClimatiq,
    client: Climatiq,
    trouble: Trouble,
    status: int | None,
    retry_after: float | None,
    was_sent: bool,
) -> None:
    fake.troubles.append(trouble)
    with pytest.raises(CallMayPassError) as caught:
        client.estimate(requests())
    error = caught.value
    assert (error.http_status, error.retry_after_s, error.was_sent) == (status, retry_after, was_sent)


def test_an_answer_that_takes_too_long_is_lost_and_may_come_next_time(
    fake: FakeClimatiq, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("ingest.sources.climatiq._TIMEOUT", 0.2)
    hold = threading.Event()
    fake.troubles.append(Trouble(hold=hold, drop="after"))
    with Climatiq(fake.url, SecretStr(KEY)) as client, pytest.raises(CallMayPassError, match="no answer") as caught:
        client.estimate(requests())
    hold.set()
    assert caught.value.was_sent
    assert fake.processed == [float(price) for price in PRICES]


def test_without_a_connection_nothing_was_sent(client: Climatiq, fake: FakeClimatiq) -> None:
    with fake_climatiq() as gone:
        url = gone.url
    with Climatiq(url, SecretStr(KEY)) as client, pytest.raises(CallMayPassError, match="no connection") as caught:
        client.estimate(requests())
    assert not caught.value.was_sent


@pytest.mark.parametrize("status", [302, 400, 404])
def test_other_errors_are_not_asked_again(fake: FakeClimatiq, client: Climatiq, status: int) -> None:
    fake.troubles.append(Trouble(status))
    with pytest.raises(CallFailedError, match=str(status)) as caught:
        client.estimate(requests())
    assert not isinstance(caught.value, CallMayPassError)


def test_the_key_is_in_no_log_and_no_repr(
    fake: FakeClimatiq, client: Climatiq, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.DEBUG):
        client.estimate(requests())
        client.latest_release()
    assert caplog.records
    assert KEY not in caplog.text
    assert KEY not in repr(client)


@pytest.mark.parametrize("key", ["", " ", "a", "a key with blanks", "a-key\nX-Other: 1", "a-key-with-ä"])
def test_a_key_that_cant_be_one_is_not_sent(fake: FakeClimatiq, key: str) -> None:
    with pytest.raises(ClimatiqSettingsError, match="CLIMATIQ_API_KEY") as caught:
        Climatiq(fake.url, SecretStr(key))
    assert "ä" not in str(caught.value)


def test_blanks_around_a_key_are_forgiven(fake: FakeClimatiq) -> None:
    with Climatiq(fake.url, SecretStr(f" {KEY}\n")) as client:
        assert client.latest_release().content == "29"


@pytest.mark.parametrize("url", ["http://example.com", "http://10.0.0.1", "ftp://localhost", "localhost:80", ""])
def test_the_key_is_not_sent_unencrypted(url: str) -> None:
    with pytest.raises(ClimatiqSettingsError, match="https"):
        Climatiq(url, SecretStr(KEY))


@pytest.mark.parametrize(
    ("value", "seconds"),
    [
        (None, None),
        ("0", 0),
        ("30", 30),
        (" 5 ", 5),
        ("Thu, 01 Jan 2026 00:01:00 GMT", 60),
        ("Wed, 31 Dec 2025 23:00:00 GMT", 0),
        ("-1", None),
        ("soon", None),
        ("", None),
    ],
)
def test_retry_after_is_seconds_or_a_date(value: str | None, seconds: float | None) -> None:
    assert retry_after_s(value, NOW) == seconds


def test_a_wait_is_never_shorter_than_the_api_asks_and_grows_without_a_wish() -> None:
    def wait(error: Exception, attempt: int) -> float:
        state = tenacity.RetryCallState(tenacity.Retrying(), None, (), {})
        state.attempt_number = attempt
        state.set_exception((type(error), error, None))
        return wait_s(state)

    asked = {wait(CallMayPassError("", 429, 20), 1) for _ in range(20)}
    assert len(asked) > 1 and min(asked) >= 20 and max(asked) <= 21
    for attempt, least in enumerate((1, 2, 4, 8), 1):
        assert least <= wait(CallMayPassError(""), attempt) <= least + 1


@pytest.mark.parametrize(
    ("price", "cents"),
    [
        *[(1481.9379, "1481.94"), (1481.94, "1481.94"), (7, "7.00"), (0.01, "0.01")],
        # Half cents go up, as SQL rounds them.
        *[(1912.125, "1912.13"), (1.005, "1.01"), (0.125, "0.13"), (Decimal("1912.125"), "1912.13")],
        # SQL takes 15 digits of a double.
        (0.12499999999999999, "0.13"),
    ],
)
def test_a_price_is_asked_in_cents(price: float | Decimal, cents: str) -> None:
    assert str(in_cents(price)) == cents


@pytest.mark.parametrize("price", [0, -1.0, 0.001, 0.0049, 1e9, 1e300, float("nan"), float("inf"), float("-inf")])
def test_what_is_no_price_is_refused(price: float) -> None:
    with pytest.raises(ValueError, match="is no price"):
        in_cents(price)


def test_requests_are_kept_apart_by_factor_price_and_release() -> None:
    a = EstimateRequest("bikes", "29", PRICES[0])
    others = [
        EstimateRequest("cars", "29", PRICES[0]),
        EstimateRequest("bikes", "30", PRICES[0]),
        EstimateRequest("bikes", "29", PRICES[1]),
    ]
    assert len({a.hash, *(other.hash for other in others)}) == 4
    assert a.hash == EstimateRequest("bikes", "29", in_cents(1481.94)).hash
