"""What a newcomer sees: `make demo` in an empty home, and once more in the same one.

    python bench/demo.py [--quick] [--json FILE]

The set-up of the environment is not timed. The second run finds everything in the cache.
`demo_teacher_self_agreement` is the share of test texts to which the teacher, fine-tuned from another seed, gives the
same class: a student of one of the two cannot be asked for more. `--quick` leaves out both.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
from machine import describe_machine, no_deployment, read_arguments, report
from scipy.special import softmax
from taught import self_agreement, student_logits

from finstill.config.profile import read_profile
from finstill.config.workspace import Workspace
from finstill.evaluation.report import TABLE_FILE
from finstill.files import read_json
from finstill.teacher.checkpoint import resolve_checkpoint
from finstill.training.rows import TrainingRows, training_rows

GOALS = {
    "demo_seconds": "at most 300",
    "demo_second_run_seconds": "",
    "demo_agreement": "at least 0.82",
    "demo_teacher_self_agreement": "",
    "demo_lstm_teacher_share": "at least 0.97",
}

ROOT = Path(__file__).resolve().parents[1]
PROFILE = ROOT / "pipelines" / "profiles" / "embedded.yaml"
UNSURE = 0.7


def main() -> None:
    arguments = read_arguments(__doc__)
    profile = read_profile(PROFILE)
    with tempfile.TemporaryDirectory(prefix="finstill-bench-") as name:
        home = Path(name)
        files = Workspace.of_profile(home, PROFILE)
        figures = {"demo_seconds": run_demo(home)}
        rows = training_rows(files.corpus, files.tokens, profile.task, files.teacher_logits)
        if not arguments.quick:
            figures["demo_second_run_seconds"] = run_demo(home)
            assert profile.teacher.fine_tune is not None
            figures["demo_teacher_self_agreement"] = self_agreement(
                files.root / "again",
                resolve_checkpoint("embedded"),
                profile.teacher.fine_tune,
                rows,
                profile.task.labels,
                seed=profile.seed + 1,
                max_length=profile.teacher.max_length,
            )
        outcome = read_json(files.comparison / TABLE_FILE)
        print(where_the_teacher_is_unsure(files, rows["test"].labelled()))
    table: dict[str, dict[str, Any]] = {row["name"]: row for row in outcome["table"]}
    figures["demo_agreement"] = table["lstm"]["agreement"]
    figures["demo_lstm_teacher_share"] = table["lstm"]["macro_f1"] / table["teacher"]["macro_f1"]
    print(*outcome["verdicts"], sep="\n")
    report(figures, GOALS, describe_machine("torch", "onnxruntime"), arguments.json)


def run_demo(home: Path) -> float:
    """Return the seconds of a run of every stage."""
    started = time.perf_counter()
    environment = {**no_deployment(), "FINSTILL_HOME": str(home), "FINSTILL_PROFILE": "embedded"}
    subprocess.run([sys.executable, "-m", "pipelines.run"], cwd=ROOT, env=environment, check=True)
    return time.perf_counter() - started


def where_the_teacher_is_unsure(files: Workspace, test: TrainingRows) -> str:
    """Return a sentence on how the LSTM agrees with the teacher where that is sure of a test text and where not."""
    assert test.teacher_logits is not None
    teacher = test.teacher_logits.argmax(axis=1)
    agrees = student_logits(files.of_student("lstm") / "checkpoint", test).argmax(axis=1) == teacher
    unsure = softmax(test.teacher_logits, axis=1).max(axis=1) < UNSURE
    return (
        f"The teacher gives {unsure.mean():.0%} of the test texts less than {UNSURE}: it is right on "
        f"{np.mean(teacher[unsure] == test.labels[unsure]):.0%} of them, and the LSTM agrees with it on "
        f"{agrees[unsure].mean():.0%}; on the others on {agrees[~unsure].mean():.0%}."
    )


if __name__ == "__main__":
    main()
