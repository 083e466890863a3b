"""The teacher: its checkpoint, its graph, and what it says of each text."""

from __future__ import annotations

import shutil
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dagster import DataVersion, MaterializeResult, TableColumn, TableColumnDep, TableColumnLineage, TableSchema, asset

from assets.corpus import TOKENS_COLUMNS, corpus, tokens
from assets.metadata import OWNERS, cell, picture, table
from assets.resources import ProfileResource
from assets.retries import retries_where_it_can_help

PARITY_TEXTS = 64
MAPPING_TEXTS = 256
"""Labelled texts on which the possible mappings of a teacher's classes are compared."""

if TYPE_CHECKING:
    import numpy as np

    from finstill.soft_labels.cache import SoftLabelCache
    from finstill.soft_labels.labelling import LabellingReport
    from finstill.teacher.export import TeacherGraph

AUGMENTED_COLUMNS = TableSchema(
    [
        *TOKENS_COLUMNS.columns,
        TableColumn("text", "string", "the variant, by the tokenizer's decoder"),
        TableColumn("origin", "binary(16)", "key of the train row that it was made from"),
    ]
)

LOGITS_COLUMNS = TableSchema(
    [
        TableColumn("key", "binary(16)", "the text's key"),
        TableColumn("logits", "list<float32>", "in the teacher's label order"),
    ]
)

LOGITS_LINEAGE = TableColumnLineage(
    {"key": [TableColumnDep("tokens", "key")], "logits": [TableColumnDep("tokens", "input_ids")]}
)


@asset(deps=[corpus, tokens], group_name="teacher", kinds={"huggingface", "pytorch"}, owners=OWNERS, code_version="1")
@retries_where_it_can_help
def teacher_checkpoint(profile: ProfileResource) -> MaterializeResult:
    """The classifier to distil: from the hub or a folder, or fine-tuned here on the corpus's labelled train rows."""
    from finstill.distil.rows import training_rows
    from finstill.evaluation.plots import training_curves
    from finstill.files import digest
    from finstill.teacher.checkpoint import (
        Checkpoint,
        class_names,
        load_classifier,
        resolve_checkpoint,
        weight_files,
    )
    from finstill.teacher.fine_tune import fine_tune

    settings, workspace = profile.profile(), profile.workspace
    checkpoint = resolve_checkpoint(settings.teacher.checkpoint, settings.teacher.revision)
    metadata: dict[str, Any] = {"source": checkpoint.source, "revision": checkpoint.revision or "a folder has none"}
    if settings.teacher.fine_tune is not None:
        rows = training_rows(workspace.corpus, workspace.tokens, settings.task)
        folder = workspace.teacher_checkpoint / "fine_tuned"
        tuned = fine_tune(
            checkpoint,
            settings.teacher.fine_tune,
            rows["train"],
            rows["validation"],
            settings.task.labels,
            folder,
            seed=settings.seed,
        )
        checkpoint = Checkpoint(folder, checkpoint.source, checkpoint.revision)
        metadata |= {
            "rows_learned_from": len(rows["train"].labelled()),
            "validation_macro_f1": tuned.macro_f1,
            "training": picture("Training of the teacher", training_curves(tuned.history, "teacher")),
        }
    model = load_classifier(checkpoint.folder)
    checkpoint.write(workspace.teacher_checkpoint / "checkpoint.json")
    return MaterializeResult(
        metadata={
            **metadata,
            "classes": ", ".join(class_names(model)),
            "parameters": model.num_parameters(),
            "seen": ", ".join(settings.teacher.seen) or "not declared",
            "folder": str(checkpoint.folder),
        },
        data_version=DataVersion(digest(*weight_files(checkpoint.folder), *class_names(model))),
    )


