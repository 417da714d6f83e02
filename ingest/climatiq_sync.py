"""Climatiq's estimates into the warehouse: each asked once, kept for ever, within a month's budget.

Who reads the prices gives them in: nothing here reads a model.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from decimal import Decimal
from typing import TypeVar

import psycopg
import structlog
import tenacity
from psycopg import errors
from pydantic import SecretStr

from ingest.progress import Progress, no_progress
from ingest.sources.climatiq import (
    BATCH_ENDPOINT,
    FINAL_ERROR_CODES,
    MOST_IN_A_BATCH,
    RELEASES_ENDPOINT,
    Answer,
    CallFailedError,
    CallMayPassError,
    Climatiq,
    EstimateRequest,
    KeyRefusedError,
    Reply,
    in_cents,
    is_fixed,
)
from services.errors import MendableError
from services.settings import Settings

API = "climatiq"

_ATTEMPTS = 5
# The API may ask for more patience than anybody at a terminal has.
_LONGEST_WAIT_S = 120.0
_BACKOFF = tenacity.wait_exponential_jitter(initial=1, max=30, jitter=1)
_JITTER = tenacity.wait_random(0, 1)
# How long a moving data version is taken to stand for the same release: each look costs a call.
_RELEASE_STANDS = "7 days"
_WAIT_FOR_OTHERS = "10min"

_log = structlog.get_logger("scopehouse.climatiq")
T = TypeVar("T")


class ClimatiqSyncError(MendableError):
    """The answers have no place: Postgres can't be reached, or has not been migrated."""


class BudgetSpentError(Exception):
    """This month's calls are used up."""


@dataclass(frozen=True, slots=True)
class Estimate:
    """What making something for `price_usd` emits, by a release of Climatiq's data."""

    price_usd: float
    kg_co2e: float
    release: str


@dataclass(frozen=True, slots=True)
class Failure:
    """A price without an estimate. `is_final`: the API's answer to it is known and stays, it is not asked again."""

    price_usd: float
    reason: str
    is_final: bool


@dataclass(frozen=True, slots=True)
class SyncSummary:
    """What a sync did. `release` is None where none is known; a dry run would ask for `to_ask_usd`.

    `calls` are those this sync used of the month's budget, `budget_left` is what is left of it (None: unknown).
    """

    has_key: bool
    is_dry_run: bool
    release: str | None
    asked: tuple[Estimate, ...]
    from_cache: tuple[Estimate, ...]
    failed: tuple[Failure, ...]
    to_ask_usd: tuple[float, ...]
    calls: int
    budget_left: int | None


NOTHING_ASKED = SyncSummary(False, False, None, (), (), (), (), 0, None)


def sync(
    settings: Settings,
    prices_usd: Iterable[float | Decimal],
    *,
    is_dry_run: bool = False,
    progress: Progress = no_progress,
    sleep: Callable[[float], None] = time.sleep,
) -> SyncSummary:
    """Ask for an estimate of each price (US dollars) that has no answer yet, and land what comes.

    Two syncs at once are safe: the second waits, and finds the first one's answers. Without a key nothing is asked, and
    just a dry run needs a server. Success does not mean that every price has an estimate: see `SyncSummary.failed`.

    Raises:
        ValueError: a price can be none.
        KeyRefusedError: 401 or 403; what was answered before is kept.
        ClimatiqSettingsError: the key or the URL can't be used.
        ClimatiqSyncError: Postgres can't be used.
    """
    prices = sorted({in_cents(price) for price in prices_usd})
    key = settings.climatiq_api_key
    if key is None and not is_dry_run:
        return NOTHING_ASKED
    # A dry run sends nothing: any key will do.
    with Climatiq(settings.climatiq_url, key or SecretStr("no-key-is-set")) as client:
        try:
            with psycopg.connect(
                settings.url_of("ingest"), autocommit=True, application_name="scopehouse climatiq", connect_timeout=10
            ) as connection:
                return _Sync(settings, connection, client, progress, sleep).run(prices, is_dry_run)
        except errors.LockNotAvailable:
            raise ClimatiqSyncError("Another `scopehouse climatiq sync` has been at it for long: end it.") from None
        except (errors.UndefinedTable, errors.InvalidSchemaName, errors.InsufficientPrivilege) as error:
            raise ClimatiqSyncError(
                f"Climatiq's answers can't be stored ({error.diag.message_primary}): run `scopehouse migrate`."
            ) from error
        except psycopg.OperationalError as error:
            reason = (str(error) or type(error).__name__).splitlines()[0]
            raise ClimatiqSyncError(
                f"Postgres can't be used ({reason}): run `scopehouse up`, or mend its URL."
            ) from error


