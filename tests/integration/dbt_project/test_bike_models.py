"""The history of bike models, from their change log."""

from __future__ import annotations

import math
import random
from collections.abc import Iterable
from dataclasses import replace

import pytest

from tests.integration.dbt_project.warehouse import BIKE_MODELS, BikeChange, Warehouse

INFINITY = math.inf
OPEN = 253_402_214_400.0  # 9999-12-31

# A model's price is what tells its versions apart here. Times are seconds; a version is (price, valid from, valid to).
SNAPSHOT = BikeChange(5, "r", 1_000, 2_000, 10, price_usd=1)
Versions = list[tuple[float, float, float]]


@pytest.fixture
def warehouse(built: Warehouse) -> Warehouse:
    """The built database without any event or change."""
    built.empty()
    return built


def history(warehouse: Warehouse, model: int = 5) -> Versions:
    """The versions of a model after the dimension was built from what has landed."""
    warehouse.dbt.run(BIKE_MODELS)
    return warehouse.rows(
        "select purchase_price_usd, extract(epoch from valid_from)::float8, extract(epoch from valid_to)::float8"
        f" from mobility.{BIKE_MODELS} where bike_model_id = %s order by valid_from",
        model,
    )


def update(at: float, price: float, committed_at: float | None = None, operation: str = "u") -> BikeChange:
    """A change that says it holds from `at` on; committed then, or later."""
    committed_at = at if committed_at is None else committed_at
    return BikeChange(5, operation, at, committed_at, int(committed_at * 1_000), price_usd=price)


def delete(at: float, price: float) -> BikeChange:
    """A delete at `at`: what it carries is the row before it, with the old modified_at."""
    return BikeChange(5, "d", 1_000, at, int(at * 1_000), price_usd=price)


@pytest.mark.parametrize(
    ("changes", "versions"),
    [
        pytest.param([], [], id="no log, no model"),
        pytest.param([SNAPSHOT], [(1, -INFINITY, OPEN)], id="what the first snapshot shows has always been so"),
        pytest.param([update(3_000, 1, operation="c")], [(1, 3_000, OPEN)], id="a model made later begins then"),
        pytest.param(
            [SNAPSHOT, update(3_000, 2), update(4_000, 3)],
            [(1, -INFINITY, 3_000), (2, 3_000, 4_000), (3, 4_000, OPEN)],
            id="each change is a version",
        ),
        pytest.param(
            [SNAPSHOT, update(3_000.000001, 2), update(3_000.000002, 3)],
            [(1, -INFINITY, 3_000.000001), (2, 3_000.000001, 3_000.000002), (3, 3_000.000002, OPEN)],
            id="two changes in one second both stand",
        ),
        pytest.param(
            [SNAPSHOT, update(3_000, 2), update(3_000, 3, committed_at=3_001)],
            [(1, -INFINITY, 3_000), (3, 3_000, OPEN)],
            id="of two that hold from the same moment the later stands",
        ),
        pytest.param(
            [SNAPSHOT, update(3_000, 2), update(2_500, 3, committed_at=4_000)],
            [(1, -INFINITY, 2_500), (3, 2_500, 3_000), (2, 3_000, OPEN)],
            id="a correction of the past lands in its place",
        ),
        pytest.param(
            [SNAPSHOT, update(500, 2, committed_at=4_000)],
            [(1, -INFINITY, 500), (2, 500, 1_000), (1, 1_000, OPEN)],
            id="a correction before the snapshot's own time holds until that",
        ),
        pytest.param(
            [SNAPSHOT, replace(SNAPSHOT, committed_at=9_000, lsn=9_000)],
            [(1, -INFINITY, OPEN)],
            id="a snapshot taken again, unchanged, is no version",
        ),
        pytest.param(
            [SNAPSHOT, update(3_000, 2), replace(update(3_000, 2), operation="r", committed_at=9_000, lsn=9_000)],
            [(1, -INFINITY, 3_000), (2, 3_000, OPEN)],
            id="a snapshot taken again after a change, unchanged, is no version",
        ),
        pytest.param(
            [replace(SNAPSHOT, committed_at=9_000), update(3_000, 2)],
            [(1, -INFINITY, 3_000), (2, 3_000, OPEN)],
            id="a first snapshot is before what follows it in the log, though stamped later",
        ),
        pytest.param(
            [replace(SNAPSHOT, committed_at=9_000), update(1_000, 2, committed_at=3_000)],
            [(1, -INFINITY, 1_000), (2, 1_000, OPEN)],
            id="what follows a snapshot stands, though the snapshot is stamped later",
        ),
        pytest.param(
            [SNAPSHOT, update(3_000, 1), update(4_000, 2)],
            [(1, -INFINITY, 4_000), (2, 4_000, OPEN)],
            id="an update of nothing is no version",
        ),
        pytest.param(
            [SNAPSHOT, replace(update(3_000, 2), lsn=11), replace(update(3_000.5, 3), committed_at=3_000, lsn=12)],
            [(1, -INFINITY, 3_000.5), (3, 3_000.5, OPEN)],
            id="several changes in one transaction collapse to the last",
        ),
        pytest.param([SNAPSHOT, delete(3_000, 1)], [(1, -INFINITY, 3_000)], id="a delete closes when it is committed"),
        pytest.param(
            [SNAPSHOT, delete(3_000, 1), update(4_000, 1, operation="c")],
            [(1, -INFINITY, 3_000), (1, 4_000, OPEN)],
            id="a model that comes again opens a new version, after a gap",
        ),
        pytest.param(
            [SNAPSHOT, delete(3_000, 1), update(500, 2, committed_at=4_000, operation="c")],
            [(1, -INFINITY, 3_000), (2, 3_000, OPEN)],
            id="a model that comes again does not reach back before its delete",
        ),
        pytest.param(
            [SNAPSHOT, update(5_000, 2, committed_at=2_500), delete(3_000, 2)],
            [(1, -INFINITY, 3_000)],
            id="what was to come when the model was deleted never does",
        ),
        pytest.param(
            [SNAPSHOT, replace(delete(3_000, 1), lsn=11), replace(update(3_000, 2, operation="c"), lsn=12)],
            [(1, -INFINITY, 3_000), (2, 3_000, OPEN)],
            id="deleted and made again in one transaction is a change",
        ),
    ],
)
def test_history(warehouse: Warehouse, changes: list[BikeChange], versions: Versions) -> None:
    warehouse.append_changes(changes)
    assert history(warehouse) == versions


