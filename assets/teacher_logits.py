"""What the teacher says of each text, and the checks that stop a run before a student hears it."""

from __future__ import annotations

import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING

from dagster import (
    AssetCheckResult,
    AssetCheckSeverity,
    DataVersion,
    MaterializeResult,
    TableColumn,
    TableColumnDep,
    TableColumnLineage,
    TableSchema,
    asset,
    asset_check,
)

from assets.augmented_corpus import augmented_corpus
from assets.corpus import corpus, tokens
from assets.metadata import OWNERS
from assets.resources import ProfileResource
from assets.retries import retries_where_it_can_help
from assets.teacher import teacher_ensemble, teacher_onnx

if TYPE_CHECKING:
    from finstill.cache.cache import SoftLabelCache
    from finstill.cache.labelling import LabellingReport
    from finstill.teacher.export import TeacherGraph

LOGITS_COLUMNS = TableSchema(
    [
        TableColumn("key", "binary(16)", "the text's key"),
        TableColumn("logits", "list<float32>", "in the teacher's label order"),
    ]
)

LOGITS_LINEAGE = TableColumnLineage(
    {"key": [TableColumnDep("tokens", "key")], "logits": [TableColumnDep("tokens", "input_ids")]}
)


@asset(
    deps=[corpus, tokens, augmented_corpus, teacher_onnx, teacher_ensemble],
    group_name="teacher",
    kinds={"onnx", "parquet"},
    owners=OWNERS,
    code_version="1",
    pool="teacher",
    metadata={"dagster/column_schema": LOGITS_COLUMNS, "dagster/column_lineage": LOGITS_LINEAGE},
)
@retries_where_it_can_help
def teacher_logits(profile: ProfileResource) -> MaterializeResult:
    """What the teacher says of each text, the augmented ones too: only texts the cache has not seen reach it."""
    from finstill.files import digest

    workspace = profile.workspace
    started = time.monotonic()
    of_corpus, cache = label_table(profile, workspace.corpus, workspace.tokens, workspace.teacher_logits)
    of_augmented, _ = label_table(profile, workspace.augmented, workspace.augmented, workspace.augmented_logits)
    seconds = time.monotonic() - started
    report = of_corpus + of_augmented
    return MaterializeResult(
        metadata={
            "dagster/row_count": of_corpus.rows,
            "dagster/uri": workspace.teacher_logits.as_uri(),
            "texts": report.rows,
            "texts_augmented": of_augmented.rows,
            "rows_reached_by_the_teacher": report.labelled,
            "cache_hit_rate": report.hit_rate,
            **({"texts_per_second": report.labelled / seconds} if report.labelled else {}),
            "cache": cache.where,
        },
        data_version=DataVersion(digest(workspace.teacher_logits, workspace.augmented_logits)),
    )


def label_table(
    profile: ProfileResource, texts: Path, tokens: Path, logits: Path
) -> tuple[LabellingReport, SoftLabelCache]:
    """Write to `logits` what the teacher says of each row of the token table `tokens`, from the cache where it can.

    An ensemble's teachers each read the same texts, and the windows of long ones as the first teacher's tokenizer cuts
    them, by their own tokenizer, and answer from their own cache; what is written is the mean.

    Returns:
        What reached the teachers, and the cache of the first.
    """
    from finstill.cache.ensemble import write_average_logits
    from finstill.corpus.build import write_corpus
    from finstill.corpus.tokenizer import load_tokenizer
    from finstill.corpus.tokens import texts_read, tokenize_corpus
    from finstill.teacher.export import read_teachers

    workspace = profile.workspace
    first, *further = read_teachers(workspace.teacher_onnx, workspace.teacher_ensemble)
    if not further:
        return _label_by(profile, first, tokens, logits)
    with tempfile.TemporaryDirectory(dir=workspace.root) as folder:
        parts = [Path(folder) / f"logits-{number}.parquet" for number in range(1 + len(further))]
        report, cache = _label_by(profile, first, tokens, parts[0])
        read, own = Path(folder) / "texts.parquet", Path(folder) / "tokens.parquet"
        write_corpus(texts_read(texts, tokens), read)
        for teacher, part in zip(further, parts[1:], strict=True):
            tokenize_corpus(read, load_tokenizer(teacher.folder, teacher.max_length), own)
            report += _label_by(profile, teacher, own, part)[0]
        write_average_logits(parts, profile.profile().task, logits)
    return report, cache


