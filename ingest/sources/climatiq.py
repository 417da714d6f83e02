"""Climatiq's API: what making something of a price emits. One attempt a call; who retries and counts is the caller.

The key goes into one header and nowhere else: what comes back is searched for it before anybody sees it.
"""

from __future__ import annotations

import hashlib
import json
import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from decimal import ROUND_HALF_UP, Decimal
from email.utils import parsedate_to_datetime
from ipaddress import ip_address
from typing import Generic, Self, TypeVar

import httpx
import msgspec
from pydantic import SecretStr

from services.errors import MendableError

BATCH_ENDPOINT = "/data/v1/estimate/batch"
RELEASES_ENDPOINT = "/data/v1/data-versions"
MOST_IN_A_BATCH = 100
# So that a number of cents is exact in the request's JSON.
HIGHEST_PRICE_USD = 1_000_000_000

# The same request will get the same again.
FINAL_ERROR_CODES = frozenset({"no_emission_factors_found", "invalid_unit_type_supplied"})

_TIMEOUT = httpx.Timeout(30, connect=5)
_CENT = Decimal("0.01")
# Shorter ones would be found in every answer.
_KEY = re.compile(r"[\x21-\x7e]{8,}")
_RELEASE = re.compile(r"\d+(\.\d+)?")
_LONGEST_REASON = 300

T = TypeVar("T")


class ClimatiqSettingsError(MendableError):
    """The API can't be asked with these settings."""


class KeyRefusedError(MendableError):
    """401 or 403: nothing more is asked with this key."""

    http_status: int

    def __init__(self, http_status: int, reason: str) -> None:
        super().__init__(
            f"Climatiq refuses the key ({reason}), so nothing more was asked: "
            "check CLIMATIQ_API_KEY and what its plan allows."
        )
        self.http_status = http_status


class CallFailedError(Exception):
    """The whole call failed; asking the same again now makes no sense. `http_status` is None where none came."""

    def __init__(self, reason: str, http_status: int | None) -> None:
        super().__init__(reason)
        self.http_status = http_status


class CallMayPassError(CallFailedError):
    """The whole call failed and may succeed a little later.

    `retry_after_s`: how long the API asks to wait. `was_sent`: False where surely nothing reached it.
    """

    def __init__(
        self, reason: str, http_status: int | None = None, retry_after_s: float | None = None, was_sent: bool = True
    ) -> None:
        super().__init__(reason, http_status)
        self.retry_after_s = retry_after_s
        self.was_sent = was_sent


@dataclass(frozen=True, slots=True)
class EstimateRequest:
    """What is asked: the emissions of spending `price_usd` (US dollars, in cents), by a fixed release of the data."""

    activity_id: str
    release: str
    price_usd: Decimal

    @property
    def body(self) -> dict[str, dict[str, str | float]]:
        """The request as the API takes it."""
        return {
            "emission_factor": {"activity_id": self.activity_id, "data_version": self.release},
            "parameters": {"money": float(self.price_usd), "money_unit": "usd"},
        }

    @property
    def hash(self) -> str:
        """SHA-256 of the body, in hexadecimal: what an answer is kept under."""
        return hashlib.sha256(json.dumps(self.body, sort_keys=True, separators=(",", ":")).encode()).hexdigest()


@dataclass(frozen=True, slots=True)
class Answer:
    """What the API said to one estimate: `kg_co2e`, or the `reason` why there is none. `body` is as it came."""

    request: EstimateRequest
    body: str
    kg_co2e: float | None
    error_code: str | None = None
    reason: str | None = None


@dataclass(frozen=True, slots=True)
class Reply(Generic[T]):
    """A whole call's answer and its times (UTC)."""

    content: T
    http_status: int
    body: str
    requested_at: datetime
    responded_at: datetime


def in_cents(price_usd: float | Decimal) -> Decimal:
    """A price as it is asked and kept: US dollars in whole cents, by Postgres's `round(price_usd::numeric, 2)`.

    Raises:
        ValueError: it is less than one cent, or not less than HIGHEST_PRICE_USD.
    """
    # SQL looks the estimate up by its own rounding: of 15 digits of a double, and half cents up.
    price = Decimal(f"{price_usd:.15g}") if isinstance(price_usd, float) else Decimal(price_usd)
    if (
        not price.is_finite()
        or price_usd >= HIGHEST_PRICE_USD
        or (cents := price.quantize(_CENT, rounding=ROUND_HALF_UP)) <= 0
    ):
        raise ValueError(f"{price_usd} is no price: it must be at least one cent and below {HIGHEST_PRICE_USD:,} USD")
    return cents


def is_fixed(data_version: str) -> bool:
    """Whether a data version stays what it is ("29"); "^29" moves."""
    return not data_version.startswith("^")


