"""Sends what countries emitted, a record a country and year, to `emissions-topic` as JSON."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass

import msgspec
import polars as pl

from ingest.progress import Progress, no_progress
from ingest.sources.owid_co2 import OFFICIAL_URL, OwidUnreachableError, fetch, path_of, read_country_years
from ingest.sources.sample_countries import sample_country_years
from ingest.sources.topic_writer import OffsetRange, TopicWriter
from services.settings import Settings

TOPIC = "emissions-topic"
SAMPLE_SOURCE = "synthetic sample"


@dataclass(frozen=True, slots=True)
class CountryEmissionsProduced:
    """What one run sent, all of it delivered.

    `countries` counts names, aggregates such as "World" among them. `is_earlier_copy` when the source could not be
    reached and the copy of an earlier run was read. `offsets` is where in the topic the rows lie, and no others.
    """

    rows: int
    countries: int
    source: str
    is_sample: bool
    is_earlier_copy: bool
    offsets: list[OffsetRange]
    seconds: float


@dataclass(frozen=True, slots=True)
class _CountryYears:
    rows: pl.DataFrame
    source: str
    is_sample: bool = False
    is_earlier_copy: bool = False


def produce_country_emissions(
    settings: Settings,
    *,
    source: str | None = None,
    allow_sample: bool = False,
    only_sample: bool = False,
    progress: Progress = no_progress,
) -> CountryEmissionsProduced:
    """Send every row of a source; the same source again sends the same records again.

    Args:
        settings: where the broker is, where copies are kept, and the source unless given here.
        source: path or URL of a CSV; without it SCOPEHOUSE_OWID_CO2_SOURCE, else OWID's official file.
        allow_sample: send the made-up sample where the official file can't be had. A source that was asked for
            is never replaced by it.
        only_sample: send the made-up sample.
        progress: told of the bytes fetched and the records delivered.

    Raises:
        OwidError: the source can't be had or read.
        ProduceError: the broker does not answer, lacks the topic, or did not take every record.
    """
    started = time.monotonic()
    with TopicWriter(settings, TOPIC, progress, keep_offsets=True) as writer:
        if only_sample:
            found = _sample()
        else:
            found = _read(settings, source or settings.owid_co2_source, allow_sample, progress)
        writer.expect(found.rows.height)
        writer.write(encode(found.rows, is_sample=found.is_sample))
    return CountryEmissionsProduced(
        rows=found.rows.height,
        countries=found.rows["country"].n_unique(),
        source=found.source,
        is_sample=found.is_sample,
        is_earlier_copy=found.is_earlier_copy,
        offsets=writer.offsets,
        seconds=round(time.monotonic() - started, 3),
    )


def encode(rows: pl.DataFrame, *, is_sample: bool) -> Iterator[tuple[bytes, bytes]]:
    """Each row's key (the country's name) and its JSON object. What is missing is null; there is never a NaN."""
    for row in rows.iter_rows(named=True):
        yield row["country"].encode(), msgspec.json.encode(row | {"is_sample": is_sample})


def _read(settings: Settings, asked_for: str | None, allow_sample: bool, progress: Progress) -> _CountryYears:
    source = asked_for or OFFICIAL_URL
    if not source.startswith(("http://", "https://")):
        return _CountryYears(read_country_years(path_of(source)), source)
    try:
        file = fetch(source, settings.cache_dir, progress)
    except OwidUnreachableError:
        if asked_for or not allow_sample:
            raise
        return _sample()
    return _CountryYears(read_country_years(file.path), source, is_earlier_copy=file.is_earlier_copy)


def _sample() -> _CountryYears:
    return _CountryYears(sample_country_years(), SAMPLE_SOURCE, is_sample=True)
