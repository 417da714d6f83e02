"""How change capture is, as `scopehouse status` shows it: what Connect and the source's Postgres say, if they do."""

from __future__ import annotations

from dataclasses import dataclass

from ingest.capture.connectors import ConnectError, Connectors, ConnectorState, configurations
from ingest.capture.slots import CaptureGapError, SlotStatus, refuse_gap, slot_status
from services.errors import MendableError
from services.settings import Settings

# What does not answer within so many seconds is shown as away.
ANSWER_SECONDS = 3.0


@dataclass(frozen=True, slots=True)
class CaptureStatus:
    """One connector and its slot. `state` is Connect's word in small letters, `lost` where changes were, `absent` where
    the connector was never applied, None where Connect does not say; `why` tells what is wrong and what to do."""

    connector: str
    state: str | None
    why: str | None
    slot: SlotStatus | None


def capture_status(settings: Settings) -> list[CaptureStatus]:
    """Every connector, where a Kafka Connect is set. Never raises, and takes some seconds at most."""
    if settings.connect_url is None:
        return []
    return [_status(settings, name) for name in configurations()]


def _status(settings: Settings, name: str) -> CaptureStatus:
    why: list[str] = []
    state, slot, word = None, None, None
    connectors = Connectors(settings, ANSWER_SECONDS)
    try:
        slot = slot_status(settings, name)
    except MendableError as error:
        why.append(str(error))
    try:
        state = connectors.state(name)
        word = _word(state)
        if state is not None and state.why:
            why.append(f"{state.why}.")
        if slot is not None:
            refuse_gap(connectors, name, slot)
            if word == "stopped" and slot.is_lost:
                why.append(f"A snapshot broke off: run `scopehouse capture snapshot {name}` again.")
    except CaptureGapError as error:
        word, why = "lost", [str(error)]
    except ConnectError as error:
        why.append(str(error))
    return CaptureStatus(name, word, " ".join(why) or None, slot)


def _word(state: ConnectorState | None) -> str:
    if state is None:
        return "absent"
    if state.has_failed:
        return "failed"
    return "starting" if len(state.states) == 1 and state.states == ("RUNNING",) else state.states[-1].lower()
