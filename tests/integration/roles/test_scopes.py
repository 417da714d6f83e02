from __future__ import annotations

from pathlib import Path

import pytest

from services import scopes
from services.scopes import ScopeError
from services.settings import Settings


def test_a_scope_that_is_not_there_is_not_removed_and_the_sentence_names_those_that_are(
    stack: Settings, tmp_path: Path
) -> None:
    settings = stack.model_copy(update={"scopes_dir": tmp_path})
    with pytest.raises(ScopeError, match=r"^There is no scope nope, nor any other\.$"):
        scopes.remove(settings, "nope")
    scopes.add(settings, "north", [(1, 2)])
    with pytest.raises(ScopeError, match=r"^There is no scope nope: the scopes are north\.$"):
        scopes.remove(settings, "nope")
    scopes.remove(settings, "north")
    with pytest.raises(ScopeError, match="no scope north"):
        scopes.remove(settings, "north")


def test_what_is_left_of_a_scope_is_removed(stack: Settings, tmp_path: Path) -> None:
    settings = stack.model_copy(update={"scopes_dir": tmp_path})
    login = scopes.add(settings, "north", [(1, 2)])
    (tmp_path / login).unlink()
    scopes.remove(settings, "north")
    (tmp_path / login).touch()
    scopes.remove(settings, "north")
    assert not (tmp_path / login).exists()
