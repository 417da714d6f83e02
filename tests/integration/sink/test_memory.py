"""A sink's memory is bounded by bytes, not by records: large values do not pile up."""

from __future__ import annotations

import resource
import sys

from ingest.sink.drain import drain
from services.settings import Settings
from tests.integration.dead_letters.conftest import World, world
from tests.integration.faults.conftest import WORKERS

__all__ = ["world"]

MEGABYTE = 2**20
VALUES = 200
# Batches of 8 MiB, one being loaded while the next is gathered, as consumed, decoded and encoded: a few times 8 MiB.
ROOM = 120 * MEGABYTE


def grow(settings: Settings, warm: str, large: str, answer: object) -> None:
    """Drain a topic of one record, then one of many large ones; answers with the growth of the peak, in bytes."""
    drain(settings, [warm])
    before = _peak()
    drain(settings, [large])
    answer.send(_peak() - before)  # type: ignore[attr-defined]


def _peak() -> int:
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


def test_two_hundred_values_of_a_megabyte_do_not_pile_up(world: World) -> None:
    warm, large = world.make(), world.make()
    world.send(warm, [world.good(warm)])
    world.send(large, [world.good(large, name=b"x" * MEGABYTE)] * VALUES)
    told, tells = WORKERS.Pipe(duplex=False)
    process = WORKERS.Process(target=grow, args=[world.settings, warm.topic, large.topic, tells])
    process.start()
    process.join()
    assert process.exitcode == 0
    assert len(world.rows(large, "id")) == VALUES
    growth = told.recv()
    assert growth < ROOM, f"{growth / MEGABYTE:.0f} MB for {VALUES} MB"
