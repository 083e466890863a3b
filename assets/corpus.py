"""The texts, and the checks of them."""

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dagster import (
    AssetCheckExecutionContext,
    AssetCheckResult,
    AssetCheckSeverity,
    AssetExecutionContext,
    AssetMaterialization,
    AssetRecordsFilter,
    Config,
    DagsterInstance,
    DataVersion,
    MaterializeResult,
    MetadataValue,
    TableColumn,
    TableMetadataValue,
    TableSchema,
    asset,
    asset_check,
)
from pydantic import Field

from assets.faults import explain_faults
from assets.metadata import OWNERS, cell, table
from assets.resources import ProfileResource

if TYPE_CHECKING:
    from finstill.corpus.corrections import Corrected

FILES_SHOWN = 50

INPUTS_TAG = "finstill/inputs"
"""What the profile's inputs were when the corpus was read, see `ProfileResource.inputs`."""

CORPUS_COLUMNS = TableSchema(
    [
        TableColumn("key", "binary(16)", "128 bits of BLAKE2b over the normalised text"),
        TableColumn("text", "string", "in Unicode NFKC, white space folded"),
        TableColumn("label", "string", "one of the task's labels, or null"),
        TableColumn("split", "string", "train, validation or test"),
        TableColumn("source", "string", "the file or data set it was first seen in"),
        TableColumn("date", "string", "as the source gives it, or null"),
        TableColumn("id", "string", "as the source gives it, or null"),
    ]
)


class CorpusConfig(Config):
    """What to take in before the corpus is read."""

    dropped: dict[str, str] = Field(
        default={},
        description="Files of FINSTILL_DROP to copy into the corpus's folder, or that of its corrections, as the "
        "sensor dropped_files lists them: each name with the size and time of change that it must have, or with an "
        "empty text.",
    )


@asset(
    group_name="corpus",
    kinds={"python", "parquet"},
    owners=OWNERS,
    code_version="1",
    metadata={"dagster/column_schema": CORPUS_COLUMNS},
)
@explain_faults
def corpus(context: AssetExecutionContext, config: CorpusConfig, profile: ProfileResource) -> MaterializeResult:
    """The texts of the profile's source: normalised, each once, with its label where it has one, in a split for good.

    A text's split follows from the text alone, so it never moves as the corpus grows. What was dropped or merged is
    counted by reason, with examples. Labels that people corrected win over the source's.
    """
    from finstill.corpus.arrivals import take
    from finstill.corpus.build import first_texts, read_corpus, texts_by_split_and_label
    from finstill.corpus.report import write_bad_rows
    from finstill.files import digest

    settings, path = profile.profile(), profile.workspace.corpus
    profile.workspace.belongs_to(Path(profile.path))
    if config.dropped:
        taken = take(profile.drop, config.dropped, settings.corpus, profile.workspace.taken, settings.corrections)
        context.log.info(f"taken into the corpus: {', '.join(copy.name for copy in taken.copies) or 'nothing'}")
        if taken.left:
            context.log.warning(f"changed since they were looked at, and left for later: {', '.join(taken.left)}")
    # Noted before the source is read: what arrives meanwhile is new for the next night.
    inputs = profile.inputs()
    parts, corrections = profile.workspace.corpus_parts, settings.corrections
    report = read_corpus(settings.corpus, settings.task.labels, path, parts, corrections=corrections)
    write_bad_rows(report.set_aside, profile.workspace.bad_rows)
    counts = texts_by_split_and_label(path)
    rejected = [
        {"reason": reason, "place": cell(place), "text": cell(text)}
        for reason, examples in report.examples.items()
        for place, text in examples
    ]
    sample = [{name: cell(row[name] or "") for name in ("split", "label", "text")} for row in first_texts(path, 10)]
    return MaterializeResult(
        metadata={
            "dagster/row_count": report.kept,
            "dagster/uri": path.as_uri(),
            "rows_read": report.read,
            "texts_labelled": sum(count for (_, label), count in counts.items() if label),
            "texts_by_split_and_label": table(
                [
                    {"split": split, "label": label, "texts": count}
                    for split, label, count in sorted((split, label or "", n) for (split, label), n in counts.items())
                ]
            ),
            "dropped_or_merged": table([{"reason": why, "rows": rows} for why, rows in report.reasons.items()]),
            "dropped_or_merged_examples": table(rejected),
            "files_read": table(report.source.files[:FILES_SHOWN]),
            "files_passed_over": table(
                [{"file": name, "why": "it is empty"} for name in report.source.empty[:FILES_SHOWN]]
                + [
                    {"file": name, "why": report.source.reasons.get(name, "no reader knows it")}
                    for name in report.source.unknown[:FILES_SHOWN]
                ]
            ),
            **_corrections_shown(report.corrected),
            "texts_cleaned": table([{"what": what, "rows": rows} for what, rows in report.cleaned.items()]),
            **({"bad_rows": MetadataValue.path(str(profile.workspace.bad_rows))} if report.set_aside else {}),
            "sample": table(sample),
        },
        data_version=DataVersion(digest(path)),
        tags={INPUTS_TAG: inputs},
    )


def _corrections_shown(corrected: "Corrected") -> dict[str, Any]:
    """Return what people's corrections changed, as metadata: nothing where there are none."""
    if not corrected.changed and not corrected.confirmed:
        return {}
    return {
        "labels_corrected": sum(corrected.changed.values()),
        "labels_confirmed": corrected.confirmed,
        "test_labels_corrected": sum(texts for (*_, split), texts in corrected.changed.items() if split == "test"),
        "corrections": table(
            [
                {"from": before or "no label", "to": now, "split": split, "texts": texts}
                for (before, now, split), texts in sorted(corrected.changed.items(), key=str)
            ]
        ),
    }


@asset_check(asset=corpus, blocking=True)
@explain_faults
def corpus_is_sound(profile: ProfileResource) -> AssetCheckResult:
    """Columns, keys, labels and splits are what every later stage takes them for."""
    import pyarrow.parquet as pq

    from finstill.corpus.soundness import faults

    path = profile.workspace.corpus
    found = faults(path, profile.profile().task.labels)
    return AssetCheckResult(
        passed=not found,
        description=cell(" ".join(found))
        if found
        else f"{pq.read_metadata(path).num_rows:,} texts, all as they should be.",
    )


@asset_check(asset=corpus)
@explain_faults
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
