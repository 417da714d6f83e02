"""What decoding gives: columns of good records, and for each bad one its reason."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import pyarrow as pa


@dataclass(frozen=True, slots=True)
class Rejection:
    """Why one record of a batch can't become a row. `index` is its place in the batch."""

    index: int
    error_class: str
    error: str
    schema_id: int | None = None


@dataclass(slots=True)
class Decoded:
    """The records of one topic in a batch, decoded.

    `columns` has the contract's columns, as COPY wants them, one row for each of `indices` (the record's place in
    the batch, ascending); `schema_ids` stands beside them. Every other record is in `rejections`, or in `skipped`: it
    says nothing that a row could hold (a change log's tombstone). `mended_values` counts the bare NaN taken as null.
    """

    columns: pa.RecordBatch
    indices: pa.Int64Array
    schema_ids: pa.Int32Array
    rejections: list[Rejection] = field(default_factory=list)
    mended_values: int = 0
    skipped: list[int] = field(default_factory=list)


def concatenate(parts: Sequence[Decoded]) -> Decoded:
    """Several decodings of one batch as one, in the order of the records."""
    if len(parts) == 1:
        return parts[0]
    table = pa.Table.from_batches([part.columns for part in parts])
    indices = pa.chunked_array([part.indices for part in parts])
    schema_ids = pa.chunked_array([part.schema_ids for part in parts])
    order = pa.compute.sort_indices(indices)
    columns = table.take(order).combine_chunks().to_batches()
    return Decoded(
        columns=columns[0] if columns else parts[0].columns,
        indices=indices.take(order).combine_chunks(),
        schema_ids=schema_ids.take(order).combine_chunks(),
        rejections=[rejection for part in parts for rejection in part.rejections],
        mended_values=sum(part.mended_values for part in parts),
        skipped=[index for part in parts for index in part.skipped],
    )