class Ledger:
    """The calls of one API, counted in the database before they are sent, each in a transaction of its own."""

    def __init__(self, connection: psycopg.Connection, api: str, monthly_calls: int) -> None:
        """`connection` is in autocommit mode; `monthly_calls` is the budget of a calendar month (UTC)."""
        self._connection = connection
        self._api = api
        self._monthly_calls = monthly_calls

    def reserve(self, endpoint: str, wanted: int, prices: Sequence[Decimal] = ()) -> tuple[int, int]:
        """Count up to `wanted` calls as made; returns the entry's id and how many there are (fewer at the end).

        `prices` (US dollars) are what the calls ask about, one each; without them they are about every price.

        Raises:
            BudgetSpentError: not one is left.
        """
        with self._connection.transaction():
            # Whoever counts at the same time waits, then sees this entry.
            self._connection.execute(
                "select pg_advisory_xact_lock(hashtextextended('ingest.api_calls ' || %s, 0))", [self._api]
            )
            granted = min(wanted, self.left())
            if granted < 1:
                raise BudgetSpentError
            call_id = _number(
                self._connection.execute(
                    "insert into ingest.api_calls (api, endpoint, call_count, prices_usd) values (%s, %s, %s, %s)"
                    " returning api_call_id",
                    [self._api, endpoint, granted, list(prices[:granted]) or None],
                )
            )
        return call_id, granted

    def settle(self, call_id: int, outcome: str, http_status: int | None) -> None:
        """Say how an entry ended: lost, unsent (which gives its calls back), answered or failed."""
        self._connection.execute(
            "update ingest.api_calls set outcome = %s, http_status = %s, ended_at = now() where api_call_id = %s",
            [outcome, http_status, call_id],
        )

    def left(self) -> int:
        """Calls left of this month's budget."""
        used = self._connection.execute(
            """
            select coalesce(sum(call_count), 0)
            from ingest.api_calls
            where api = %s and outcome <> 'unsent' and reserved_at >= date_trunc('month', now(), 'UTC')
            """,
            [self._api],
        )
        return max(0, self._monthly_calls - _number(used))


