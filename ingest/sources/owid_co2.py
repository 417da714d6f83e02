"""Reads Our World in Data's CO2 data set: a file, or a URL of which a copy is kept."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import unquote, urlsplit

import httpx
import polars as pl
import tenacity

from ingest.progress import Progress, no_progress
from services.errors import MendableError

OFFICIAL_URL = "https://raw.githubusercontent.com/owid/co2-data/master/owid-co2-data.csv"
FIRST_YEAR = 1900

# What is read of the file's 79 columns, in the contract's order.
COLUMNS = {
    "country": pl.String,
    "year": pl.Int32,
    "iso_code": pl.String,
    "population": pl.Float64,
    "gdp": pl.Float64,
    "co2": pl.Float64,
    "co2_per_capita": pl.Float64,
}

_TIMEOUT = httpx.Timeout(30, connect=5)
_ATTEMPTS = 2


class OwidError(MendableError):
    """The data can't be read; the sentence says what is wrong with it."""


class OwidUnreachableError(OwidError):
    """The URL can't be reached and no earlier copy of it is here."""


@dataclass(frozen=True, slots=True)
class FetchedFile:
    """A URL's copy on disk; `is_earlier_copy` when the URL could not be reached now."""

    path: Path
    is_earlier_copy: bool


def path_of(source: str) -> Path:
    """The file that a path or a file:// URL names; `~` is the home folder.

    Raises:
        OwidError: the URL names another machine.
    """
    if not source.startswith("file:"):
        return Path(source).expanduser()
    url = urlsplit(source)
    if url.netloc not in ("", "localhost"):
        raise OwidError(f"{source} names the machine {url.netloc}: a file of this one is file:///FOLDER/FILE.")
    return Path(unquote(url.path))


def read_country_years(path: Path) -> pl.DataFrame:
    """The rows from FIRST_YEAR on with the columns of COLUMNS; NaN and infinities become null. Gzip will do.

    Raises:
        OwidError: no file, no CSV, a column missing, text for a number, a row without country or year, no row.
    """
    if path.is_dir():
        raise OwidError(f"{path} is a folder: name the CSV in it in SCOPEHOUSE_OWID_CO2_SOURCE or --source.")
    if not path.is_file():
        raise OwidError(f"There is no file {path}: mend SCOPEHOUSE_OWID_CO2_SOURCE or --source.")
    try:
        header = pl.read_csv(path, n_rows=0).columns
        if missing := [name for name in COLUMNS if name not in header]:
            raise OwidError(
                f"{path} has no column {', '.join(missing)}: give Our World in Data's CO2 CSV, "
                f"or rename its columns to {', '.join(COLUMNS)}."
            )
        rows = pl.read_csv(path, columns=list(COLUMNS), schema_overrides=COLUMNS)
    except OSError as error:
        raise OwidError(f"{path} can't be read ({error}): see that you may read it.") from error
    except pl.exceptions.PolarsError as error:
        reason = str(error).partition("\n")[0]
        raise OwidError(f"{path} is not the CSV it should be ({reason}): mend the file or give another.") from error
    rows = rows.select(list(COLUMNS))
    if unnamed := rows.filter(pl.col("country").is_null() | pl.col("year").is_null()).height:
        raise OwidError(f"{path} has {unnamed:,} rows without a country or a year: mend the file.")
    rows = rows.filter(pl.col("year") >= FIRST_YEAR)
    if rows.is_empty():
        raise OwidError(f"{path} has no row from {FIRST_YEAR} on: give Our World in Data's whole CO2 CSV.")
    numbers = pl.col(pl.Float64)
    return rows.with_columns(pl.when(numbers.is_finite()).then(numbers).name.keep())


def fetch(url: str, cache_dir: Path, progress: Progress = no_progress) -> FetchedFile:
    """A URL's copy under `cache_dir`, fetched anew only when it has changed (by its ETag).

    Raises:
        OwidUnreachableError: the URL can't be reached, and there is no earlier copy.
    """
    copy = cache_dir / "owid" / f"{hashlib.sha256(url.encode()).hexdigest()[:16]}.csv"
    try:
        _fetch(url, copy, progress)
    except (httpx.HTTPError, httpx.InvalidURL) as error:
        if copy.exists():
            return FetchedFile(copy, is_earlier_copy=True)
        raise OwidUnreachableError(
            f"{url} can't be fetched ({error}): download Our World in Data's CO2 CSV by other means and set "
            "SCOPEHOUSE_OWID_CO2_SOURCE to it."
        ) from error
    return FetchedFile(copy, is_earlier_copy=False)


def _may_pass(error: BaseException) -> bool:
    if isinstance(error, httpx.HTTPStatusError):
        return error.response.status_code == 429 or error.response.is_server_error
    return isinstance(error, httpx.TransportError)


@tenacity.retry(
    stop=tenacity.stop_after_attempt(_ATTEMPTS),
    wait=tenacity.wait_fixed(1),
    retry=tenacity.retry_if_exception(_may_pass),
    reraise=True,
)
def _fetch(url: str, copy: Path, progress: Progress) -> None:
    tag = copy.with_suffix(".etag")
    known = {"If-None-Match": tag.read_text()} if copy.exists() and tag.exists() else {}
    with httpx.stream("GET", url, headers=known, follow_redirects=True, timeout=_TIMEOUT) as response:
        if response.status_code == httpx.codes.NOT_MODIFIED:
            return
        response.raise_for_status()
        copy.parent.mkdir(parents=True, exist_ok=True)
        part = copy.with_suffix(".part")
        size = int(response.headers.get("Content-Length", 0)) or None
        with part.open("wb") as file:
            for data in response.iter_bytes():
                file.write(data)
                progress("bytes fetched", response.num_bytes_downloaded, size)
        # A tag never outlives the copy it belongs to.
        tag.unlink(missing_ok=True)
        part.replace(copy)
        if "ETag" in response.headers:
            tag.write_text(response.headers["ETag"])
