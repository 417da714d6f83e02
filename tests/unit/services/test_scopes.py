from __future__ import annotations

import pytest

from services.scopes import ScopeError, login_of, read_ranges


def test_customers_are_typed_as_ranges_and_single_numbers() -> None:
    assert read_ranges("1-500, 700") == [(1, 500), (700, 700)]


@pytest.mark.parametrize("text", ["", "1-", "a", "5-1", "1,,2", "-3", "1-2-3", "1;drop table x"])
def test_what_is_no_range_is_refused(text: str) -> None:
    with pytest.raises(ScopeError, match="write them as 1-500,700"):
        read_ranges(text)


def test_a_scopes_login_is_told_by_its_name() -> None:
    assert login_of("north_2") == "scopehouse_bi_north_2"


@pytest.mark.parametrize("name", ["", "North", "../bi", "a b", "1a", "a" * 41, 'x"; drop role y', "north\n"])
def test_what_could_lead_elsewhere_is_no_name(name: str) -> None:
    with pytest.raises(ScopeError, match="use up to 40 small letters"):
        login_of(name)
