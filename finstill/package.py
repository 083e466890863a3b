"""A student's package: what it needs to run where torch is not, proved equal to its checkpoint."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import onnx
import onnxruntime
import torch

from finstill.errors import InputError
from finstill.files import digest, read_json, whole_folder, write_json
from finstill.onnx_classifier import Parity, graph_parity
from finstill.students.registry import load_student
from finstill.teacher.export import TOKENIZER_FILE, TeacherGraph

GRAPH_FILE = "model.onnx"
PACKAGE_FILE = "package.json"


@dataclass(frozen=True)
class Package:
    """A packaged student.

    Attributes:
        folder: holds `model.onnx`, `tokenizer.json`, this description, and the same student for transformers'
            `from_pretrained`.
        name: of its recipe.
        task: name of the task.
        labels: the task's labels, in the order of the logits.
        max_length: tokens a text is cut at.
        teacher: the fingerprint of the teacher it learned from.
        recipe: what it was made by.
        parameters: number of weights.
        digest: of the graph, the tokenizer and the labels: what decides every answer it gives.
    """

    folder: Path
    name: str
    task: str
    labels: tuple[str, ...]
    max_length: int
    teacher: str
    recipe: dict[str, Any]
    parameters: int
    digest: str

    @property
    def graph(self) -> Path:
        return self.folder / GRAPH_FILE

    @classmethod
    def read(cls, folder: Path) -> Package:
        values = read_json(folder / PACKAGE_FILE)
        return cls(**{**values, "folder": folder, "labels": tuple(values["labels"])})


def build_package(
    student: Path,
    name: str,
    recipe: dict[str, Any],
    task: str,
    labels: Sequence[str],
    teacher: TeacherGraph,
    rows: Sequence[Sequence[int]],
    folder: Path,
) -> tuple[Package, Parity]:
    """Package the student in the folder `student` into `folder`, whole or not at all.

    Args:
        rows: token ids on which graph and checkpoint are compared.

    Raises:
        InputError: the graph and the checkpoint differ; no package is made.
    """
    model = load_student(student)
    with whole_folder(folder) as unfinished:
        shutil.copytree(student, unfinished, dirs_exist_ok=True)
        onnx.save(model.onnx_graph(), unfinished / GRAPH_FILE)
        parity = graph_parity(unfinished / GRAPH_FILE, model, rows, token_budget=1024)
        if not parity.holds:
            raise InputError(
                f"the graph of student '{name}' differs from its checkpoint by {parity.largest_difference:.2g} on "
                f"{parity.rows} texts (onnxruntime {onnxruntime.__version__}, torch {torch.__version__})",
                where=student,
                remedy="This is a fault of Finstill or of these versions: please report it",
            )
        identity = digest(unfinished / GRAPH_FILE, unfinished / TOKENIZER_FILE, *labels)
        package = Package(
            folder,
            name,
            task,
            tuple(labels),
            teacher.max_length,
            teacher.fingerprint,
            recipe,
            model.num_parameters(),
            identity,
        )
        write_json(unfinished / PACKAGE_FILE, {**asdict(package), "folder": None})
    return package, parity
