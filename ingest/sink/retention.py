"""Dead letters are kept for a time, and counted when they go."""

from __future__ import annotations

import psycopg

from services.errors import MendableError
from services.settings import Settings


def expire(settings: Settings) -> dict[str, int]:
    """Delete dead letters older than the setting; returns how many went, by topic.

    Those that were replayed are in raw: they lose key, value and headers, but keep their coordinates, which lead from
    the row in raw to the record in Kafka, and are not counted.

    Raises:
        MendableError: Postgres can't be reached.
    """
    try:
        with psycopg.connect(settings.url_of("ingest"), application_name="scopehouse dead-letters") as connection:
            connection.execute(
                """
                update ingest.dead_letters set key = null, value = null, headers = null
                where failed_at < now() - make_interval(days => %(days)s) and replayed_at is not null
                    and num_nonnulls(key, value, headers) > 0
                """,
                {"days": settings.dead_letter_days},
            )
            rows = connection.execute(
                """
                with gone as (
                    delete from ingest.dead_letters
                    where failed_at < now() - make_interval(days => %(days)s) and replayed_at is null
                    returning topic, partition
                ),

                counts as (
                    select topic, partition, count(*) as gone from gone group by topic, partition
                ),

                counted as (
                    update ingest.offsets
                    set expired_dead_letter_count = expired_dead_letter_count + counts.gone
                    from counts
                    where offsets.topic = counts.topic and offsets.partition = counts.partition
                )

                select topic, sum(gone)::bigint from counts group by topic order by topic
                """,
                {"days": settings.dead_letter_days},
            ).fetchall()
    except psycopg.OperationalError as error:
        raise MendableError(f"Postgres can't be reached ({str(error).strip()}): is it running?") from error
    return dict(rows)
