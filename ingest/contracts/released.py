"""What of the contracts is released: `released.json`, to which `make contracts` adds and from which it takes nothing.

It is what the next change is compared with, where there is no registry.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import asdict
from pathlib import Path

from ingest.contracts.compatibility import FieldShape, Shape, breaking_changes, shape_of_contract
from ingest.contracts.contract import CONTRACTS_FOLDER, Contract
from services.errors import MendableError

RELEASED_FILE = CONTRACTS_FOLDER / "released.json"


class BreakingChangeError(MendableError):
    """A contract breaks what is released."""


def read_released(path: Path = RELEASED_FILE) -> dict[str, Shape]:
    """The released shapes by topic; none where there is no file."""
    if not path.exists():
        return {}
    document = json.loads(path.read_text(encoding="utf-8"))
    return {
        topic: {name: FieldShape(**described) for name, described in fields.items()}
        for topic, fields in document.items()
    }


def breaks(contracts: Iterable[Contract], released: Mapping[str, Shape]) -> list[str]:
    """A sentence for each contract that breaks what is released of it."""
    return [
        break_sentence(contract, "is released", clauses)
        for contract in contracts
        if contract.topic in released
        and (clauses := breaking_changes(released[contract.topic], shape_of_contract(contract)))
    ]


def break_sentence(contract: Contract, what: str, clauses: list[str]) -> str:
    """One sentence: which contract breaks what, by which fields, and what to do."""
    return (
        f"The contract of {contract.topic} breaks what {what}: {'; '.join(clauses)}: put back what was there, and add "
        "what is new beside it as optional fields (a union with null, default null)."
    )


def released_text(contracts: Iterable[Contract], released: Mapping[str, Shape]) -> str:
    """The file's new text: what was released and what the contracts add."""
    shapes = {**released, **{contract.topic: shape_of_contract(contract) for contract in contracts}}
    document = {
        topic: {name: asdict(described) for name, described in shape.items()} for topic, shape in sorted(shapes.items())
    }
    return json.dumps(document, indent=2, ensure_ascii=False) + "\n"
