"""Everything that `scopehouse migrate` brings up to date, in order."""

from __future__ import annotations

from ingest.capture.connectors import Connectors, configurations
from ingest.database.migrate import migrate as migrate_ingestion
from ingest.sources.bike_factors import set_up as set_up_adventure
from ml.tables import make_tables
from services.sessions import open_session
from services.settings import Settings


def migrate(settings: Settings) -> None:
    """Make what is missing: schemas, raw tables, grants, topics, subjects, and the tables of the clusters.

    Where a Kafka Connect is set: its connectors too, and the simulated company's database that they read.

    Raises:
        MendableError: a server can't be reached, or what is there can't hold a contract.
    """
    migrate_ingestion(settings)
    # As the role that will write them. Before the first clusters the views on them are built, and empty.
    with open_session(settings, "transform") as connection:
        make_tables(connection)
    if settings.connect_url is not None:
        if settings.adventure_database_url is not None:
            set_up_adventure(settings)
        for name in configurations():
            Connectors(settings).apply(name)
