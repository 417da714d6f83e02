"""What is kept for a time only."""

import dagster as dg

from services.settings import Settings


@dg.op(description="Deletes dead letters older than SCOPEHOUSE_DEAD_LETTER_DAYS, and counts them.")
def delete_old_dead_letters(context: dg.OpExecutionContext, settings: dg.ResourceParam[Settings]) -> None:
    """Delete old dead letters; the counts by topic are the step's metadata."""
    from ingest.sink.retention import expire

    context.add_output_metadata(expire(settings))


@dg.job(description="Keeps `ingest.dead_letters` to its retention.")
def expire_dead_letters() -> None:
    """One step; nothing waits for it."""
    delete_old_dead_letters()
