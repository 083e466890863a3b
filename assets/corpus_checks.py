"""Checks of the corpus: one that stops a run, and one that says that the world has changed."""

from collections.abc import Mapping

from dagster import (
    AssetCheckExecutionContext,
    AssetCheckResult,
    AssetCheckSeverity,
    AssetMaterialization,
    AssetRecordsFilter,
    DagsterInstance,
    TableMetadataValue,
    asset_check,
)

from assets.corpus import corpus
from assets.metadata import cell, table
from assets.resources import ProfileResource


@asset_check(asset=corpus, blocking=True)
def corpus_is_sound(profile: ProfileResource) -> AssetCheckResult:
    """Columns, keys, labels and splits are what every later stage takes them for."""
    import pyarrow.parquet as pq

    from finstill.corpus.soundness import faults

    texts = pq.read_table(profile.workspace.corpus)
    found = faults(texts, profile.profile().task.labels)
    return AssetCheckResult(
        passed=not found,
        description=cell(" ".join(found)) if found else f"{texts.num_rows:,} texts, all as they should be.",
    )


@asset_check(asset=corpus)
def classes_as_before(context: AssetCheckExecutionContext) -> AssetCheckResult:
    """The classes are in the shares of the corpus before this one: a population stability index under 0.1."""
    from finstill.corpus.drift import NOTABLE_DRIFT, population_stability_index

    counts = _class_counts(context.instance)
    if len(counts) < 2:
        return AssetCheckResult(passed=True, description="This is the first corpus: there is nothing to compare.")
    now, before = counts
    index = population_stability_index(before, now)
    rows = [
        {
            "label": label or "none",
            "before": before.get(label, 0) / sum(before.values()),
            "now": now.get(label, 0) / sum(now.values()),
        }
        for label in sorted({*before, *now})
    ]
    return AssetCheckResult(
        passed=index < NOTABLE_DRIFT,
        severity=AssetCheckSeverity.WARN,
        description=f"The population stability index of the classes against the last corpus is {index:.3f}.",
        metadata={"stability_index": index, "limit": NOTABLE_DRIFT, "shares": table(rows)},
    )


def _class_counts(instance: DagsterInstance) -> list[Mapping[str, int]]:
    """Return the texts of each label in the last two corpora, the latest first."""
    records = instance.fetch_materializations(AssetRecordsFilter(asset_key=corpus.key), limit=2).records
    return [_counts(record.asset_materialization) for record in records if record.asset_materialization is not None]


def _counts(materialization: AssetMaterialization) -> dict[str, int]:
    shown = materialization.metadata["texts_by_split_and_label"]
    assert isinstance(shown, TableMetadataValue)
    counts: dict[str, int] = {}
    for record in shown.records:
        label = str(record.data["label"])
        counts[label] = counts.get(label, 0) + int(record.data["texts"] or 0)
    return counts