class _Sync:
    """One sync; its connection is in autocommit mode."""

    def __init__(
        self,
        settings: Settings,
        connection: psycopg.Connection,
        client: Climatiq,
        progress: Progress,
        sleep: Callable[[float], None],
    ) -> None:
        self._has_key = settings.climatiq_api_key is not None
        self._activity_id = settings.climatiq_activity_id
        self._data_version = settings.climatiq_data_version
        self._connection = connection
        self._client = client
        self._progress = progress
        self._sleep = sleep
        self._ledger = Ledger(connection, API, settings.climatiq_monthly_calls)
        self._calls = 0

    def run(self, prices: Sequence[Decimal], is_dry_run: bool) -> SyncSummary:
        if not is_dry_run:
            self._connection.execute(f"set lock_timeout = '{_WAIT_FOR_OTHERS}'")
            self._connection.execute("select pg_advisory_lock(hashtextextended('raw.climatiq_estimates', 0))")
        release, why_no_release = self._release(is_dry_run) if prices else (None, None)
        if release is None:
            failed = {price: Failure(float(price), why_no_release or "", False) for price in prices}
            to_ask = tuple(map(float, prices)) if is_dry_run else ()
            return self._summary(is_dry_run, None, [], [], [] if is_dry_run else list(failed.values()), to_ask)
        requests = [EstimateRequest(self._activity_id, release, price) for price in prices]
        known = self._known(requests)
        pending = [request for request in requests if request.hash not in known]
        cached = [known[request.hash] for request in requests if request.hash in known]
        from_cache = [each for each in cached if isinstance(each, Estimate)]
        failed_before = [each for each in cached if isinstance(each, Failure)]
        if is_dry_run:
            to_ask = tuple(float(request.price_usd) for request in pending)
            return self._summary(True, release, [], from_cache, failed_before, to_ask)
        outcomes = self._ask_all(pending)
        asked = [each for each in outcomes if isinstance(each, Estimate)]
        failed_now = [each for each in outcomes if isinstance(each, Failure)]
        return self._summary(False, release, asked, from_cache, failed_before + failed_now, ())

    def _summary(
        self,
        is_dry_run: bool,
        release: str | None,
        asked: Sequence[Estimate],
        from_cache: Sequence[Estimate],
        failed: Sequence[Failure],
        to_ask_usd: tuple[float, ...],
    ) -> SyncSummary:
        left = self._ledger.left()
        return SyncSummary(
            self._has_key,
            is_dry_run,
            release,
            tuple(asked),
            tuple(from_cache),
            tuple(failed),
            to_ask_usd,
            self._calls,
            left,
        )

    def _release(self, is_dry_run: bool) -> tuple[str | None, str | None]:
        """The fixed release to ask, else why there is none. What a moving one last gave serves while the API fails."""
        if is_fixed(self._data_version):
            return self._data_version, None
        row = self._connection.execute(
            """
            select release, responded_at > now() - %s::interval
            from raw.climatiq_releases
            where data_version = %s
            order by responded_at desc
            limit 1
            """,
            [_RELEASE_STANDS, self._data_version],
        ).fetchone()
        last, still_stands = row or (None, False)
        if still_stands or is_dry_run:
            return last, None

        def ask(_granted: int) -> Reply[str]:
            reply = self._client.latest_release()
            if float(reply.content) < float(self._data_version.removeprefix("^")):
                reason = f"its latest release is {reply.content}, before {self._data_version}"
                raise CallFailedError(reason, reply.http_status)
            return reply

        try:
            return self._call(RELEASES_ENDPOINT, 1, ask, self._land_release).content, None
        except (CallFailedError, BudgetSpentError) as error:
            reason = _words(error)
            _log.warning("the release of a moving data version is not known", reason=reason, last_known=last)
            return last, reason

    def _known(self, requests: Sequence[EstimateRequest]) -> dict[str, Estimate | Failure]:
        """The final answers that are here, by request hash."""
        rows = self._connection.execute(
            """
            select distinct on (request_hash) request_hash, price_usd, kg_co2e, release, error_code
            from raw.climatiq_estimates
            where request_hash = any(%s) and (kg_co2e is not null or error_code = any(%s))
            order by request_hash, kg_co2e is null, responded_at
            """,
            [[request.hash for request in requests], list(FINAL_ERROR_CODES)],
        ).fetchall()
        return {
            hash_: Failure(float(price), f"{code} (asked before)", True)
            if kg is None
            else Estimate(float(price), kg, release)
            for hash_, price, kg, release, code in rows
        }

    def _ask_all(self, pending: Sequence[EstimateRequest]) -> list[Estimate | Failure]:
        outcomes: list[Estimate | Failure] = []
        while len(outcomes) < len(pending):
            batch = pending[len(outcomes) : len(outcomes) + MOST_IN_A_BATCH]
            try:
                answers = self._ask(batch)
            except (CallFailedError, BudgetSpentError) as error:
                left = pending[len(outcomes) :]
                return [*outcomes, *(Failure(float(each.price_usd), _words(error), False) for each in left)]
            outcomes += map(_outcome, answers)
            self._progress("estimates", len(outcomes), len(pending))
        return outcomes

    def _ask(self, batch: Sequence[EstimateRequest]) -> list[Answer]:
        """Answers to the first of `batch`: all of them, or as many as the budget has left."""
        return self._call(
            BATCH_ENDPOINT,
            len(batch),
            lambda granted: self._client.estimate(batch[:granted]),
            self._land_answers,
            [request.price_usd for request in batch],
        ).content

    def _call(
        self,
        endpoint: str,
        wanted: int,
        send: Callable[[int], Reply[T]],
        land: Callable[[Reply[T], int], None],
        prices: Sequence[Decimal] = (),
    ) -> Reply[T]:
        """Reserve, send, land; again with back-off while it may pass. Every attempt that was sent is counted."""

        def attempt() -> Reply[T]:
            call_id, granted = self._ledger.reserve(endpoint, wanted, prices)
            self._calls += granted
            try:
                reply = send(granted)
            except (CallFailedError, KeyRefusedError) as error:
                was_sent = not isinstance(error, CallMayPassError) or error.was_sent
                if not was_sent:
                    self._calls -= granted
                outcome = "failed" if error.http_status else "lost" if was_sent else "unsent"
                self._ledger.settle(call_id, outcome, error.http_status)
                raise
            with self._connection.transaction():
                land(reply, call_id)
                self._ledger.settle(call_id, "answered", reply.http_status)
            return reply

        retrying = tenacity.Retrying(
            stop=tenacity.stop_after_attempt(_ATTEMPTS),
            wait=wait_s,
            retry=tenacity.retry_if_exception(_is_worth_waiting),
            before_sleep=_tell,
            sleep=self._sleep,
            reraise=True,
        )
        return retrying(attempt)

    def _land_answers(self, reply: Reply[list[Answer]], call_id: int) -> None:
        with self._connection.cursor() as cursor:
            cursor.executemany(
                """
                insert into raw.climatiq_estimates (
                    request_hash, request, price_usd, data_version, release, requested_at, responded_at, http_status,
                    error_code, kg_co2e, body, _api_call_id
                ) values (%s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s)
                """,
                [
                    (
                        answer.request.hash,
                        json.dumps(answer.request.body),
                        answer.request.price_usd,
                        self._data_version,
                        answer.request.release,
                        reply.requested_at,
                        reply.responded_at,
                        reply.http_status,
                        answer.error_code,
                        answer.kg_co2e,
                        answer.body,
                        call_id,
                    )
                    for answer in reply.content
                ],
            )

    def _land_release(self, reply: Reply[str], call_id: int) -> None:
        self._connection.execute(
            """
            insert into raw.climatiq_releases (
                data_version, release, requested_at, responded_at, http_status, body, _api_call_id
            ) values (%s, %s, %s, %s, %s, %s, %s)
            """,
            [
                self._data_version,
                reply.content,
                reply.requested_at,
                reply.responded_at,
                reply.http_status,
                reply.body,
                call_id,
            ],
        )


