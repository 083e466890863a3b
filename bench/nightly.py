"""Thirty nights of headlines: what a night costs beside what its new texts cost the teacher, and ten students after it.

    python bench/nightly.py [--quick] [--json FILE]

Headlines arrive by date. Each night the corpus holds all that came so far, and the labelling run must find and label
what is new. The teacher is the embedded encoder with a classification head of random weights: a real graph at its real
cost, whose judgement does not matter here.

`night_cost_spread` is the range over the nights of (seconds of the run) / (seconds of them in the teacher), divided by
its median: 0 where every night costs its new texts and a constant share, whatever is cached. Both times are of the
same run, so that a machine with other work does not enter. `rows_labelled_twice` counts texts that reached the teacher
again. `ten_students_speedup` is the time of ten students with the teacher in the training loop over that of one pass
and ten students on its cached logits, `EPOCHS` epochs each; in the loop the teacher gets the student's batches.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from statistics import median

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import torch
from machine import describe_machine, read_arguments, read_shared, report
from torch import nn
from torch.nn.functional import kl_div, log_softmax, softmax

from finstill.cache.cache import SoftLabelCache
from finstill.cache.labelling import label_texts
from finstill.corpus.text import KEY_BYTES, normalise, text_key
from finstill.corpus.tokenizer import load_tokenizer
from finstill.corpus.tokens import tokenize
from finstill.inference.batching import pad
from finstill.inference.session import OnnxClassifier
from finstill.quiet import quiet_transformers
from finstill.teacher.checkpoint import resolve_checkpoint
from finstill.teacher.export import TeacherGraph, export_teacher

GOALS = {"night_cost_spread": "at most 0.2", "rows_labelled_twice": "0"}

NIGHTS = 30
MAX_LENGTH = 128
TOKEN_BUDGET = 512
STUDENTS = 10
EPOCHS = 4
BATCH_ROWS = 32


class TimedTeacher(OnnxClassifier):
    """A teacher that adds up its seconds and texts over the sessions of all nights."""

    seconds = 0.0
    texts = 0

    def logits(
        self,
        rows: Sequence[Sequence[int]],
        token_budget: int,
        advance: Callable[[int], None] = lambda count: None,
    ) -> np.ndarray:
        start = time.perf_counter()
        logits = super().logits(rows, token_budget, advance)
        TimedTeacher.seconds += time.perf_counter() - start
        TimedTeacher.texts += len(rows)
        return logits


class Student(nn.Module):
    """Three bidirectional LSTM layers, 128 a direction, over 128-wide embeddings, averaged and classified."""

    def __init__(self, vocabulary: int, classes: int):
        super().__init__()
        self.embedding = nn.Embedding(vocabulary, 128)
        self.lstm = nn.LSTM(128, 128, num_layers=3, bidirectional=True, batch_first=True)
        self.head = nn.Linear(256, classes)

    def forward(self, input_ids: torch.Tensor) -> torch.Tensor:
        return self.head(self.lstm(self.embedding(input_ids))[0].mean(1))


def make_teacher(folder: Path) -> TeacherGraph:
    from transformers import AutoModelForSequenceClassification, AutoTokenizer

    encoder = resolve_checkpoint("embedded").folder
    labels = dict(enumerate(["negative", "neutral", "positive"]))
    torch.manual_seed(0)
    with quiet_transformers():
        model = AutoModelForSequenceClassification.from_pretrained(encoder, id2label=labels)
        model.save_pretrained(folder / "checkpoint")
        AutoTokenizer.from_pretrained(encoder).save_pretrained(folder / "checkpoint")
    return export_teacher(folder / "checkpoint", folder / "onnx", max_length=MAX_LENGTH, source="embedded")


def tokens_by_night(headlines: pa.Table, teacher: TeacherGraph, texts_a_night: int | None) -> Iterator[pa.Table]:
    """Yield the token table of each night's arrivals, repeated headlines included.

    The nights share the dates in order, as many to each.
    """
    tokenizer = load_tokenizer(teacher.folder, MAX_LENGTH)
    for dates in np.array_split(sorted(headlines["date"].unique().to_pylist()), NIGHTS):
        night = headlines.filter(pc.field("date").isin(dates.tolist()))
        texts = [normalise(text) for text in night["text"].to_pylist()[:texts_a_night]]
        yield tokenize(pa.array(map(text_key, texts), pa.binary(KEY_BYTES)), texts, tokenizer)


def replay(nights: list[pa.Table], cache: SoftLabelCache, teacher: TeacherGraph, corpus: Path) -> list[float]:
    """Label the corpus as it grows from night to night; return each night's seconds over those in the teacher."""
    ratios = []
    for night in range(len(nights)):
        pq.write_table(pa.concat_tables(nights[: night + 1]), corpus)
        before = TimedTeacher.seconds
        start = time.perf_counter()
        report = label_texts(corpus, cache, lambda: TimedTeacher(teacher.graph), TOKEN_BUDGET)
        seconds, in_teacher = time.perf_counter() - start, TimedTeacher.seconds - before
        ratios.append(seconds / in_teacher)
        print(
            f"night {night + 1:2}  corpus {report.rows:6,}  new {report.labelled:5,}  {seconds:6.2f} s  "
            f"{1e3 * seconds / report.labelled:5.2f} ms a new text  {ratios[-1]:.3f} of the teacher's time",
            flush=True,
        )
    return ratios


