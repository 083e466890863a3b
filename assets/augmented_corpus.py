"""More texts of the corpus's own kind, and the check that none of them is nearly a text that is measured on."""

from __future__ import annotations

from dagster import (
    AssetCheckResult,
    AssetCheckSeverity,
    DataVersion,
    MaterializeResult,
    TableColumn,
    TableSchema,
    asset,
    asset_check,
)

from assets.corpus import corpus
from assets.faults import explain_faults
from assets.metadata import OWNERS, cell, table
from assets.resources import ProfileResource
from assets.teacher import TOKENS_COLUMNS, teacher_checkpoint, tokens

LEAKS_SHOWN = 10

AUGMENTED_COLUMNS = TableSchema(
    [
        *TOKENS_COLUMNS.columns,
        TableColumn("text", "string", "the variant, by the tokenizer's decoder"),
        TableColumn("origin", "binary(16)", "key of the train row that it was made from"),
    ]
)


@asset(
    deps=[corpus, tokens, teacher_checkpoint],
    group_name="augmentation",
    kinds={"python", "parquet"},
    owners=OWNERS,
    code_version="2",
    metadata={"dagster/column_schema": AUGMENTED_COLUMNS},
)
@explain_faults
def augmented_corpus(profile: ProfileResource) -> MaterializeResult:
    """More texts of the corpus's own kind, made from its train rows: splices, crops of words, near pieces and masks.

    They have no label and count through what the teacher says of them. The profile says how many; by default, none.
    """
    import pyarrow.parquet as pq

    from finstill.augment.build import augment_corpus
    from finstill.corpus.tokenizer import load_tokenizer
    from finstill.files import digest
    from finstill.teacher.checkpoint import Checkpoint, load_body, word_embeddings

    settings, workspace = profile.profile(), profile.workspace
    checkpoint = Checkpoint.read(workspace.teacher_checkpoint)
    report = augment_corpus(
        workspace.corpus,
        workspace.tokens,
        load_tokenizer(checkpoint.folder, settings.teacher.max_length),
        word_embeddings(load_body(checkpoint.folder)),
        settings.augmentation,
        workspace.augmented,
    )
    with pq.ParquetFile(workspace.augmented) as file:
        sample = next(file.iter_batches(10, columns=["text"]), None)
    return MaterializeResult(
        metadata={
            "dagster/row_count": report.kept,
            "dagster/uri": workspace.augmented.as_uri(),
            "train_rows_varied": report.origins,
            "variants_made": report.made,
            "dropped": table([{"reason": why, "variants": variants} for why, variants in report.dropped.items()]),
            "sample": table([{"text": cell(row["text"])} for row in sample.to_pylist()] if sample else []),
        },
        data_version=DataVersion(digest(workspace.augmented)),
    )


@asset_check(asset=augmented_corpus, blocking=True)
@explain_faults
def no_test_text_is_learned_from(profile: ProfileResource) -> AssetCheckResult:
    """No train or augmented text is nearly a validation or test text; labelled train texts that are near are named."""
    from finstill.corpus.leakage import find_leaks

    leaks = find_leaks(profile.workspace.corpus, profile.workspace.augmented)
    forbidden = [leak for leak in leaks if leak.forbidden]
    shown = sorted(leaks, key=lambda leak: (not leak.forbidden, -leak.similarity))[:LEAKS_SHOWN]
    examples = [{**vars(leak), "text": cell(leak.text), "other": cell(leak.other)} for leak in shown]
    return AssetCheckResult(
        passed=not leaks,
        severity=AssetCheckSeverity.ERROR if forbidden else AssetCheckSeverity.WARN,
        description=f"{len(forbidden):,} texts to learn from are validation or test texts in all but name, and "
        f"{len(leaks) - len(forbidden):,} labelled train texts are near one."
        + (f" The first: “{cell(shown[0].text)}”, as in {shown[0].split}: “{cell(shown[0].other)}”." if shown else ""),
        metadata={"examples": table(examples)},
    )
