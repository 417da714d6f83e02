"""dbt inside this process, again and again."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any


def invoke_dbt(arguments: Sequence[str], manifest: Any = None, callbacks: Sequence[Callable[[Any], None]] = ()) -> Any:
    """Run dbt with the arguments of its command line; returns its `dbtRunnerResult`.

    ``manifest``, if given, is used instead of parsing the project; each of ``callbacks`` gets dbt's events.
    """
    from dbt.cli.main import dbtRunner

    with _no_more_behaviour_flags():
        return dbtRunner(manifest=manifest, callbacks=list(callbacks)).invoke(list(arguments))


@contextmanager
def _no_more_behaviour_flags() -> Iterator[None]:
    """Leave dbt's list of behaviour flags as it was.

    Each adapter adds its flags to this one list of the module (seen in dbt-adapters 1.24) and looks at the whole stack
    for each flag in it: the hundredth invocation in a process takes seconds longer than the first.
    """
    from dbt.adapters.base import impl

    before = list(impl.DEFAULT_BASE_BEHAVIOR_FLAGS)
    try:
        yield
    finally:
        impl.DEFAULT_BASE_BEHAVIOR_FLAGS[:] = before
