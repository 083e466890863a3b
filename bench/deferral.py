"""What a student and its teacher are worth together, where the teacher answers what the student is least sure of.

    python bench/deferral.py [--quick] [--json FILE]

The study of the embedded teacher on Financial PhraseBank, as bench/quality.py makes it, and its student `lstm`.

`deferral_share_for_teacher_quality` is the smallest share of the test texts that the teacher must answer for the two
together to have its macro-F1. `deferred_vs_teacher_speed` is how many texts a second the two score on one thread, from
text to label, over what the teacher scores alone, at the share that the package was made for: the medians of runs in
turns.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from statistics import median

import pyarrow.parquet as pq
from machine import describe_machine, read_arguments, report
from quality import EMBEDDED_TEACHER, FULL, QUICK, RECIPES, Study, phrasebank

from finstill.config.task import SENTIMENT
from finstill.corpus.text import normalise
from finstill.evaluation.evaluate import evaluate_student
from finstill.packaging.build import build_package
from finstill.packaging.card import Provenance
from finstill.serving import StudentClassifier
from finstill.serving.asked_teacher import AskedTeacher
from finstill.serving.package import Package
from finstill.teacher.checkpoint import resolve_checkpoint
from finstill.teacher.export import TeacherGraph
from finstill.training.distil import train_student
from finstill.training.rows import with_augmented

LEAST_SHARE = 0.01
"""Of a package that asks at all."""

TURNS = 5
TEXTS = 400


def main() -> None:
    arguments = read_arguments(__doc__)
    size = QUICK if arguments.quick else FULL
    study = phrasebank("embedded", size, partial(resolve_checkpoint, "embedded"), EMBEDDED_TEACHER, "float32")
    with tempfile.TemporaryDirectory(prefix="finstill-bench-") as name:
        figures = measure(study, Path(name))
    report(figures, {}, describe_machine("onnxruntime"), arguments.json)


def measure(study: Study, folder: Path) -> dict[str, float]:
    files, rows = study.files, study.rows
    teacher = TeacherGraph.read(files.teacher_onnx)
    train = with_augmented(rows["train"], files.augmented, files.teacher_logits, SENTIMENT)
    student = folder / "student"
    train_student(
        RECIPES["lstm"],
        train,
        rows["validation"],
        SENTIMENT.labels,
        files.teacher_checkpoint,
        student,
        stage="lstm",
        word_vectors=files.word_vectors,
    )

    def package(share: float) -> Package:
        provenance = Provenance("financial_phrasebank", "0" * 32, False, None, None, {})
        made = folder / f"package-{share}"
        built = build_package(student, "lstm", {"alpha": 1}, SENTIMENT, [teacher], provenance, rows, made, defer=share)
        return built.package

    first = evaluate_student(
        package(LEAST_SHARE), teacher, rows["validation"], rows["test"], 512, folder / "evaluation"
    )
    curve = first.deferral_curve()
    assert curve is not None
    share = curve.share_for_teacher_quality
    texts = pq.read_table(files.corpus, filters=[("split", "=", "test")])["text"].to_pylist()[:TEXTS]
    made = package(min(max(share, LEAST_SHARE), 0.99))
    together = StudentClassifier(made.folder, teacher=teacher.folder)
    alone = AskedTeacher(teacher.folder, made, threads=1)
    contenders = [lambda: list(together.score(texts)), lambda: alone.logits([normalise(text) for text in texts])]
    times = [[seconds(run) for run in contenders] for _ in range(TURNS)]
    asked = sum(bool(score.ask) for score in together.score(texts)) / len(texts)
    print(f"{asked:.1%} of {len(texts):,} test texts were asked")
    return {
        "lstm_share_of_teacher_macro_f1": float(curve.macro_f1[0] / curve.macro_f1[-1]),
        "deferral_share_for_teacher_quality": share,
        "deferred_vs_teacher_speed": median(turn[1] for turn in times) / median(turn[0] for turn in times),
    }


def seconds(run: Callable[[], object]) -> float:
    started = time.perf_counter()
    run()
    return time.perf_counter() - started


if __name__ == "__main__":
    main()