def _label_by(
    profile: ProfileResource, teacher: TeacherGraph, tokens: Path, logits: Path
) -> tuple[LabellingReport, SoftLabelCache]:
    from finstill.cache.cache import SoftLabelCache
    from finstill.cache.labelling import label_texts, write_corpus_logits
    from finstill.inference.session import OnnxClassifier

    settings = profile.profile().teacher
    about = {
        "source": teacher.source,
        "revision": teacher.revision or "",
        "max_length": str(teacher.max_length),
        "precision": teacher.precision,
    }
    cache = SoftLabelCache(profile.cache, teacher.fingerprint, teacher.labels, about)
    report = label_texts(
        tokens,
        cache,
        lambda: OnnxClassifier(teacher.graph, provider=settings.execution_provider),
        settings.token_budget,
    )
    write_corpus_logits(tokens, cache, logits)
    return report, cache


@asset_check(asset=teacher_logits, blocking=True)
def every_text_has_logits(profile: ProfileResource) -> AssetCheckResult:
    """Each text of the corpus and of the augmented one, or each of its windows, has one row of finite logits."""
    import numpy as np
    import pyarrow.parquet as pq

    workspace = profile.workspace
    texts, covered, finite = 0, True, True
    pairs = ((workspace.tokens, workspace.teacher_logits), (workspace.augmented, workspace.augmented_logits))
    for of_tokens, of_logits in pairs:
        logits = pq.read_table(of_logits)
        keys = pq.read_table(of_tokens, columns=["key"])["key"]
        texts += len(keys)
        covered &= logits["key"].equals(keys)
        finite &= bool(np.isfinite(logits["logits"].combine_chunks().flatten().to_numpy()).all())
    corpus_keys = pq.read_table(workspace.corpus, columns=["key"])["key"]
    covered &= pq.read_table(workspace.tokens, columns=["text_key"])["text_key"].unique().equals(corpus_keys.unique())
    return AssetCheckResult(
        passed=covered and finite,
        description=f"{texts:,} texts; rows of logits in the same order: {covered}; all finite: {finite}.",
    )


@asset_check(asset=teacher_logits, blocking=True)
def teacher_beats_the_commonest_class(profile: ProfileResource) -> AssetCheckResult:
    """On the labelled validation texts the teacher is better than answering every text with the commonest class."""
    from finstill.teacher.classes import judge_teacher
    from finstill.training.rows import training_rows

    settings, workspace = profile.profile(), profile.workspace
    rows = training_rows(workspace.corpus, workspace.tokens, settings.task, workspace.teacher_logits)
    labelled = rows["validation"].labelled().whole_texts()
    if not len(labelled):
        return AssetCheckResult(
            passed=True, description="No validation text is labelled: there is nothing to judge by."
        )
    assert labelled.teacher_logits is not None
    judgement = judge_teacher(labelled.labels, labelled.teacher_logits, settings.task.labels)
    return AssetCheckResult(
        passed=judgement.verdict == "better",
        severity=AssetCheckSeverity.ERROR if judgement.verdict == "worse" else AssetCheckSeverity.WARN,
        description=str(judgement),
        metadata={
            "texts": judgement.rows,
            "accuracy": judgement.accuracy,
            "commonest_accuracy": judgement.commonest_accuracy,
            "macro_f1": judgement.macro_f1,
            "commonest_macro_f1": judgement.commonest_macro_f1,
        },
    )
