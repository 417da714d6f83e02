"""What the company changes is in raw, once and in order, whatever breaks on the way."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import pytest
from psycopg import Connection

from ingest.capture.connectors import ConnectError, Connectors, configurations
from ingest.capture.slots import CaptureGapError, refuse_gap, snapshot
from ingest.capture.status import capture_status
from ingest.capture.watch import Watch
from ingest.sources.bike_factor_changes import change
from ingest.sources.bike_factors import CONNECTOR, await_capture, await_captured, changes_made, produce_bike_factors
from scopehouse.migration import migrate
from services.embedded import postgres
from services.embedded import stack as embedded
from services.embedded.postgres import Postgres
from services.errors import MendableError
from services.settings import Settings
from tests.integration.capture.conftest import Company, await_that


def test_what_the_table_held_comes_first_then_each_change_and_no_tombstone(company: Company) -> None:
    told = company.change()
    company.await_captured()
    assert company.landed([("r", model, 0, 0) for model in (5, 6, 7)])[:3] == [
        ("r", 5, 1912.15, 0.005),
        ("r", 6, 2171.29, 0.005),
        ("r", 7, 1481.94, 0.005),
    ]
    assert company.landed(told) == told
    assert company.dead_letters() == []


def test_nothing_is_lost_or_told_twice_when_connect_and_postgres_crash(company: Company) -> None:
    told = company.change()
    embedded.kill(company.settings, "connect")
    told += company.change()
    assert {each.name: each.state for each in embedded.status(company.settings)}["connect"] == "died"
    embedded.up(company.settings)  # what died is started again, also what was asked for by --with
    told += company.change()
    embedded.kill(company.settings, "postgres")
    embedded.up(company.settings)
    told += company.change()
    company.await_captured()
    assert company.landed(told) == told


def test_nothing_is_lost_or_told_twice_when_connect_is_killed_inside_a_transaction(company: Company) -> None:
    with ThreadPoolExecutor(1) as other:
        changing = other.submit(company.change, 300)
        await_that(company.has_open_transaction, "no transaction was met")
        embedded.kill(company.settings, "connect")
        assert company.has_open_transaction()
        told = changing.result()
    # Until the broker gives the transaction up, a new worker can't read how far the last one was.
    embedded.up(company.settings)
    await_capture(company.settings)
    company.await_captured()
    assert company.landed(told) == told


def test_a_connector_is_made_what_the_repository_says_and_then_left_alone(company: Company) -> None:
    assert not company.connectors.apply(CONNECTOR)
    other = {**configurations()[CONNECTOR], "heartbeat.interval.ms": "3000"}
    company.connectors._ask("PUT", f"/connectors/{CONNECTOR}/config", other)
    migrate(company.settings)
    assert not company.connectors.apply(CONNECTOR)


def test_a_column_that_the_table_gets_or_loses_again_stops_nothing(company: Company) -> None:
    told = company.change(3)
    with company.session() as connection:
        connection.execute("alter table bike_emissions add column colour text not null default 'green'")
        told += company.change(3)
        connection.execute("alter table bike_emissions drop column colour")
    told += company.change(3)
    company.await_captured()
    assert company.landed(told) == told
    assert company.dead_letters() == []


def test_a_connector_that_failed_while_the_registry_was_away_is_started_again(company: Company) -> None:
    watch = Watch(company.settings)
    embedded.kill(company.settings, "registry")
    with company.session() as connection:
        # Another schema: the registry has to be asked.
        connection.execute("alter table bike_emissions add column frame text not null default 'steel'")
    told = company.change(3)
    await_that(lambda: company.has_failed, "the connector did not fail")
    (status,) = capture_status(company.settings)
    assert status.state == "failed"
    embedded.up(company.settings)
    assert company.has_failed

    def is_mended() -> bool:
        watch.look()
        return not company.has_failed

    await_that(is_mended, "the connector was not started again")
    company.await_captured()
    assert company.landed(told) == told
    assert company.dead_letters() == []


def test_the_slot_moves_on_while_the_table_is_quiet(company: Company) -> None:
    with company.session() as connection:
        connection.execute("create table elsewhere as select repeat('x', 100) from generate_series(1, 50000)")
    written = company.slot.current_lsn
    await_that(lambda: (company.slot.confirmed_lsn or 0) > written, "the slot did not move")
    assert company.slot.wal_status == "reserved"


def test_the_disk_that_a_slot_may_keep_is_bounded(company: Company) -> None:
    left = company.slot.left_bytes
    assert left is not None
    assert left < 3 * 1024**3


def test_each_run_of_the_simulator_goes_on_after_the_last(company: Company) -> None:
    runs = [produce_bike_factors(company.settings, changes=12, seed=7) for _ in range(2)]
    await_captured(company.settings, runs[-1].end_lsn)
    assert [(run.updates, run.corrections, run.models_added, run.models_withdrawn) for run in runs] == [
        (8, 2, 1, 1)
    ] * 2
    made = changes_made(company.settings)
    assert made[-24:] == [change(7, position) for position in range(24)]
    ops = {"add": "c", "withdraw": "d"}
    wanted = [(ops.get(each.kind, "u"), each.bike_model_id) for each in made[-24:]]
    landed = company.landed([("", model, 0, 0) for model in (5, 6, 7, 8)])
    assert [(op, model) for op, model, _, _ in landed][-24:] == wanted
    # A deleted row is told as it was; all others as the change made them.
    assert [scope1 for op, _, _, scope1 in landed if op != "d"][-22:] == [
        each.factors.scope1 for each in made[-24:] if each.kind != "withdraw"
    ]


def test_a_truncated_table_is_a_dead_letter_for_no_row_can_tell_it(company: Company) -> None:
    with company.session() as connection:
        connection.execute("create temporary table kept as select * from bike_emissions")
        connection.execute("truncate bike_emissions")
        connection.execute("insert into bike_emissions select * from kept")
    told = company.change(1)
    company.await_captured()
    assert company.landed(told) == told
    assert company.dead_letters() == ["Truncated"]


def test_a_lost_slot_is_an_error_that_names_the_gap_and_no_silent_snapshot(
    company: Company, monkeypatch: pytest.MonkeyPatch
) -> None:
    told = company.change(2)
    company.await_captured()
    assert company.landed(told) == told
    embedded.down(company.settings, only=("connect",))
    monkeypatch.setitem(postgres.SETTINGS, "max_slot_wal_keep_size", "1MB")
    embedded.restart(company.settings, "postgres")
    lost = company.change(2)
    with Postgres(company.settings).connect("postgres") as connection:
        _write_log(connection)
    assert company.slot.wal_status == "lost"
    embedded.up(company.settings, more=("connect",))
    sentence = r"given up by Postgres.* from [0-9A-F]+/[0-9A-F]+ to .*scopehouse capture snapshot adventure"
    with pytest.raises(CaptureGapError, match=sentence):
        refuse_gap(company.connectors, CONNECTOR, company.slot)
    with pytest.raises(CaptureGapError, match="Changes are lost"):
        produce_bike_factors(company.settings, changes=1)
    # Debezium itself tries again for half an hour, and calls that running.
    Watch(company.settings).look()
    (status,) = capture_status(company.settings)
    assert (status.state, status.slot and status.slot.wal_status) == ("lost", "lost")
    assert company.landed(lost) == []

    # An operator decides: on from the tables as they are now.
    snapshot(company.settings, CONNECTOR)
    await_capture(company.settings)
    more = company.change(2)
    company.await_captured()
    assert company.landed(told + lost + more) == told + more
    monkeypatch.undo()
    embedded.restart(company.settings, "postgres")


def _write_log(connection: Connection) -> None:
    """More of the write-ahead log than the slot may keep."""
    for _ in range(4):
        connection.execute("select pg_logical_emit_message(false, 'test', 'a word in the log')")
        connection.execute("select pg_switch_wal()")
    connection.execute("checkpoint")


def test_without_kafka_connect_the_company_changes_nothing(company: Company) -> None:
    bare = company.settings.model_copy(update={"connect_url": None})
    before = changes_made(bare)
    with pytest.raises(ConnectError, match="up --with connect"):
        produce_bike_factors(bare, changes=1)
    assert changes_made(bare) == before
    assert capture_status(bare) == []


def test_a_connect_that_is_away_is_one_sentence(company: Company) -> None:
    away: Settings = company.settings.model_copy(update={"connect_url": "http://127.0.0.1:9"})
    with pytest.raises(ConnectError, match="can't be reached"):
        Connectors(away).state(CONNECTOR)
    (status,) = capture_status(away)
    assert status.state is None
    assert status.why is not None
    assert "can't be reached" in status.why


def test_change_capture_may_read_the_captured_tables_and_write_heartbeats_only(company: Company) -> None:
    import psycopg
    from psycopg.errors import InsufficientPrivilege

    with psycopg.connect(company.settings.source_url("cdc"), autocommit=True) as connection:
        connection.execute("select * from bike_emissions")
        for statement in (
            "update bike_emissions set avg_cost = 1",
            "delete from bike_emissions",
            "select * from products",
            "create table public.mine (answer int)",
            "drop publication scopehouse_adventure",
        ):
            with pytest.raises(InsufficientPrivilege):
                connection.execute(statement)


def test_a_snapshot_while_the_database_is_away_leaves_the_connector_as_it_was(company: Company) -> None:
    embedded.kill(company.settings, "postgres")
    with pytest.raises(MendableError, match="captured database can't be reached"):
        snapshot(company.settings, CONNECTOR)
    embedded.up(company.settings)
    assert company.state != ("STOPPED",)
    await_capture(company.settings)
    told = company.change(2)
    company.await_captured()
    assert company.landed(told) == told


def test_a_snapshot_that_fails_before_anything_is_dropped_lets_the_connector_go_on(
    company: Company, monkeypatch: pytest.MonkeyPatch
) -> None:
    stop = Connectors.stop

    def stop_and_fail(self: Connectors, name: str) -> None:
        stop(self, name)
        assert company.state == ("STOPPED",)
        raise ConnectError("Connect fell silent.")

    told = company.change(2)
    with monkeypatch.context() as patch, pytest.raises(ConnectError, match=r"^Connect fell silent\.$"):
        patch.setattr(Connectors, "stop", stop_and_fail)
        snapshot(company.settings, CONNECTOR)
    told += company.change(2)
    await_capture(company.settings)
    company.await_captured()
    assert company.landed(told) == told


@pytest.mark.parametrize("step", ["forget", "resume"])
def test_a_snapshot_that_breaks_off_says_so_loses_nothing_silently_and_is_finished_by_the_next(
    company: Company, monkeypatch: pytest.MonkeyPatch, step: str
) -> None:
    def fail(self: Connectors, name: str) -> None:
        raise ConnectError("Connect fell silent.")

    with (
        monkeypatch.context() as patch,
        pytest.raises(ConnectError, match=r"is stopped .* `scopehouse capture snapshot adventure` .* fell silent\.$"),
    ):
        patch.setattr(Connectors, step, fail)
        snapshot(company.settings, CONNECTOR)
    assert (company.state, company.slot.wal_status) == (("STOPPED",), "missing")
    (status,) = capture_status(company.settings)
    assert status.state == ("lost" if step == "forget" else "stopped")
    assert status.why is not None
    assert "scopehouse capture snapshot adventure" in status.why
    unseen = company.change(2)
    if step == "forget":
        # Resumed by hand it does not go on past what it missed.
        company.connectors.resume(CONNECTOR)
        await_that(lambda: company.has_failed, "the connector did not fail")
        assert company.slot.wal_status == "missing"
    snapshot(company.settings, CONNECTOR)
    await_capture(company.settings)
    told = company.change(2)
    company.await_captured()
    assert company.landed(unseen + told) == told
