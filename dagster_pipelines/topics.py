"""Raw tables as assets: one a topic, filled by the sink."""

from collections.abc import Iterator

import dagster as dg

from ingest.contracts.contract import Contract, load_contracts
from services.settings import Settings

# A topic of which a part stands still has landed all the same, as far as it can: what is built from it goes on.
STANDSTILL = "no_partition_stands_still"


def raw_topics() -> dg.AssetsDefinition:
    """The raw tables of every contract; a run takes in what the chosen topics hold at that time."""
    contract_of = {_key(contract): contract for contract in load_contracts().values()}

    @dg.multi_asset(
        name="drain_topics",
        specs=[
            dg.AssetSpec(
                key,
                group_name=contract.domain,
                description=contract.doc,
                metadata={"topic": contract.topic, "encoding": contract.encoding},
                kinds={"kafka", "postgres"},
                skippable=True,
            )
            for key, contract in contract_of.items()
        ],
        check_specs=[
            dg.AssetCheckSpec(STANDSTILL, asset=key, description="Each partition of the topic is read to its end.")
            for key in contract_of
        ],
        can_subset=True,
    )
    def drain_topics(
        context: dg.AssetExecutionContext, settings: dg.ResourceParam[Settings]
    ) -> Iterator[dg.MaterializeResult | dg.AssetCheckResult]:
        from ingest.capture.watch import look_once  # imported when it runs, like the clusters' library
        from ingest.sink.drain import StandstillError, drain

        look_once(settings)
        chosen = {contract_of[key].topic: key for key in context.selected_asset_keys}
        sentences: dict[str, list[str]] = {topic: [] for topic in chosen}
        try:
            results = drain(settings, list(chosen))
        except StandstillError as error:
            results = error.results
            for (topic, _), sentence in error.reasons.items():
                sentences[topic].append(sentence)
        for topic, drained in results.items():
            yield dg.MaterializeResult(
                asset_key=chosen[topic],
                metadata={
                    "topic": topic,
                    "rows": drained.rows,
                    "dead_letters": drained.dead_letters,
                    "mended_values": drained.mended_values,
                    "next_offsets": {str(number): end for number, end in drained.next_offsets.items()},
                },
            )
            if dg.AssetCheckKey(chosen[topic], STANDSTILL) in context.selected_asset_check_keys:
                yield dg.AssetCheckResult(
                    passed=not sentences[topic],
                    asset_key=chosen[topic],
                    check_name=STANDSTILL,
                    description=" ".join(dict.fromkeys(sentences[topic])) or None,
                )

    return drain_topics


def _key(contract: Contract) -> dg.AssetKey:
    return dg.AssetKey(["raw", contract.table])
