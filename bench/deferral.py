"""What a student and its teacher are worth together, where the teacher answers what the student is least sure of.

    python bench/deferral.py [--quick] [--json FILE]

The labelled rows are Financial PhraseBank's, the teacher is the embedded encoder fine-tuned on its train rows, and the
student is an LSTM that also learns from unlabelled Reuters sentences.

`deferral_share_for_teacher_quality` is the smallest share of the test texts that the teacher must answer for the two
together to have its macro-F1. `deferred_vs_teacher_speed` is how many texts a second the two score on one thread, from
text to label, over what the teacher scores alone, where the package was made for that share: the medians of runs in
turns.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median

import pyarrow.parquet as pq
from machine import describe_machine, draw_rows, read_arguments, read_shared, report
from taught import TOKEN_BUDGET, distil, teach, write_corpus_of

from finstill.config.architectures import LstmAttentionConfig
from finstill.config.profile import FineTuning
from finstill.config.recipe import Recipe
from finstill.config.task import SENTIMENT
from finstill.config.workspace import Workspace
from finstill.corpus.text import normalise
from finstill.evaluation.evaluate import evaluate_student
from finstill.packaging.build import build_package
from finstill.packaging.card import Provenance
from finstill.serving import StudentClassifier
from finstill.serving.asked_teacher import AskedTeacher
from finstill.serving.package import Package
from finstill.teacher.export import TeacherGraph

RECIPE = Recipe(
    architecture=LstmAttentionConfig(
        checkpoint="embedded", embedding="output", embedding_width=192, vocabulary="corpus", dropout=0.15
    ),
    epochs=6,
    batch_size=64,
)

LEAST_SHARE = 0.01
"""Of a package that asks at all."""

TURNS = 5
TEXTS = 400


def main() -> None:
    arguments = read_arguments(__doc__)
    sentences, epochs = (5_000, 2) if arguments.quick else (50_000, 4)
    with tempfile.TemporaryDirectory(prefix="finstill-bench-") as name:
        figures = measure(Workspace(Path(name)), sentences, FineTuning(epochs=epochs))
    report(figures, {}, describe_machine("onnxruntime"), arguments.json)


def measure(files: Workspace, sentences: int, settings: FineTuning) -> dict[str, float]:
    bank = read_shared("financial_phrasebank").select(["text", "label", "split"])
    texts = draw_rows(read_shared("reuters_sentences"), sentences)["text"].combine_chunks()
    write_corpus_of(files, bank, texts, SENTIMENT)
    rows, student = teach(files, SENTIMENT, settings), files.student("lstm")
    distil(RECIPE, files, rows, SENTIMENT, student, starts=files.starts)
    teacher = TeacherGraph.read(files.teacher_onnx)

    def package(share: float) -> Package:
        provenance = Provenance("financial_phrasebank", "0" * 32, False, None, None, {})
        folder = files.package(f"lstm-{share}")
        recipe = RECIPE.model_dump(mode="json")
        return build_package(
            student, "lstm", recipe, SENTIMENT, [teacher], provenance, rows, folder, defer=share
        ).package

    evaluation = evaluate_student(
        package(LEAST_SHARE), teacher, rows["validation"], rows["test"], TOKEN_BUDGET, files.evaluation("lstm")
    )
    curve = evaluation.deferral_curve()
    assert curve is not None
    share = curve.share_for_teacher_quality
    tests = pq.read_table(files.corpus, filters=[("split", "=", "test")])["text"].to_pylist()[:TEXTS]
    made = package(min(max(share, LEAST_SHARE), 0.99))
    together = StudentClassifier(made.folder, teacher=teacher.folder)
    alone = AskedTeacher(teacher.folder, made, threads=1, long=together.long)
    contenders = [lambda: list(together.score(tests)), lambda: alone.logits([normalise(text) for text in tests])]
    times = [[seconds(run) for run in contenders] for _ in range(TURNS)]
    asked = sum(bool(score.ask) for score in together.score(tests)) / len(tests)
    return {
        "teacher_macro_f1": float(curve.macro_f1[-1]),
        "student_share_of_it": float(curve.macro_f1[0] / curve.macro_f1[-1]),
        "best_macro_f1_together": float(curve.macro_f1.max()),
        "deferral_share_for_teacher_quality": share,
        "share_asked_by_the_package": asked,
        "deferred_vs_teacher_speed": median(turn[1] for turn in times) / median(turn[0] for turn in times),
    }


def seconds(run: Callable[[], object]) -> float:
    started = time.perf_counter()
    run()
    return time.perf_counter() - started


if __name__ == "__main__":
    main()
