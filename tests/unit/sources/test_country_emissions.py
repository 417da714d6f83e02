import gzip
import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ingest.contracts.contract import load_contracts
from ingest.sources import owid_co2
from ingest.sources.country_emissions import encode
from ingest.sources.owid_co2 import COLUMNS, OwidError, OwidUnreachableError, fetch, path_of, read_country_years
from ingest.sources.sample_countries import sample_country_years
from services.settings import PROJECT_ROOT

REAL_FILE = PROJECT_ROOT.parent / "shared" / "data" / "countries" / "owid_co2.csv"
HEADER = "country,year,iso_code,population,gdp,co2,co2_per_capita"


def written(path: Path, *lines: str) -> Path:
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path


def no_constant(name: str) -> None:
    raise ValueError(f"{name} is not legal JSON")


def test_the_columns_are_the_contracts() -> None:
    fields = [field.name for field in load_contracts()["emissions-topic"].fields]
    assert [*COLUMNS, "is_sample"] == fields


def test_years_before_1900_stay_out_and_later_ones_come_in(tmp_path: Path) -> None:
    file = written(tmp_path / "a.csv", HEADER, "A,1899,AAA,1,1,1,1", "A,1900,AAA,1,1,1,1", "A,2031,AAA,1,1,1,1")
    assert read_country_years(file)["year"].to_list() == [1900, 2031]


def test_other_columns_and_their_order_do_not_matter(tmp_path: Path) -> None:
    file = written(
        tmp_path / "a.csv", "co2,x,year,country,gdp,iso_code,co2_per_capita,population", "1,y,2000,A,2,AAA,3,4"
    )
    assert read_country_years(file).rows() == [("A", 2000, "AAA", 4.0, 2.0, 1.0, 3.0)]


def test_what_is_missing_or_no_number_is_null(tmp_path: Path) -> None:
    file = written(tmp_path / "a.csv", HEADER, "World,2000,,NaN,inf,-inf,")
    assert read_country_years(file).rows() == [("World", 2000, None, None, None, None, None)]


def test_a_gzipped_file_is_read(tmp_path: Path) -> None:
    file = tmp_path / "a.csv.gz"
    file.write_bytes(gzip.compress(f"{HEADER}\nA,2000,AAA,1,1,1,1\n".encode()))
    assert read_country_years(file).height == 1


@pytest.mark.parametrize(
    ("lines", "sentence"),
    [
        (["country,year,iso,population,gdp,emissions,co2_per_capita"], "has no column iso_code, co2:"),
        ([HEADER, "A,2000,AAA,1,many,1,1"], "could not parse `many` .*'gdp'"),
        ([HEADER, ",2000,AAA,1,1,1,1"], "1 rows without a country or a year"),
        ([HEADER, "A,,AAA,1,1,1,1"], "1 rows without a country or a year"),
        ([HEADER, "A,2000,AAA,1,1,1,1,1,1"], "is not the CSV it should be"),
        (["<html>", "<body>Not found</body>"], "has no column country"),
        ([HEADER], "has no row from 1900 on"),
        ([HEADER, "A,1899,AAA,1,1,1,1"], "has no row from 1900 on"),
    ],
)
def test_a_file_that_is_wrong_is_one_sentence(tmp_path: Path, lines: list[str], sentence: str) -> None:
    with pytest.raises(OwidError, match=sentence) as caught:
        read_country_years(written(tmp_path / "a.csv", *lines))
    assert "\n" not in str(caught.value)


def test_no_file_an_empty_one_and_a_folder_are_told(tmp_path: Path) -> None:
    (tmp_path / "empty.csv").touch()
    with pytest.raises(OwidError, match="is not the CSV"):
        read_country_years(tmp_path / "empty.csv")
    with pytest.raises(OwidError, match="There is no file"):
        read_country_years(tmp_path / "missing.csv")
    with pytest.raises(OwidError, match="is a folder: name the CSV in it"):
        read_country_years(tmp_path)


def test_a_source_is_a_path_or_a_file_url(tmp_path: Path) -> None:
    file = tmp_path / "my countries.csv"
    assert file.as_uri().endswith("my%20countries.csv")
    for source in (str(file), file.as_uri(), file.as_uri().replace("file://", "file://localhost")):
        assert path_of(source) == file
    assert path_of("~/co2.csv") == Path.home() / "co2.csv"


def test_a_file_url_with_two_slashes_is_told_to_name_a_machine() -> None:
    with pytest.raises(OwidError, match="names the machine data: a file of this one is file:///"):
        path_of("file://data/co2.csv")


