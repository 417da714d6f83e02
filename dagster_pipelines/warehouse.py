"""dbt's models and seeds as assets, dbt's tests (unit tests too) as their checks."""

from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import Any

import dagster as dg

from dagster_pipelines.clusters import FEATURES
from dagster_pipelines.dbt_project import DbtProject, NodeResult
from dagster_pipelines.translator import WarehouseTranslator, domain_of
from services.settings import Settings

_ASSET_TYPES = ("model", "seed", "snapshot")
_CLUSTER_SCHEMA = "ml"


def dbt_assets(manifest: Mapping[str, Any]) -> list[dg.AssetsDefinition]:
    """The whole dbt project, in the parts of `parts_of`: a failure in one stops just what is built on it.

    Any node can be built alone, so that a retry from the failed assets builds just those.
    """
    nodes = {**manifest["nodes"], **manifest["unit_tests"]}
    translator = WarehouseTranslator()
    return [
        _build_of(name, {unique_id: nodes[unique_id] for unique_id in ids}, manifest, translator)
        for name, ids in parts_of(manifest).items()
        if ids
    ]


def parts_of(manifest: Mapping[str, Any]) -> dict[str, list[str]]:
    """The unique ids of all nodes, by the step that builds them.

    Dagster stops all that hangs on a step that failed, whichever of its nodes it was. So what the clusters need, and
    what else is built of that, is a step of its own: the clusters hang on nothing else.
    """
    nodes = {**manifest["nodes"], **manifest["unit_tests"]}
    clusters = [unique_id for unique_id, source in manifest["sources"].items() if source["schema"] == _CLUSTER_SCHEMA]
    on_clusters = downstream_of(manifest, clusters)
    features = [
        unique_id
        for unique_id, node in nodes.items()
        if node["resource_type"] in _ASSET_TYPES and WarehouseTranslator().get_asset_key(node) == FEATURES
    ]
    needed = {*features, *upstream_of(manifest, features)}
    countries = (needed | downstream_of(manifest, needed)) - on_clusters
    return {
        "dbt_build": [each for each in nodes if each not in countries | on_clusters],
        "dbt_build_countries": [each for each in nodes if each in countries],
        "dbt_build_on_clusters": [each for each in nodes if each in on_clusters],
    }


def landed_tables(manifest: Mapping[str, Any]) -> list[dg.AssetSpec]:
    """The dbt sources that no asset here makes: what API clients land."""
    translator = WarehouseTranslator()
    return [
        dg.AssetSpec(translator.get_asset_key(source), description=source["description"], group_name=domain_of(source))
        for source in manifest["sources"].values()
        if source["schema"] != _CLUSTER_SCHEMA and "topic" not in source["config"]["meta"]
    ]


def downstream_of(manifest: Mapping[str, Any], roots: Collection[str]) -> set[str]:
    """The unique ids of all that depends on `roots`, near or far, without the roots."""
    return _reached(manifest["child_map"], roots)


def upstream_of(manifest: Mapping[str, Any], roots: Collection[str]) -> set[str]:
    """The unique ids of all that `roots` depend on, near or far, without the roots."""
    return _reached(manifest["parent_map"], roots)


def _reached(neighbours: Mapping[str, Collection[str]], roots: Collection[str]) -> set[str]:
    found: set[str] = set()
    waiting = list(roots)
    while waiting:
        for neighbour in neighbours.get(waiting.pop(), []):
            if neighbour not in found:
                found.add(neighbour)
                waiting.append(neighbour)
    return found


def selectors(nodes: Collection[Mapping[str, Any]]) -> list[str]:
    """What `dbt build --select` needs to build just these nodes."""
    return sorted("fqn:" + ".".join(node["fqn"]) for node in nodes)


def check_spec(
    test: Mapping[str, Any], manifest: Mapping[str, Any], translator: WarehouseTranslator
) -> dg.AssetCheckSpec:
    """A dbt test as a check of the node it is attached to, else of the last that it names."""
    parents = test["depends_on"]["nodes"]
    attached = test.get("attached_node") or parents[-1]

    def key_of(unique_id: str) -> dg.AssetKey:
        return translator.get_asset_spec(manifest, unique_id, None).key

    return dg.AssetCheckSpec(
        name=test["name"],
        asset=key_of(attached),
        additional_deps=[key_of(parent) for parent in parents if parent != attached],
        description=test.get("description") or None,
        blocking=test["config"].get("severity", "error").lower() == "error",
    )


def _build_of(
    name: str,
    nodes: Mapping[str, Mapping[str, Any]],
    manifest: Mapping[str, Any],
    translator: WarehouseTranslator,
) -> dg.AssetsDefinition:
    specs = {
        unique_id: translator.get_asset_spec(manifest, unique_id, None)
        for unique_id, node in nodes.items()
        if node["resource_type"] in _ASSET_TYPES
    }
    checks = {
        unique_id: check_spec(node, manifest, translator)
        for unique_id, node in nodes.items()
        if node["resource_type"] in ("test", "unit_test")
    }
    id_of_asset = {spec.key: unique_id for unique_id, spec in specs.items()}
    id_of_check = {check.key: unique_id for unique_id, check in checks.items()}

    @dg.multi_asset(
        name=name,
        specs=list(specs.values()),
        check_specs=list(checks.values()),
        can_subset=True,
        # A test of a dbt source is a check of an asset that somebody else makes.
        allow_arbitrary_check_specs=True,
    )
    def build(
        context: dg.AssetExecutionContext, settings: dg.ResourceParam[Settings]
    ) -> Iterator[dg.MaterializeResult | dg.AssetCheckResult]:
        chosen = [id_of_asset[key] for key in context.selected_asset_keys]
        chosen += [id_of_check[key] for key in context.selected_asset_check_keys]
        results = DbtProject(settings).build(selectors([nodes[unique_id] for unique_id in chosen]))
        for result in results:
            if result.unique_id in specs and result.status == "success":
                yield dg.MaterializeResult(
                    asset_key=specs[result.unique_id].key,
                    metadata={"dbt_unique_id": result.unique_id, "seconds": result.seconds},
                )
            elif result.unique_id in checks and result.status != "skipped":
                yield _check_result(checks[result.unique_id].key, result)
        failed = [result for result in results if result.has_failed]
        if failed:
            raise dg.Failure(failure_sentence(failed), allow_retries=False)

    return build


def _check_result(key: dg.AssetCheckKey, result: NodeResult) -> dg.AssetCheckResult:
    return dg.AssetCheckResult(
        asset_key=key.asset_key,
        check_name=key.name,
        passed=result.status == "pass",
        severity=dg.AssetCheckSeverity.WARN if result.status == "warn" else dg.AssetCheckSeverity.ERROR,
        description=None if result.status == "pass" else result.message,
        metadata={"failures": result.failures or 0, "seconds": result.seconds},
    )


def failure_sentence(failed: Sequence[NodeResult]) -> str:
    """One sentence that names what failed and quotes dbt on the first of it."""
    names = ", ".join(result.name for result in failed)
    return f"dbt: {len(failed)} failed ({names}): {failed[0].message.strip()}"
