"""A teacher of a corpus and its students, for benchmarks that ask what comes of its logits."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pyarrow as pa
import pyarrow.parquet as pq
from machine import show_progress

from finstill.cache.cache import SoftLabelCache
from finstill.cache.labelling import label_texts, write_logits
from finstill.config.profile import CorpusSource, FineTuning
from finstill.config.recipe import Recipe
from finstill.config.task import Task
from finstill.config.workspace import Workspace
from finstill.corpus.build import read_corpus
from finstill.corpus.tokenizer import load_tokenizer
from finstill.corpus.tokens import tokenize_corpus
from finstill.inference.session import CPU_PROVIDER, GRAPH_FILES, OnnxClassifier
from finstill.metrics import agreement
from finstill.serving.package import STUDENT_TOKEN_BUDGET
from finstill.students.registry import load_student
from finstill.teacher.checkpoint import Checkpoint, resolve_checkpoint
from finstill.teacher.export import export_teacher
from finstill.training.distil import train_student
from finstill.training.fine_tune import fine_tune
from finstill.training.rows import TrainingRows, training_rows

MAX_LENGTH = 128
TOKEN_BUDGET = 512


def teach(files: Workspace, task: Task, settings: FineTuning) -> dict[str, TrainingRows]:
    """Fine-tune a teacher on the corpus in `files`, label all texts, and return the rows of each split with logits."""
    show_progress()
    encoder, checkpoint = resolve_checkpoint("embedded"), files.teacher_checkpoint
    tokenize_corpus(files.corpus, load_tokenizer(encoder.folder, MAX_LENGTH), files.tokens)
    rows = training_rows(files.corpus, files.tokens, task)
    fine_tune(encoder, settings, rows["train"], rows["validation"], task.labels, checkpoint, seed=0)
    teacher = export_teacher(checkpoint, files.teacher_onnx, max_length=MAX_LENGTH, source="embedded")
    cache = SoftLabelCache(files.root / "cache", teacher.fingerprint, teacher.labels)
    label_texts(files.tokens, cache, partial(OnnxClassifier, teacher.graph), TOKEN_BUDGET)
    write_logits([files.tokens], cache, files.teacher_logits)
    return training_rows(files.corpus, files.tokens, task, files.teacher_logits)


def write_corpus_of(
    files: Workspace, labelled: pa.Table, unlabelled: pa.Array, task: Task, label_names: Mapping[str, str | None] = {}
) -> None:
    """Write the corpus of labelled rows, which say their split, and of further train texts, to the workspace.

    Args:
        labelled: text, label and split.
    """
    read_corpus(source_of(files, labelled, unlabelled, label_names), task.labels, files.corpus)


def source_of(
    files: Workspace, labelled: pa.Table, unlabelled: pa.Array, label_names: Mapping[str, str | None] = {}
) -> CorpusSource:
    """Write the rows that `write_corpus_of` takes to a file of the workspace, and return it as a source."""
    columns = [unlabelled, pa.nulls(len(unlabelled)), pa.repeat("train", len(unlabelled))]
    rest = pa.table(columns, names=labelled.column_names).cast(labelled.schema)
    files.root.mkdir(parents=True, exist_ok=True)
    path = files.root / "source.parquet"
    pq.write_table(pa.concat_tables([labelled, rest]), path)
    return CorpusSource(path=str(path), label="label", split="split", label_names=dict(label_names))


def self_agreement(
    folder: Path,
    encoder: Checkpoint,
    settings: FineTuning,
    rows: Mapping[str, TrainingRows],
    labels: tuple[str, ...],
    *,
    seed: int,
    token_budget: int = TOKEN_BUDGET,
    **export: Any,
) -> float:
    """Return the share of test texts to which the teacher gives the same class when another seed makes it.

    Args:
        folder: of the other teacher.
        rows: of each split, with the teacher's logits.
        export: as `export_teacher` takes it.
    """
    checkpoint = folder / "checkpoint"
    fine_tune(encoder, settings, rows["train"], rows["validation"], labels, checkpoint, seed=seed)
    teacher = export_teacher(checkpoint, folder / "onnx", source="another seed", token_budget=token_budget, **export)
    test = rows["test"].labelled()
    assert test.teacher_logits is not None
    graph = OnnxClassifier(teacher.graph, provider=export.get("provider", CPU_PROVIDER))
    logits = graph.logits(test.input_ids, token_budget)
    return agreement(logits[:, [teacher.labels.index(label) for label in labels]], test.teacher_logits)


def distil(
    recipe: Recipe, files: Workspace, rows: Mapping[str, TrainingRows], task: Task, folder: Path, **further: Any
) -> None:
    """Train a student of the corpus's teacher in `folder`; `further` as `train_student` takes it."""
    train_student(
        recipe,
        rows["train"],
        rows["validation"],
        task.labels,
        files.teacher_checkpoint,
        folder,
        stage=folder.parent.name,
        **further,
    )


def student_logits(student: Path, rows: TrainingRows) -> np.ndarray:
    """Return what the float32 graph of the trained student in this folder says: float32, (rows, classes)."""
    graph = student.parent / GRAPH_FILES["float32"]
    if not graph.exists():
        onnx.save(load_student(student).onnx_graph(), graph)
    return OnnxClassifier(graph, threads=1).logits(rows.input_ids, STUDENT_TOKEN_BUDGET)
