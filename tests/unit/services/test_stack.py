from __future__ import annotations

from pathlib import Path

import pytest

from services.embedded import stack
from services.embedded.server import ServerError
from services.settings import Settings


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("SCOPEHOUSE_POSTGRES_PORT", "SCOPEHOUSE_KAFKA_PORT"),
        ("SCOPEHOUSE_KAFKA_PORT", "SCOPEHOUSE_KAFKA_CONTROLLER_PORT"),
    ],
)
def test_two_settings_of_one_port_are_named_and_nothing_starts(tmp_path: Path, one: str, other: str) -> None:
    settings = Settings(SCOPEHOUSE_STATE_DIR=tmp_path / "state", **{one: 22432, other: 22432})
    with pytest.raises(ServerError, match=f"^{one} and {other} are both 22432: "):
        stack.up(settings)
    assert {each.state for each in stack.status(settings)} == {"stopped"}


def test_a_state_folder_that_cannot_be_made_names_the_setting() -> None:
    with pytest.raises(ServerError, match=r"/proc/x can't be made .*SCOPEHOUSE_STATE_DIR"):
        stack.up(Settings(SCOPEHOUSE_STATE_DIR="/proc/x"))
