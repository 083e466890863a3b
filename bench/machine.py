"""What every benchmark shares: its arguments, rivals that take turns, and the machine that the figures belong to."""

from __future__ import annotations

import argparse
import json
import logging
import os
import platform
import time
from collections.abc import Callable, Mapping
from importlib import import_module
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from joblib import cpu_count

SHARED_DATA = Path(__file__).resolve().parents[1].parent / "shared" / "data"

INSTRUCTION_SETS = (
    "avx2",
    "avx512f",
    "avx512_vnni",
    "avx512_bf16",
    "avx_vnni",
    "amx_int8",
    "amx_bf16",
    "asimddp",
    "i8mm",
)

MATMUL_SIZE = 2048

Seconds = dict[str, list[float]]
"""Of each rival, one entry a round."""


def read_arguments(description: str | None, *, provider: bool = False) -> argparse.Namespace:
    """Return `quick` (a smaller run), `json` (where the figures are written, or None) and, where asked, `provider`."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="fewer texts and rounds: minutes, with more noise")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures and the machine to FILE")
    if provider:
        parser.add_argument("--provider", default="CPUExecutionProvider", help="as CUDAExecutionProvider")
    return parser.parse_args()


def read_shared(name: str) -> pa.Table:
    """Return the shared data set `name`; a machine that lacks it cannot run the benchmark."""
    path = SHARED_DATA / f"{name}.parquet"
    if not path.is_file():
        raise SystemExit(f"This benchmark needs ../shared/data/{path.name} beside the repository, and it is not there.")
    return pq.read_table(path)


def draw_rows(table: pa.Table, rows: int) -> pa.Table:
    """Return `rows` rows of a table, always the same ones."""
    return table.take(np.random.default_rng(0).choice(table.num_rows, rows, replace=False))


def no_deployment() -> dict[str, str]:
    """Return the environment without what sets a deployment: a run of the pipeline is to be the benchmark's own."""
    return {name: value for name, value in os.environ.items() if not name.startswith(("FINSTILL_", "DAGSTER_"))}


def take_turns(rivals: Mapping[str, Callable[[], object]], rounds: int) -> Seconds:
    """Time each rival once a round, in turn, so that whatever else the machine does meets all of them alike."""
    seconds: Seconds = {name: [] for name in rivals}
    for _ in range(rounds):
        for name, run in rivals.items():
            started = time.perf_counter()
            run()
            seconds[name].append(time.perf_counter() - started)
    return seconds


def times_faster(seconds: Seconds, ours: str, rival: str) -> float:
    """Return how many times the rival's speed ours is: the median over the rounds."""
    return median(theirs / own for theirs, own in zip(seconds[rival], seconds[ours], strict=True))


def matmul(
    size: int = MATMUL_SIZE, dtype: torch.dtype = torch.float32, device: str = "cpu"
) -> Callable[[], torch.Tensor]:
    """Return a product of two square matrices, by torch on all cores that may be used or on a GPU."""
    torch.set_num_threads(cpu_count())
    left, right = torch.randn(2, size, size).to(device, dtype)

    def product() -> torch.Tensor:
        result = left @ right
        if device != "cpu":
            torch.cuda.synchronize()
        return result

    return product


def show_progress() -> None:
    """Show the library's log lines; each process does so for itself."""
    logging.basicConfig(format="%(asctime)s %(message)s", datefmt="%H:%M:%S")
    logging.getLogger("finstill").setLevel(logging.INFO)


def describe_machine(*packages: str) -> dict[str, Any]:
    """Return what the figures depend on, `packages` with their versions among it."""
    fields = dict(line.split(":", 1) for line in _cpu_info() if ":" in line)
    fields = {key.strip(): value.strip() for key, value in fields.items()}
    flags = fields.get("flags", fields.get("Features", "")).split()
    return {
        "processor": fields.get("model name", platform.processor()),
        "instruction_sets": [name for name in INSTRUCTION_SETS if name in flags],
        "cores": cpu_count(),
        "system": platform.platform(),
        "python": platform.python_version(),
        **{package: import_module(package).__version__ for package in packages},
        **({"card": torch.cuda.get_device_name()} if torch.cuda.is_available() else {}),
    }


def report(
    figures: Mapping[str, float], goals: Mapping[str, str], machine: Mapping[str, Any], path: Path | None
) -> None:
    """Print the figures, each with its goal, and the machine; write both to `path` where there is one."""
    width = max(map(len, figures))
    for name, value in figures.items():
        print(f"{name:<{width}}  {value:>12.4g}  {goals.get(name, '')}")
    print(", ".join(f"{name} {value}" for name, value in machine.items()))
    if path is not None:
        path.write_text(json.dumps({"figures": dict(figures), "machine": dict(machine)}, indent=2) + "\n")


def _cpu_info() -> list[str]:
    path = Path("/proc/cpuinfo")
    return path.read_text().splitlines() if path.is_file() else []
