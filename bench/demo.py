"""What a newcomer sees: `make demo` in an empty home, and once more in the same one.

    python bench/demo.py [--quick] [--json FILE]

The set-up of the environment is not timed. The second run finds everything in the cache.
`demo_teacher_self_agreement` is the share of test texts to which the teacher, fine-tuned from another seed, gives the
same class: a student that hears one of the two cannot be asked for more. `--quick` leaves out both.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
from machine import describe_machine, read_arguments, report
from scipy.special import softmax
from taught import student_logits

from finstill.config.profile import read_profile
from finstill.config.workspace import Workspace
from finstill.evaluation.report import TABLE_FILE
from finstill.files import read_json
from finstill.inference.session import OnnxClassifier
from finstill.metrics import agreement
from finstill.teacher.checkpoint import resolve_checkpoint
from finstill.teacher.export import export_teacher
from finstill.training.fine_tune import fine_tune
from finstill.training.rows import training_rows

GOALS = {
    "demo_seconds": "at most 300",
    "demo_second_run_seconds": "",
    "demo_agreement": "at least 0.82",
    "demo_teacher_self_agreement": "",
    "demo_lstm_teacher_share": "at least 0.97",
}

ROOT = Path(__file__).resolve().parents[1]
PROFILE = ROOT / "pipelines" / "profiles" / "embedded.yaml"
TOKEN_BUDGET = 512
UNSURE = 0.7


def main() -> None:
    arguments = read_arguments(__doc__)
    with tempfile.TemporaryDirectory(prefix="finstill-bench-") as name:
        home = Path(name)
        files = Workspace.of_profile(home, PROFILE)
        figures = {"demo_seconds": run_demo(home)}
        if not arguments.quick:
            figures["demo_second_run_seconds"] = run_demo(home)
            figures["demo_teacher_self_agreement"] = self_agreement(files)
        outcome = read_json(files.comparison / TABLE_FILE)
        print(where_the_teacher_is_unsure(files))
    rows: dict[str, dict[str, Any]] = {row["name"]: row for row in outcome["table"]}
    figures["demo_agreement"] = rows["lstm"]["agreement"]
    figures["demo_lstm_teacher_share"] = rows["lstm"]["macro_f1"] / rows["teacher"]["macro_f1"]
    print(*outcome["verdicts"], sep="\n")
    report(figures, GOALS, describe_machine("torch", "onnxruntime"), arguments.json)


def run_demo(home: Path) -> float:
    """Return the seconds of a run of every stage."""
    started = time.perf_counter()
    environment = {**os.environ, "FINSTILL_HOME": str(home), "FINSTILL_PROFILE": "embedded"}
    subprocess.run([sys.executable, "-m", "pipelines.run"], cwd=ROOT, env=environment, check=True)
    return time.perf_counter() - started


def where_the_teacher_is_unsure(files: Workspace) -> str:
    """Return a sentence on how the LSTM agrees with the teacher where that is sure of a test text and where not."""
    task = read_profile(PROFILE).task
    test = training_rows(files.corpus, files.tokens, task, files.teacher_logits)["test"].labelled()
    assert test.teacher_logits is not None
    teacher = test.teacher_logits.argmax(axis=1)
    agrees = student_logits(files.of_student("lstm") / "checkpoint", test).argmax(axis=1) == teacher
    unsure = softmax(test.teacher_logits, axis=1).max(axis=1) < UNSURE
    return (
        f"The teacher gives {unsure.mean():.0%} of the test texts less than {UNSURE}: it is right on "
        f"{np.mean(teacher[unsure] == test.labels[unsure]):.0%} of them, and the LSTM agrees with it on "
        f"{agrees[unsure].mean():.0%}; on the others on {agrees[~unsure].mean():.0%}."
    )


def self_agreement(files: Workspace) -> float:
    """Return the share of test texts to which the teacher gives the same class when another seed makes it."""
    profile = read_profile(PROFILE)
    labels, settings = profile.task.labels, profile.teacher
    assert settings.fine_tune is not None
    rows = training_rows(files.corpus, files.tokens, profile.task, files.teacher_logits)
    folder, seed = files.root / "again", profile.seed + 1
    encoder = resolve_checkpoint("embedded")
    fine_tune(encoder, settings.fine_tune, rows["train"], rows["validation"], labels, folder / "checkpoint", seed=seed)
    teacher = export_teacher(
        folder / "checkpoint", folder / "onnx", max_length=settings.max_length, source="embedded, another seed"
    )
    test = rows["test"].labelled()
    assert test.teacher_logits is not None
    logits = OnnxClassifier(teacher.graph).logits(test.input_ids, TOKEN_BUDGET)
    return agreement(logits[:, [teacher.labels.index(label) for label in labels]], test.teacher_logits)


if __name__ == "__main__":
    main()