def epoch_seconds(rows: Sequence[Sequence[int]], logits: np.ndarray, vocabulary: int) -> float:
    """Return the seconds of one epoch of a student on the teacher's `logits`: float32, (rows, classes)."""
    torch.manual_seed(0)
    student = Student(vocabulary, logits.shape[1])
    optimizer = torch.optim.AdamW(student.parameters(), lr=2e-3)
    start = time.perf_counter()
    for first in range(0, len(rows), BATCH_ROWS):
        batch = slice(first, first + BATCH_ROWS)
        soft = softmax(torch.from_numpy(logits[batch]), -1)
        loss = kl_div(log_softmax(student(torch.from_numpy(pad(rows[batch])[0])), -1), soft, reduction="batchmean")
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return time.perf_counter() - start


def in_loop_seconds(rows: Sequence[Sequence[int]], teacher: OnnxClassifier) -> float:
    """Return the seconds that a teacher in the training loop adds to an epoch.

    It runs by itself: side by side, its threads and the student's would wait for each other and look slower.
    """
    start = time.perf_counter()
    for first in range(0, len(rows), BATCH_ROWS):
        teacher.logits(rows[first : first + BATCH_ROWS], TOKEN_BUDGET)
    return time.perf_counter() - start


def main() -> None:
    arguments = read_arguments(__doc__)
    headlines = read_shared("business_headlines")
    texts_a_night, sample_rows = (64, 640) if arguments.quick else (None, 6400)
    with tempfile.TemporaryDirectory(prefix="finstill-bench-") as name:
        folder = Path(name)
        teacher = make_teacher(folder)
        cache = SoftLabelCache(folder / "cache", teacher.fingerprint, teacher.labels)
        nights = list(tokens_by_night(headlines, teacher, texts_a_night))
        ratios = replay(nights, cache, teacher, folder / "tokens.parquet")
        distinct = len(pa.concat_tables(nights)["key"].unique())

        sample = pa.concat_tables(nights).slice(0, sample_rows)
        rows = sample["input_ids"].to_pylist()
        vocabulary = load_tokenizer(teacher.folder, MAX_LENGTH).get_vocab_size()
        epoch = epoch_seconds(rows, cache.lookup(sample["key"]), vocabulary)
        in_loop = in_loop_seconds(rows, OnnxClassifier(teacher.graph))
    teacher_pass = TimedTeacher.seconds / TimedTeacher.texts * len(rows)
    figures = {
        "night_cost_spread": (max(ratios) - min(ratios)) / median(ratios),
        "rows_labelled_twice": TimedTeacher.texts - distinct,
        "ten_students_speedup": STUDENTS * EPOCHS * (epoch + in_loop) / (teacher_pass + STUDENTS * EPOCHS * epoch),
        "teacher_texts_per_second": len(rows) / teacher_pass,
        "teacher_in_loop_texts_per_second": len(rows) / in_loop,
        "student_texts_per_second": len(rows) / epoch,
    }
    report(figures, GOALS, describe_machine("onnxruntime", "pyarrow", "torch"), arguments.json)


if __name__ == "__main__":
    main()
