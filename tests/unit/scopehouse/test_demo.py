"""The demo's own check of its numbers, and what it says of where its countries are from."""

from __future__ import annotations

from pathlib import Path

import pytest

from scopehouse.demo import MIXED_NOTICE, SAMPLE_NOTICE, Demo, _alone, notice
from services.errors import MendableError


@pytest.fixture
def demo() -> Demo:
    return Demo(on_step=lambda _name, _seconds: None)


@pytest.mark.parametrize(("found", "wanted"), [(3, 3), (0, 0), (-16_613.26, -16_613.2600001)])
def test_numbers_that_agree_are_no_problem(demo: Demo, found: float, wanted: float) -> None:
    demo._expect("rows", found, wanted)
    assert demo.problems == []


@pytest.mark.parametrize(("found", "wanted"), [(9_999, 10_000), (1, 0), (0, 1), (-1.5, 1.5), (1.00001, 1)])
def test_every_number_that_does_not_agree_is_a_sentence_with_both(demo: Demo, found: float, wanted: float) -> None:
    demo._expect("rows", found, wanted)
    demo._expect("more rows", found, wanted)
    assert demo.problems == [f"{what}: {found:,} where {wanted:,} was expected." for what in ("rows", "more rows")]


@pytest.mark.parametrize(("found", "wanted"), [(999_999, 1_000_000), (1_000_001, 1_000_000)])
def test_of_a_million_rows_none_may_be_missing_or_too_many(demo: Demo, found: int, wanted: int) -> None:
    demo._expect("rows", found, wanted)
    assert len(demo.problems) == 1


def test_a_number_that_is_none_agrees_with_nothing(demo: Demo) -> None:
    demo._expect("operating_kg_co2e", float("nan"), 1.0)
    assert len(demo.problems) == 1


def test_the_notice_is_for_a_sample_and_says_whether_the_clusters_are_of_it_too() -> None:
    assert notice(is_sample=False, clusters_are_of_sample=False) is None
    assert notice(is_sample=True, clusters_are_of_sample=True) == SAMPLE_NOTICE
    assert notice(is_sample=True, clusters_are_of_sample=None) == SAMPLE_NOTICE
    assert notice(is_sample=True, clusters_are_of_sample=False) == MIXED_NOTICE
    for text in (SAMPLE_NOTICE, MIXED_NOTICE):
        assert "SYNTHETIC SAMPLE, NOT REAL DATA" in text


def test_a_second_demo_beside_the_first_is_refused(tmp_path: Path) -> None:
    sentence = r"Another `scopehouse demo` runs on .*: wait until it has ended"
    with _alone(tmp_path), pytest.raises(MendableError, match=sentence), _alone(tmp_path):
        pass
    with _alone(tmp_path):
        pass