def test_one_version_is_current_and_none_after_a_delete(warehouse: Warehouse) -> None:
    current = f"select purchase_price_usd from mobility.{BIKE_MODELS} where is_current"
    warehouse.append_changes([SNAPSHOT, update(3_000, 2)])
    warehouse.dbt.run(BIKE_MODELS)
    assert warehouse.rows(current) == [(2.0,)]
    warehouse.append_changes([delete(4_000, 2)])
    warehouse.dbt.run(BIKE_MODELS)
    assert warehouse.rows(current) == []


def test_any_split_repeat_or_replay_of_a_log_gives_the_same_history(warehouse: Warehouse) -> None:
    """Against a reading of the log that asks, for each moment, what was true then."""
    for seed in range(8):
        chance = random.Random(seed)
        log = a_companys_log(chance)
        warehouse.empty()
        # Some changes were set aside and are replayed late, some parts of the log are sent again.
        late = [change for change in log if chance.random() < 0.2]
        rest = [change for change in log if change not in late]
        cut = chance.randrange(len(rest) + 1)
        warehouse.append_changes(rest[:cut])
        if chance.random() < 0.5:
            warehouse.dbt.run(BIKE_MODELS)
        warehouse.append_changes(rest[max(0, cut - chance.randrange(5)) :])
        warehouse.append_changes(chance.sample(late, len(late)), partition=-1)
        warehouse.append_changes(chance.sample(log, len(log) // 3), partition=-1)
        for model in (5, 6):
            versions = history(warehouse, model)
            own = [change for change in log if change.model == model]
            moments = {change.modified_at for change in own} | {change.committed_at for change in own} | {0.0, 9e9}
            for moment in sorted(moments | {each + 0.0625 for each in moments}):
                found = [price for price, start, end in versions if start <= moment < end]
                assert found == true_at(own, moment), (seed, model, moment, own)
        warehouse.dbt("test", "--select", BIKE_MODELS)


def a_companys_log(chance: random.Random) -> list[BikeChange]:
    """A log that a database could have written: snapshots, changes of now and of the past, deletes, new models."""
    log = [BikeChange(model, "r", 900, 1_000, 1, price_usd=1) for model in (5, 6) if chance.random() < 0.8]
    rows = {change.model: change for change in log}
    committed_at, lsn = 1_000.0, 1
    for _ in range(chance.randrange(3, 16)):
        lsn += 1
        committed_at += chance.choice((0.125, 0.25, 10)) if chance.random() < 0.8 else 0
        model = chance.choice((5, 6))
        at = committed_at if chance.random() < 0.6 else committed_at + chance.choice((-200, -20, -10, 10))
        row = rows.get(model)
        if row and chance.random() < 0.2:
            log.append(replace(rows.pop(model), operation="d", committed_at=committed_at, lsn=lsn))
        elif row and chance.random() < 0.2:
            log.append(replace(row, operation="r", committed_at=committed_at, lsn=lsn))
        else:
            price = chance.randrange(1, 5)
            rows[model] = BikeChange(model, "u" if row else "c", at, committed_at, lsn, price_usd=price)
            log.append(rows[model])
    return log


def true_at(log: Iterable[BikeChange], moment: float) -> list[float]:
    """The model's price at a moment, as a list of one or none."""
    last_of_transaction = list({change.committed_at: change for change in log}.values())
    born_after = -INFINITY
    lives: list[tuple[float, float, list[BikeChange]]] = []
    life: list[BikeChange] = []
    for change in last_of_transaction:
        if change.operation == "d":
            lives.append((born_after, change.committed_at, life))
            born_after, life = change.committed_at, []
        else:
            life.append(change)
    lives.append((born_after, INFINITY, life))
    for start, end, entries in lives:
        if not start <= moment < end:
            continue
        begun = [change for change in entries if max(change.modified_at, start) <= moment]
        if begun:
            return [max(begun, key=lambda change: (max(change.modified_at, start), change.committed_at)).price_usd]
        if entries and entries[0] is last_of_transaction[0] and entries[0].operation == "r":
            return [entries[0].price_usd]
    return []
