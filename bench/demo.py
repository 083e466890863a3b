"""What a newcomer sees: `make demo` in an empty home, and once more in the same one.

    python bench/demo.py [--quick] [--json FILE]

The set-up of the environment is not timed. The second run finds everything in the cache. `--quick` leaves it out.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from machine import describe_machine, read_arguments, report

from finstill.config.workspace import Workspace
from finstill.evaluation.report import TABLE_FILE
from finstill.files import read_json

GOALS = {
    "demo_seconds": "at most 300",
    "demo_second_run_seconds": "",
    "demo_agreement": "at least 0.82",
    "demo_lstm_teacher_share": "at least 0.97",
}

ROOT = Path(__file__).resolve().parents[1]


def main() -> None:
    arguments = read_arguments(__doc__)
    with tempfile.TemporaryDirectory(prefix="finstill-bench-") as name:
        home = Path(name)
        figures = {"demo_seconds": run_demo(home)}
        if not arguments.quick:
            figures["demo_second_run_seconds"] = run_demo(home)
        outcome = read_json(Workspace(home / "embedded").comparison / TABLE_FILE)
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


if __name__ == "__main__":
    main()
