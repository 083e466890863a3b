"""The first two stages: texts, and the token ids that teacher and students read."""

from __future__ import annotations

from collections import Counter

from dagster import DataVersion, MaterializeResult, TableColumn, TableColumnDep, TableColumnLineage, TableSchema, asset

from assets.metadata import OWNERS, cell, table
from assets.resources import ProfileResource
from assets.retries import retries_where_it_can_help

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

TOKENS_COLUMNS = TableSchema(
    [
        TableColumn("key", "binary(16)", "the text's key"),
        TableColumn("input_ids", "list<int32>", "token ids, special tokens included"),
        TableColumn("n_tokens", "int32", "how many"),
        TableColumn("truncated", "bool", "whether the text was cut at the maximum length"),
    ]
)

TOKENS_LINEAGE = TableColumnLineage(
    {
        "key": [TableColumnDep("corpus", "key")],
        **{name: [TableColumnDep("corpus", "text")] for name in ("input_ids", "n_tokens", "truncated")},
    }
)


@asset(
    group_name="corpus",
    kinds={"python", "parquet"},
    owners=OWNERS,
    code_version="1",
    metadata={"dagster/column_schema": CORPUS_COLUMNS},
)
@retries_where_it_can_help
def corpus(profile: ProfileResource) -> MaterializeResult:
    """The texts of the profile's source: normalised, each once, with its label where it has one, in a split for good.

    A text's split follows from the text alone, so it never moves as the corpus grows. What was dropped or merged is
    counted by reason, with examples.
    """
    from finstill.corpus.build import build_corpus, write_corpus
    from finstill.corpus.sources import read_rows
    from finstill.files import digest

    settings, path = profile.profile(), profile.workspace.corpus
    texts, report = build_corpus(read_rows(settings.corpus), settings.task.labels, settings.corpus.label_names)
    write_corpus(texts, path)
    counts = Counter(
        zip(texts["split"].to_pylist(), (label or "" for label in texts["label"].to_pylist()), strict=True)
    )
    rejected = [
        {"reason": reason, "place": place, "text": cell(text)}
        for reason, examples in report.examples.items()
        for place, text in examples
    ]
    sample = [{name: cell(row[name] or "") for name in ("split", "label", "text")} for row in texts[:10].to_pylist()]
    return MaterializeResult(
        metadata={
            "dagster/row_count": report.kept,
            "dagster/uri": path.as_uri(),
            "rows_read": report.read,
            "texts_labelled": texts.num_rows - texts["label"].null_count,
            "texts_by_split_and_label": table(
                [{"split": split, "label": label, "texts": count} for (split, label), count in sorted(counts.items())]
            ),
            "dropped_or_merged": table([{"reason": why, "rows": rows} for why, rows in report.reasons.items()]),
            "dropped_or_merged_examples": table(rejected),
            "sample": table(sample),
        },
        data_version=DataVersion(digest(path)),
    )


@asset(
    deps=[corpus],
    group_name="corpus",
    kinds={"huggingface", "parquet"},
    owners=OWNERS,
    code_version="1",
    metadata={"dagster/column_schema": TOKENS_COLUMNS, "dagster/column_lineage": TOKENS_LINEAGE},
)
@retries_where_it_can_help
def tokens(profile: ProfileResource) -> MaterializeResult:
    """Each text's token ids by the teacher's own tokenizer: student and teacher read the same input."""
    from finstill.files import digest
    from finstill.teacher.checkpoint import resolve_checkpoint
    from finstill.corpus.tokenizer import load_tokenizer
    from finstill.tokens import tokenize_corpus

    teacher, workspace = profile.profile().teacher, profile.workspace
    # Fine-tuning leaves the tokenizer as it is, so the checkpoint it starts from has the teacher's own.
    checkpoint = resolve_checkpoint(teacher.checkpoint, teacher.revision)
    tokenizer = load_tokenizer(checkpoint.folder, teacher.max_length)
    report = tokenize_corpus(workspace.corpus, tokenizer, workspace.tokens)
    return MaterializeResult(
        metadata={
            "dagster/row_count": report.rows,
            "dagster/uri": workspace.tokens.as_uri(),
            "texts_truncated": report.truncated,
            "maximum_length": teacher.max_length,
            "mean_length": report.tokens / report.rows,
        },
        data_version=DataVersion(digest(workspace.tokens)),
    )
