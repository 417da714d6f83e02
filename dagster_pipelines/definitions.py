"""Everything Dagster knows of: ``dagster dev -m dagster_pipelines.definitions`` shows it."""

from __future__ import annotations

import dagster as dg

from dagster_pipelines.clusters import cluster_countries
from dagster_pipelines.dbt_project import DbtProject
from dagster_pipelines.retention import expire_dead_letters
from dagster_pipelines.topics import raw_topics
from dagster_pipelines.warehouse import dbt_assets, landed_tables
from services.settings import Settings, read_settings

DEMO = dg.define_asset_job(
    "demo",
    selection=dg.AssetSelection.all(),
    description="The whole path: topics into raw, dbt, clusters, what is built on clusters.",
)


def build_defs(settings: Settings | None = None) -> dg.Definitions:
    """One graph from topic to view. Needs no server; parses the dbt project where its manifest is old.

    Runs use `settings`, or what the environment says when they start.

    Raises:
        MendableError: a contract or the dbt project can't be read.
    """
    manifest = DbtProject(settings or read_settings()).manifest()
    return dg.Definitions(
        assets=[raw_topics(), *landed_tables(manifest), *dbt_assets(manifest), cluster_countries],
        jobs=[DEMO, expire_dead_letters],
        schedules=[
            dg.ScheduleDefinition(
                name="hourly",
                job=DEMO,
                cron_schedule="0 * * * *",
                execution_timezone="UTC",
                description="Takes in what is new and builds on it. Off until somebody turns it on.",
            ),
            dg.ScheduleDefinition(
                name="nightly_retention",
                job=expire_dead_letters,
                cron_schedule="30 2 * * *",
                execution_timezone="UTC",
                description="Deletes old dead letters and counts them. Off until somebody turns it on.",
            ),
        ],
        resources={"settings": settings or dg.ResourceDefinition(lambda _: read_settings())},
        # A process for each of five steps would import dbt and Dagster five times.
        executor=dg.in_process_executor,
    )


@dg.definitions
def defs() -> dg.Definitions:
    """What Dagster loads; importing this module builds nothing yet."""
    return build_defs()
