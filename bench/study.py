"""A teacher on a corpus of labelled and unlabelled rows, and students that are trained on it in several processes.

It is a module, and no part of the script, because those processes import what they are sent.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from machine import show_progress
from taught import MAX_LENGTH, TOKEN_BUDGET, self_agreement, source_of, write_corpus_of

from finstill.augment.build import augment_corpus
from finstill.cache.cache import SoftLabelCache
from finstill.cache.labelling import label_texts, write_logits
from finstill.config.profile import GPU_TOKEN_BUDGET, Augmentation, FineTuning
from finstill.config.recipe import Recipe
from finstill.config.task import SENTIMENT
from finstill.config.workspace import Workspace
from finstill.corpus.build import write_corpus
from finstill.corpus.out_of_domain import build_out_of_domain
from finstill.corpus.sources import read_rows
from finstill.corpus.tokenizer import load_tokenizer, read_tokenizer
from finstill.corpus.tokens import tokenize_corpus
from finstill.inference.parity import PARITY_TEXTS
from finstill.inference.session import CPU_PROVIDER, CUDA_PROVIDER, GRAPH_FILES, OnnxClassifier
from finstill.packaging.int8 import quantize_student
from finstill.serving.package import STUDENT_TOKEN_BUDGET
from finstill.students.registry import load_student
from finstill.teacher.checkpoint import Checkpoint, load_classifier, word_embeddings
from finstill.teacher.export import export_teacher
from finstill.training.distil import train_student
from finstill.training.fine_tune import fine_tune
from finstill.training.rows import NO_LABEL, TrainingRows, training_rows, with_augmented

PROVIDER = CUDA_PROVIDER if CUDA_PROVIDER in onnxruntime.get_available_providers() else CPU_PROVIDER
TEACHER_TOKEN_BUDGET = TOKEN_BUDGET if PROVIDER == CPU_PROVIDER else GPU_TOKEN_BUDGET


@dataclass(frozen=True)
class Study:
    """A teacher, the rows it is distilled on, and where all of it lies.

    Attributes:
        name: of its folder.
        encoder: what the teacher is made from.
        teacher: how.
        precision: of the graph that labels.
        corpus: labelled rows with their own split: text, label, split.
        transfer: unlabelled texts.
        variants: augmented rows for each labelled train row.
        folder: of all studies of a run.
        out_of_domain: labelled rows of another kind, or none.
    """

    name: str
    encoder: Callable[[], Checkpoint]
    teacher: FineTuning
    precision: str
    corpus: pa.Table
    transfer: Sequence[str]
    variants: int
    folder: Path
    out_of_domain: pa.Table | None = None

    @property
    def files(self) -> Workspace:
        return Workspace(self.folder / self.name)

    @property
    def rows(self) -> dict[str, TrainingRows]:
        """The rows of each split, and those out of domain."""
        return read_study(self.files.root, self.out_of_domain is not None)

    def make(self) -> None:
        """Write the tables, the teacher and its logits; what stands there is kept."""
        files, checkpoint = self.files, self.files.teacher_checkpoint
        encoder = self.encoder()
        tokenizer = load_tokenizer(encoder.folder, MAX_LENGTH)
        if not files.tokens.exists():
            write_corpus_of(files, self.corpus, pa.array(self.transfer, pa.string()), SENTIMENT)
            tokenize_corpus(files.corpus, tokenizer, files.tokens)
        rows = training_rows(files.corpus, files.tokens, SENTIMENT)
        fine_tune(encoder, self.teacher, rows["train"], rows["validation"], SENTIMENT.labels, checkpoint, seed=0)
        teacher = export_teacher(checkpoint, files.teacher_onnx, source=self.name, **self._export_settings())
        tables = [files.tokens, files.augmented]
        if not files.augmented.exists():
            words = word_embeddings(load_classifier(checkpoint))
            settings = Augmentation(variants_per_text=self.variants)
            own = load_tokenizer(checkpoint, MAX_LENGTH)
            augment_corpus(files.corpus, files.tokens, own, words, settings, files.augmented)
        cache = SoftLabelCache(files.root / "cache", teacher.fingerprint, teacher.labels)
        other = files.out_of_domain
        if self.out_of_domain is not None:
            if not other.tokens.exists():
                labelled = read_rows(source_of(other, self.out_of_domain, pa.array([], pa.string())))
                measured, _ = build_out_of_domain(labelled, SENTIMENT.labels, {}, files.corpus)
                write_corpus(measured, other.corpus)
                tokenize_corpus(other.corpus, tokenizer, other.tokens)
            tables.append(other.tokens)
        for texts in tables:
            opened = partial(OnnxClassifier, teacher.graph, provider=PROVIDER)
            label_texts(texts, cache, opened, TEACHER_TOKEN_BUDGET)
        write_logits([files.tokens, files.augmented], cache, files.teacher_logits)
        if self.out_of_domain is not None:
            write_logits([other.tokens], cache, other.teacher_logits)

    def self_agreement(self) -> float:
        """Return the share of test texts to which the teacher gives the same class when another seed makes it."""
        return self_agreement(
            self.files.root / "again",
            self.encoder(),
            self.teacher,
            self.rows,
            SENTIMENT.labels,
            seed=1,
            **self._export_settings(),
        )

    def _export_settings(self) -> dict[str, Any]:
        tokens = pq.read_table(self.files.tokens, columns=["input_ids"])[:PARITY_TEXTS]
        return {
            "max_length": MAX_LENGTH,
            "precision": self.precision,
            "provider": PROVIDER,
            "sample": tokens["input_ids"].to_pylist(),
            "token_budget": TEACHER_TOKEN_BUDGET,
        }


# Not kept in a study: that goes to other processes with each training.
@cache
def read_study(root: Path, measured_elsewhere: bool) -> dict[str, TrainingRows]:
    tables = {"": Workspace(root), **({"out_of_domain": Workspace(root).out_of_domain} if measured_elsewhere else {})}
    found = {
        name: training_rows(files.corpus, files.tokens, SENTIMENT, files.teacher_logits)
        for name, files in tables.items()
    }
    return {**found.pop(""), **{name: rows["test"] for name, rows in found.items()}}


@dataclass(frozen=True)
class Trained:
    """The students of one recipe, one a seed, and what their graphs say of the rows that are measured.

    Attributes:
        logits: float32, (seeds, rows, classes), by precision and rows.
        megabytes: of the larger int8 graph.
    """

    logits: Mapping[tuple[str, str], np.ndarray]
    megabytes: float


def train_one(study: Study, name: str, recipe: Recipe, less: frozenset[str], seed: int) -> Path:
    """Train one student with `less` of the transfer text, write its graphs and return its folder."""
    show_progress()
    torch.set_num_threads(1)
    files, rows = study.files, study.rows
    train, unlabelled = rows["train"], np.flatnonzero(rows["train"].labels == NO_LABEL)
    kept = {"unlabelled": 0, "half": len(unlabelled) // 2, "quarter": len(unlabelled) // 4}
    for part, count in kept.items():
        if part in less:
            train = train.at(np.sort(np.concatenate([np.flatnonzero(train.labels != NO_LABEL), unlabelled[:count]])))
    if "augmented" not in less:
        train = with_augmented(train, files.augmented, files.teacher_logits, SENTIMENT)
    # A folder of its own for each: its trainer keeps checkpoints beside it.
    student = files.root / "students" / folder_name(name) / str(seed) / "student"
    trained = train_student(
        recipe.model_copy(update={"seed": seed}),
        train,
        rows["validation"],
        SENTIMENT.labels,
        files.teacher_checkpoint,
        student,
        starts=files.starts,
        stage=f"{study.name}: {name}, seed {seed}",
    )
    graph = load_student(student).onnx_graph()
    onnx.save(graph, student / GRAPH_FILES["float32"])
    onnx.save(quantize_student(graph), student / GRAPH_FILES["int8"])
    print(f"{study.name}: {name}, seed {seed}: {trained.validation} on validation", flush=True)
    return student


def predict(study: Study, folders: Sequence[Path]) -> Trained:
    logits: dict[tuple[str, str], list[np.ndarray]] = {}
    for folder in folders:
        reader, longest = read_tokenizer(folder), load_student(folder).config.longest
        for precision, file in GRAPH_FILES.items():
            graph = OnnxClassifier(folder / file)
            for split in study.rows.keys() - {"train"}:
                rows = study.rows[split].read_by(reader, longest)
                logits.setdefault((precision, split), []).append(graph.logits(rows.input_ids, STUDENT_TOKEN_BUDGET))
    megabytes = max((folder / GRAPH_FILES["int8"]).stat().st_size for folder in folders) / 1e6
    return Trained({key: np.stack(runs) for key, runs in logits.items()}, megabytes)


def teacher_logits(study: Study, split: str = "test") -> np.ndarray:
    logits = study.rows[split].teacher_logits
    assert logits is not None
    return logits


def folder_name(name: str) -> str:
    return name.replace("/", " ")