@asset(
    deps=[corpus, tokens, teacher_checkpoint],
    group_name="corpus",
    kinds={"python", "parquet"},
    owners=OWNERS,
    code_version="1",
    metadata={"dagster/column_schema": AUGMENTED_COLUMNS},
)
def augmented_corpus(profile: ProfileResource) -> MaterializeResult:
    """More texts of the corpus's own kind, made from its train rows: splices, windows of words, near pieces and masks.

    They have no label and count through what the teacher says of them. The profile says how many; by default, none.
    """
    import pyarrow.parquet as pq

    from finstill.augment.build import augment_corpus
    from finstill.corpus.tokenizer import load_tokenizer
    from finstill.files import digest
    from finstill.teacher.checkpoint import Checkpoint, load_classifier, word_embeddings

    settings, workspace = profile.profile(), profile.workspace
    checkpoint = Checkpoint.read(workspace.teacher_checkpoint / "checkpoint.json")
    report = augment_corpus(
        workspace.corpus,
        workspace.tokens,
        load_tokenizer(checkpoint.folder, settings.teacher.max_length),
        word_embeddings(load_classifier(checkpoint.folder)),
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


@asset(deps=[corpus, tokens, teacher_checkpoint], group_name="teacher", kinds={"onnx"}, owners=OWNERS, code_version="1")
def teacher_onnx(profile: ProfileResource) -> MaterializeResult:
    """The teacher as an ONNX graph, with the fingerprint that every logit of it is kept under.

    A check proves it equal to the checkpoint on texts of the corpus before anything is labelled.
    """
    from finstill.teacher.checkpoint import Checkpoint
    from finstill.teacher.classes import require_matching_classes
    from finstill.teacher.export import export_teacher

    settings, workspace = profile.profile(), profile.workspace
    checkpoint = Checkpoint.read(workspace.teacher_checkpoint / "checkpoint.json")
    teacher = export_teacher(
        checkpoint.folder,
        workspace.teacher_onnx,
        max_length=settings.teacher.max_length,
        source=checkpoint.source,
        precision=settings.teacher.precision,
        revision=checkpoint.revision,
        seen=settings.teacher.seen,
    )
    # Raised here, before the expensive stage, where the teacher's classes are not the task's.
    require_matching_classes(settings.task, teacher.labels, lambda: _labelled_answers(profile, teacher))
    return MaterializeResult(
        metadata={
            "fingerprint": teacher.fingerprint,
            "precision": teacher.precision,
            "classes": ", ".join(teacher.labels),
            "megabytes": teacher.graph.stat().st_size / 1e6,
            "folder": str(teacher.folder),
        },
        data_version=DataVersion(teacher.fingerprint),
    )


def _labelled_answers(profile: ProfileResource, teacher: TeacherGraph) -> tuple[np.ndarray, np.ndarray]:
    """Return the labels of some labelled texts, validation first, and what the teacher's float32 graph says of them."""
    import numpy as np

    from finstill.distil.rows import training_rows
    from finstill.onnx_classifier import OnnxClassifier

    settings, workspace = profile.profile(), profile.workspace
    rows = training_rows(workspace.corpus, workspace.tokens, settings.task)
    labelled = [rows[split].labelled() for split in ("validation", "train")]
    ids = [row for each in labelled for row in each.input_ids][:MAPPING_TEXTS]
    labels = np.concatenate([each.labels for each in labelled])[:MAPPING_TEXTS]
    if not ids:
        return labels, np.empty((0, len(teacher.labels)), np.float32)
    return labels, OnnxClassifier(teacher.float32_graph).logits(ids, settings.teacher.token_budget)


@asset(deps=[corpus], group_name="teacher", kinds={"huggingface", "onnx"}, owners=OWNERS, code_version="1")
@retries_where_it_can_help
def teacher_ensemble(profile: ProfileResource) -> MaterializeResult:
    """The further teachers of an ensemble as ONNX graphs, each proved equal to its checkpoint on texts of the corpus.

    Where the profile names none, there is nothing to make.
    """
    import pyarrow.parquet as pq

    from finstill.corpus.tokenizer import load_tokenizer
    from finstill.files import digest
    from finstill.onnx_classifier import OnnxClassifier, graph_parity
    from finstill.tasks import class_groups
    from finstill.teacher.checkpoint import load_classifier, resolve_checkpoint
    from finstill.teacher.export import export_teacher

    settings, workspace = profile.profile(), profile.workspace
    texts = pq.read_table(workspace.corpus, columns=["text"])[:PARITY_TEXTS]["text"].to_pylist()
    teachers = []
    for number, member in enumerate(settings.teacher.ensemble, start=1):
        checkpoint = resolve_checkpoint(member.checkpoint, member.revision)
        teacher = export_teacher(
            checkpoint.folder,
            workspace.teacher_ensemble / str(number),
            max_length=settings.teacher.max_length,
            source=checkpoint.source,
            revision=checkpoint.revision,
            seen=settings.teacher.seen,
        )
        class_groups(settings.task, teacher.labels)
        rows = [each.ids for each in load_tokenizer(teacher.folder, teacher.max_length).encode_batch(texts)]
        exported = OnnxClassifier(teacher.float32_graph).logits(rows, settings.teacher.token_budget)
        graph_parity(exported, load_classifier(checkpoint.folder), rows).require(teacher.source, teacher.folder)
        teachers.append(teacher)
    kept = {teacher.folder for teacher in teachers}
    for folder in workspace.teacher_ensemble.glob("*"):
        if folder not in kept:
            shutil.rmtree(folder)
    return MaterializeResult(
        metadata={
            "teachers": table(
                [
                    {"source": each.source, "fingerprint": each.fingerprint, "classes": ", ".join(each.labels)}
                    for each in teachers
                ]
            )
        },
        data_version=DataVersion(digest(*(teacher.fingerprint for teacher in teachers))),
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
    from finstill.corpus.build import write_corpus
    from finstill.corpus.tokenizer import load_tokenizer
    from finstill.soft_labels.ensemble import write_average_logits
    from finstill.teacher.export import read_teachers
    from finstill.tokens import texts_read, tokenize_corpus

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
    from finstill.onnx_classifier import OnnxClassifier
    from finstill.soft_labels.cache import SoftLabelCache
    from finstill.soft_labels.labelling import label_texts, write_corpus_logits

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
