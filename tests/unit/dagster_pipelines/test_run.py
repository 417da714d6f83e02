"""What a run's end is taken for."""

from __future__ import annotations

import dagster as dg
import pytest

from dagster_pipelines.run import was_interrupted


@pytest.mark.parametrize(("cause", "interrupted"), [(KeyboardInterrupt(), True), (OSError("gone"), False)])
def test_a_step_that_ctrl_c_ended_is_an_interrupted_run_also_where_dbt_says_it(
    cause: BaseException, interrupted: bool
) -> None:
    @dg.op
    def step() -> None:
        raise RuntimeError("dbt build failed: ") from cause

    @dg.job
    def work() -> None:
        step()

    assert was_interrupted(work.execute_in_process(raise_on_error=False)) is interrupted