class Climatiq:
    """A client of the API; use it as a context manager. Blocks while it waits for an answer, at most 35 s."""

    def __init__(self, url: str, key: SecretStr) -> None:
        """Connects to nothing yet.

        Raises:
            ClimatiqSettingsError: the key can't be one, or the URL would carry it unencrypted.
        """
        self._key = key.get_secret_value().strip()
        if not _KEY.fullmatch(self._key):
            raise ClimatiqSettingsError(
                "CLIMATIQ_API_KEY is too short for a key or has blanks in it: copy it anew from Climatiq's dashboard."
            )
        if not _is_private(url):
            raise ClimatiqSettingsError("SCOPEHOUSE_CLIMATIQ_URL would carry the key unencrypted: give one with https.")
        self._http = httpx.Client(base_url=url, timeout=_TIMEOUT, headers={"Authorization": f"Bearer {self._key}"})

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_error: object) -> None:
        self._http.close()

    def estimate(self, requests: Sequence[EstimateRequest]) -> Reply[list[Answer]]:
        """Ask for up to MOST_IN_A_BATCH estimates in one call; the answers are in the requests' order.

        An estimate that failed is an answer with a reason, and fails no other.

        Raises:
            KeyRefusedError: 401 or 403.
            CallMayPassError: 429, a server error, or no answer.
            CallFailedError: another status, or an answer that can't be read.
        """
        reply = self._call("POST", BATCH_ENDPOINT, [request.body for request in requests])
        try:
            results = msgspec.json.decode(reply.content, type=_Batch).results
        except msgspec.MsgspecError as error:
            raise CallFailedError(f"the answer can't be read ({error})", reply.http_status) from None
        if len(results) != len(requests):
            reason = f"the answer has {len(results)} results for {len(requests)} estimates"
            raise CallFailedError(reason, reply.http_status)
        answers = [self._answer(request, bytes(item)) for request, item in zip(requests, results, strict=True)]
        return Reply(answers, reply.http_status, reply.body, reply.requested_at, reply.responded_at)

    def latest_release(self) -> Reply[str]:
        """Ask which release of the data is the latest, as a fixed data version. Raises as `estimate` does."""
        reply = self._call("GET", RELEASES_ENDPOINT, None)
        try:
            release = msgspec.json.decode(reply.content, type=_Releases).latest_release
        except msgspec.MsgspecError as error:
            raise CallFailedError(f"the answer can't be read ({error})", reply.http_status) from None
        if not _RELEASE.fullmatch(release):
            raise CallFailedError("the answer's latest_release is no release", reply.http_status)
        return Reply(release, reply.http_status, reply.body, reply.requested_at, reply.responded_at)

    def _call(self, method: str, path: str, body: object) -> Reply[bytes]:
        """One attempt; a reply's status is 200."""
        requested_at = datetime.now(UTC)
        try:
            response = self._http.request(method, path, json=body)
        except (httpx.ConnectError, httpx.ConnectTimeout) as error:
            reason = self._clean(str(error)) or type(error).__name__
            raise CallMayPassError(f"no connection ({reason})", was_sent=False) from None
        except (httpx.TransportError, httpx.DecodingError) as error:
            reason = self._clean(str(error)) or type(error).__name__
            raise CallMayPassError(f"no answer ({reason})") from None
        responded_at = datetime.now(UTC)
        status = response.status_code
        if status == httpx.codes.OK:
            return Reply(response.content, status, self._text(response.content), requested_at, responded_at)
        reason = self._reason(status, response.content)
        if status in (httpx.codes.UNAUTHORIZED, httpx.codes.FORBIDDEN):
            raise KeyRefusedError(status, reason)
        if status == httpx.codes.TOO_MANY_REQUESTS or response.is_server_error:
            wait = retry_after_s(response.headers.get("Retry-After"), responded_at)
            raise CallMayPassError(reason, status, wait)
        raise CallFailedError(reason, status)

    def _answer(self, request: EstimateRequest, item: bytes) -> Answer:
        body = self._text(item)
        try:
            result = msgspec.json.decode(item, type=_Result)
        except msgspec.MsgspecError as error:
            return Answer(request, body, None, reason=self._clean(f"the result can't be read ({error})"))
        code = self._clean(result.error_code) if result.error_code else None
        if result.error is not None or code is not None:
            return Answer(request, body, None, code, self._clean(_words(result)))
        if result.co2e is None or not math.isfinite(result.co2e) or result.co2e < 0:
            return Answer(request, body, None, reason="the result has no co2e")
        if result.co2e_unit != "kg":
            return Answer(request, body, None, reason=self._clean(f"the result is in {result.co2e_unit}, not in kg"))
        return Answer(request, body, result.co2e)

    def _reason(self, status: int, content: bytes) -> str:
        try:
            words = _words(msgspec.json.decode(content, type=_Result))
        except msgspec.MsgspecError:
            words = ""
        return self._clean(f"{status} {words}".strip())

    def _text(self, content: bytes) -> str:
        """As Postgres takes it, without the key."""
        return content.decode(errors="replace").replace("\0", "").replace(self._key, "***")

    def _clean(self, words: str) -> str:
        return words.replace("\0", "").replace(self._key, "***")[:_LONGEST_REASON]


def retry_after_s(value: str | None, now: datetime) -> float | None:
    """Seconds that a Retry-After header asks to wait, be it seconds or a date; None where it says nothing readable."""
    if value is None:
        return None
    if value.strip().isdecimal():
        return float(value)
    try:
        at = parsedate_to_datetime(value)
    except ValueError:
        return None
    return max(0.0, (at if at.tzinfo else at.replace(tzinfo=UTC)).timestamp() - now.timestamp())


class _Batch(msgspec.Struct):
    results: list[msgspec.Raw]


class _Releases(msgspec.Struct):
    latest_release: str


class _Result(msgspec.Struct):
    """An estimate or an error, of which emission_factor and constituent_gases may be null: they stay in the body."""

    co2e: float | None = None
    co2e_unit: str | None = None
    error: str | None = None
    error_code: str | None = None
    message: str | None = None


def _words(result: _Result) -> str:
    return ": ".join(word for word in (result.error_code or result.error, result.message) if word)


def _is_private(url: str) -> bool:
    """Whether what is sent to `url` stays between us and the server: https, or this machine."""
    try:
        parts = httpx.URL(url)
        return parts.scheme == "https" or (
            parts.scheme == "http" and (parts.host == "localhost" or ip_address(parts.host).is_loopback)
        )
    except (httpx.InvalidURL, ValueError):
        return False
