"""How the e-bike company's table of bike models changes: an endless, seeded stream. Pure: knows no database, no clock.

Change i of a seed is always the same change, whatever was done before it.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from random import Random
from typing import Literal

import numpy as np
import numpy.typing as npt

from ingest.sources.bike_fleet import HISTORY_SECONDS, HISTORY_STARTS_AT, PRODUCTS, TrackingEvents

# Half of history takes the first so many changes, the rest all that follow: as with the fleet's events.
HALF_CHANGES = 24
NEW_MODEL = 8

Kind = Literal["update", "correct", "add", "withdraw"]

# What the changes do, over and over, and to which model (None: a drawn one of those that are ridden).
_CYCLE: tuple[tuple[Kind, int | None], ...] = (
    ("update", 5),
    ("update", 6),
    ("update", 7),
    ("correct", None),
    ("add", NEW_MODEL),
    ("update", 6),
    ("update", 5),
    ("update", NEW_MODEL),
    ("correct", None),
    ("update", 7),
    ("withdraw", NEW_MODEL),
    ("update", 6),
)


@dataclass(frozen=True, slots=True)
class Product:
    """What the company buys; `standard_cost` in US dollars."""

    product_id: int
    name: str
    bike_model_id: int
    standard_cost: float


@dataclass(frozen=True, slots=True)
class Factors:
    """What a model emits, kg CO2e a kilometre."""

    scope1: float
    scope2: float


@dataclass(frozen=True, slots=True)
class Change:
    """One change of one model. `holds_from`, in Unix seconds, becomes the row's modified_at.

    A correction's is earlier than that of the model's latest update. A withdrawal deletes the row and needs no factors.
    """

    kind: Kind
    bike_model_id: int
    holds_from: int
    factors: Factors

    @property
    def modified_at(self) -> datetime:
        """From when on it holds."""
        return datetime.fromtimestamp(self.holds_from, UTC)


NAMES = {5: "Mountain E-Bike", 6: "Road E-Bike", 7: "Touring E-Bike", NEW_MODEL: "Cargo E-Bike"}
# What the table holds at first; the new model's are what its changes start from.
STARTING_FACTORS = {
    5: Factors(0.005, -0.016),
    6: Factors(0.005, -0.021),
    7: Factors(0.005, -0.011),
    NEW_MODEL: Factors(0.007, -0.012),
}
PRODUCTS_FOR_SALE = (
    Product(501, "Mountain E-Bike, small battery", 5, 1105.81),
    Product(502, "Mountain E-Bike, large battery", 5, 1912.1544),
    Product(601, "Road E-Bike, aluminium", 6, 1320.68),
    Product(602, "Road E-Bike, carbon", 6, 2171.2942),
    Product(701, "Touring E-Bike, step-through", 7, 755.15),
    Product(702, "Touring E-Bike, long range", 7, 1481.9379),
    Product(801, "Cargo E-Bike, two wheels", NEW_MODEL, 2310.4),
    Product(802, "Cargo E-Bike, three wheels", NEW_MODEL, 2899.0),
)


def change(seed: int, position: int) -> Change:
    """The change at `position` (0 is the first) of a seed."""
    # Its method random() alone is promised to stay the same from one release of Python to the next.
    draw = Random(f"{seed}:{position}").random  # noqa: S311 - nobody is to be kept from guessing it
    kind, model = _CYCLE[position % len(_CYCLE)]
    if model is None:
        model = PRODUCTS[int(draw() * len(PRODUCTS))]
    moment = position + draw()
    holds_from = HISTORY_STARTS_AT + int(HISTORY_SECONDS * moment / (moment + HALF_CHANGES))
    if kind == "correct":
        latest = next(at for at in range(position - 1, -1, -1) if _CYCLE[at % len(_CYCLE)] == ("update", model))
        holds_from = HISTORY_STARTS_AT + int((change(seed, latest).holds_from - HISTORY_STARTS_AT) * draw())
    start = STARTING_FACTORS[model]
    # A fifth up or down: a model never comes to emit more than it avoids.
    factors = Factors(*(round(value * (0.8 + 0.4 * draw()), 6) for value in (start.scope1, start.scope2)))
    return Change(kind, model, holds_from, factors)


class FactorHistory:
    """Which factors held when, by what is known after all of some changes, in the order in which they were made.

    A version holds from its time to the next later one's, whichever was known first; of two from the same time the
    later known stands. What the table held at first has held since ever. Only the models that are ridden: they are
    never withdrawn.
    """

    def __init__(self, changes: Iterable[Change]) -> None:
        known: Mapping[int, dict[int, Factors]] = {model: {} for model in PRODUCTS}
        for each in changes:
            if each.bike_model_id in known:
                known[each.bike_model_id][each.holds_from] = each.factors
        self._starts = {model: np.array(sorted(versions), dtype=np.int64) for model, versions in known.items()}
        self._operating = {
            model: np.array(
                [
                    factors.scope1 + factors.scope2
                    for factors in (STARTING_FACTORS[model], *(versions[at] for at in sorted(versions)))
                ]
            )
            for model, versions in known.items()
        }

    def operating_kg_co2e_per_km(self, bike_model_id: int, times: npt.NDArray[np.int64]) -> npt.NDArray[np.float64]:
        """Scope 1 + scope 2 of a model at each time (Unix seconds)."""
        versions: npt.NDArray[np.float64] = self._operating[bike_model_id]
        return versions[np.searchsorted(self._starts[bike_model_id], times, side="right")]

    def operating_kg_co2e(self, events: TrackingEvents) -> float:
        """What all journeys of some events emit, each by the factors that held when its event was measured."""
        times = np.repeat(events.times, events.measurement_counts)
        total = 0.0
        for model in PRODUCTS:
            mine = events.product_ids == model
            total += float(np.sum(self.operating_kg_co2e_per_km(model, times[mine]) * events.journeys_m[mine])) / 1000
        return total
