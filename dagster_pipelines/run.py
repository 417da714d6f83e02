"""Jobs run in this process, with what they did as plain facts."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime
from importlib import import_module
from typing import Any, TextIO
from uuid import uuid4

import dagster as dg

from dagster_pipelines.clusters import RUNS
from dagster_pipelines.definitions import build_defs
from dagster_pipelines.instance import open_instance
from dagster_pipelines.topics import STANDSTILL
from services.settings import Settings

# Called with a step's name when it starts (seconds is None) and when it ends.
OnStep = Callable[[str, float | None], None]


@dataclass(frozen=True, slots=True)
class TopicLoad:
    """What a run took in of one topic."""

    topic: str
    rows: int
    dead_letters: int


@dataclass(frozen=True, slots=True)
class Clusters:
    """The clusters that a run made; ``sizes`` are in order of cluster number (0 emits least)."""

    run_id: str
    countries: int
    sizes: tuple[int, ...]
    is_sample: bool


@dataclass(frozen=True, slots=True)
class JobRun:
    """What a run did.

    ``seconds`` are by step. ``models`` counts dbt models built, not seeds; a test that only warns counts as passed.
    ``clusters`` is None where the run did not get so far. ``failures`` holds a sentence a failed step.
    """

    run_id: str
    seconds: dict[str, float]
    topics: tuple[TopicLoad, ...]
    models: int
    tests_passed: int
    tests_failed: int
    clusters: Clusters | None
    failures: tuple[str, ...]


def prepare(settings: Settings) -> None:
    """Do what a run needs first and no server is needed for: seconds, well spent while servers start.

    Raises:
        MendableError: the definitions can't be loaded (the dbt project does not parse).
    """
    for module in ("dbt.cli.main", "ingest.sink.drain", "ml.run"):
        import_module(module)
    build_defs(settings)
    with open_instance(settings):
        pass  # makes Dagster's databases


def run_job(name: str, settings: Settings, on_step: OnStep | None = None) -> JobRun:
    """Run the job `name` here and now. Dagster's UI shows the run; its log goes to ``logs/dagster.log``.

    A failed step is no exception: look at ``failures``.

    Raises:
        MendableError: the definitions can't be loaded (the dbt project does not parse).
        KeyboardInterrupt: somebody pressed Ctrl-C meanwhile. The run has failed by then.
    """
    job = build_defs(settings).resolve_job_def(name)
    run_id = str(uuid4())
    log = settings.state_dir / "logs" / "dagster.log"
    log.parent.mkdir(parents=True, exist_ok=True)
    with open_instance(settings) as instance, log.open("a", encoding="utf-8") as lines:
        recorder = _Recorder(lines, on_step)
        instance.add_event_listener(run_id, recorder)
        result = job.execute_in_process(
            run_config={"loggers": {"console": {"config": {"log_level": "CRITICAL"}}}},
            instance=instance,
            raise_on_error=False,
            run_id=run_id,
        )
    if was_interrupted(result):
        raise KeyboardInterrupt
    return _facts(result, recorder.seconds)


def was_interrupted(result: dg.ExecuteInProcessResult) -> bool:
    """Whether a step ended by Ctrl-C, which Dagster takes for a failure like any other."""
    for event in result.get_step_failure_events():
        error: Any = event.step_failure_data.error
        while error is not None:
            if error.cls_name in ("KeyboardInterrupt", "DagsterExecutionInterruptedError"):
                return True
            error = error.cause
    return False


@dataclass(slots=True)
class _Recorder:
    """Takes every event of a run: writes it down as a line, times the steps, tells `on_step` of them."""

    lines: TextIO
    on_step: OnStep | None
    started: dict[str, float] = field(default_factory=dict)
    seconds: dict[str, float] = field(default_factory=dict)

    def __call__(self, entry: dg.EventLogEntry) -> None:
        at = datetime.fromtimestamp(entry.timestamp, UTC).isoformat(timespec="milliseconds")
        self.lines.write(f"{at} {entry.run_id[:8]} {entry.step_key or 'run'}: {entry.message}\n")
        event = entry.dagster_event
        if event is None or event.step_key is None:
            return
        if event.is_step_start:
            self.started[event.step_key] = entry.timestamp
        elif event.is_step_success or event.is_step_failure:
            self.seconds[event.step_key] = round(entry.timestamp - self.started[event.step_key], 3)
        else:
            return
        if self.on_step is not None:
            self.on_step(event.step_key, self.seconds.get(event.step_key))


def _facts(result: dg.ExecuteInProcessResult, seconds: dict[str, float]) -> JobRun:
    made = {
        event.asset_key: {name: value.value for name, value in event.materialization.metadata.items()}
        for event in result.get_asset_materialization_events()
    }
    clusters = made.get(RUNS)
    evaluations = result.get_asset_check_evaluations()
    checks = [check for check in evaluations if check.check_name != STANDSTILL]
    stands_still = [check for check in evaluations if check.check_name == STANDSTILL and not check.passed]
    failed = [check for check in checks if not check.passed and check.severity == dg.AssetCheckSeverity.ERROR]
    return JobRun(
        run_id=result.run_id,
        seconds=seconds,
        topics=tuple(
            TopicLoad(facts["topic"], facts["rows"], facts["dead_letters"])
            for facts in made.values()
            if "dead_letters" in facts
        ),
        models=sum(facts.get("dbt_unique_id", "").startswith("model.") for facts in made.values()),
        tests_passed=len(checks) - len(failed),
        tests_failed=len(failed),
        clusters=clusters
        and Clusters(clusters["run_id"], clusters["countries"], tuple(clusters["sizes"]), clusters["is_sample"]),
        failures=(*_failures(result), *(f"drain_topics: {check.description}" for check in stands_still)),
    )


def _failures(result: dg.ExecuteInProcessResult) -> Iterator[str]:
    if result.success:
        return
    steps = result.get_step_failure_events()
    for event in steps:
        failure = event.step_failure_data
        if failure.user_failure_data is not None:
            yield f"{event.step_key}: {failure.user_failure_data.description}"
        else:
            # Dagster wraps what a step raised; a mendable error's own sentence is one level down.
            raised = failure.error.cause or failure.error
            yield f"{event.step_key}: {raised.message.strip().removeprefix(f'{raised.cls_name}: ')}"
    if not steps:
        yield "The run stopped before its first step: see logs/dagster.log in the state folder."