def wait_s(state: tenacity.RetryCallState) -> float:
    """Seconds before the next attempt: what the API asks for and a little, else exponential back-off with jitter."""
    error = state.outcome.exception() if state.outcome else None
    if isinstance(error, CallMayPassError) and error.retry_after_s is not None:
        return error.retry_after_s + _JITTER(state)
    return _BACKOFF(state)


def _is_worth_waiting(error: BaseException) -> bool:
    return isinstance(error, CallMayPassError) and (error.retry_after_s or 0) <= _LONGEST_WAIT_S


def _tell(state: tenacity.RetryCallState) -> None:
    reason = str(state.outcome.exception()) if state.outcome else ""
    wait = round(state.next_action.sleep, 1) if state.next_action else 0
    _log.warning("Climatiq did not answer, it is asked again", reason=reason, wait_s=wait, attempt=state.attempt_number)


def _outcome(answer: Answer) -> Estimate | Failure:
    price = float(answer.request.price_usd)
    if answer.kg_co2e is not None:
        return Estimate(price, answer.kg_co2e, answer.request.release)
    return Failure(price, answer.reason or "", answer.error_code in FINAL_ERROR_CODES)


def _words(error: Exception) -> str:
    if isinstance(error, BudgetSpentError):
        return "this month's budget of calls is used up (SCOPEHOUSE_CLIMATIQ_MONTHLY_CALLS)"
    if isinstance(error, CallMayPassError) and (error.retry_after_s or 0) > _LONGEST_WAIT_S:
        return f"{error}; it asks to wait {error.retry_after_s:.0f} s"
    return str(error)


def _number(cursor: psycopg.Cursor) -> int:
    row = cursor.fetchone()
    return int(row[0]) if row else 0