@given(
    st.lists(
        st.tuples(
            st.text(min_size=1),
            st.integers(1900, 2100),
            st.none() | st.text(),
            *[st.none() | st.floats(allow_nan=True, allow_infinity=True)] * 4,
        ),
        max_size=5,
    )
)
def test_records_are_legal_json_and_never_hold_a_nan(rows: list[tuple]) -> None:
    frame = pl.DataFrame(rows, schema=COLUMNS, orient="row")
    for (country, *_), (key, value) in zip(rows, encode(frame, is_sample=False), strict=True):
        record = json.loads(value, parse_constant=no_constant)
        assert list(record) == [*COLUMNS, "is_sample"]
        assert record["country"] == country == key.decode()
        assert record["is_sample"] is False


@pytest.mark.skipif(not REAL_FILE.exists(), reason="the real data is not here")
def test_the_real_file_is_read_whole() -> None:
    rows = read_country_years(REAL_FILE)
    assert rows.height == 23_339
    assert (rows["year"].min(), rows["year"].max()) == (1900, 2024)
    assert rows["co2"].null_count() == 0
    assert rows.filter(pl.col("country") == "World")["iso_code"].null_count() > 0


def test_the_sample_is_the_same_every_time_and_no_real_country() -> None:
    sample = sample_country_years()
    assert sample.equals(sample_country_years())
    assert sample["country"].n_unique() == sample["iso_code"].n_unique() == 60
    assert sample["country"].str.starts_with("Sampleland ").all()
    # ISO 3166-1 leaves XAA to XZZ to users.
    assert sample["iso_code"].str.contains("^X[A-Z]{2}$").all()
    assert sample.null_count().sum_horizontal().item() == 0
    assert sample.height == 60 * 35


def test_the_sample_has_three_groups_that_no_country_lies_between() -> None:
    means = sample_country_years().group_by("country").agg(pl.col("co2", "co2_per_capita").mean())
    giants = means.filter(pl.col("co2") > 3_000)
    rich = means.filter(pl.col("co2") < 500, pl.col("co2_per_capita") > 18)
    small = means.filter(pl.col("co2") < 500, pl.col("co2_per_capita") < 6)
    assert (small.height, rich.height, giants.height) == (48, 8, 4)


class Web(BaseHTTPRequestHandler):
    """A web server with one file; `answers` are the status codes to give first."""

    answers: list[int] = []  # noqa: RUF012
    seen: list[int] = []  # noqa: RUF012
    body = f"{HEADER}\nA,2000,AAA,1,1,1,1\n".encode()

    def do_GET(self) -> None:
        unchanged = self.headers["If-None-Match"] == '"v1"'
        status = self.answers.pop(0) if self.answers else 304 if unchanged else 200
        self.seen.append(status)
        self.send_response(status)
        self.send_header("ETag", '"v1"')
        self.send_header("Content-Length", str(len(self.body) if status == 200 else 0))
        self.end_headers()
        if status == 200:
            self.wfile.write(self.body)

    def log_message(self, *_: object) -> None:
        """Keep quiet."""


@pytest.fixture
def url() -> Iterator[str]:
    Web.answers, Web.seen = [], []
    server = ThreadingHTTPServer(("127.0.0.1", 0), Web)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}/co2.csv"
    server.shutdown()
    thread.join()
    server.server_close()


def test_a_file_that_has_not_changed_is_fetched_once(url: str, tmp_path: Path) -> None:
    first = fetch(url, tmp_path)
    assert read_country_years(first.path).height == 1
    assert fetch(url, tmp_path) == first
    assert Web.seen == [200, 304]
    assert not first.is_earlier_copy


def test_a_passing_trouble_is_tried_again(url: str, tmp_path: Path) -> None:
    Web.answers = [503]
    fetch(url, tmp_path)
    assert Web.seen == [503, 200]


def test_a_final_refusal_is_not_tried_again(url: str, tmp_path: Path) -> None:
    Web.answers = [404]
    with pytest.raises(OwidUnreachableError, match="404"):
        fetch(url, tmp_path)
    assert Web.seen == [404]


def test_an_earlier_copy_serves_while_the_url_is_away(url: str, tmp_path: Path) -> None:
    first = fetch(url, tmp_path)
    Web.answers = [404]
    again = fetch(url, tmp_path)
    assert again.is_earlier_copy
    assert again.path == first.path


def test_a_url_that_leads_nowhere_fails_within_seconds(tmp_path: Path) -> None:
    with pytest.raises(OwidUnreachableError, match=r"can't be fetched .* SCOPEHOUSE_OWID_CO2_SOURCE"):
        fetch("http://127.0.0.1:9/co2.csv", tmp_path)
    assert owid_co2._ATTEMPTS * 5 < 15
