"""A random teacher of milliseconds as graphs of each kind, and packages of students that were trained on cut texts."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import TrainerCallback

from finstill.files import read_json, standing_folder, write_json
from finstill.serving.package import PACKAGE_FILE, Package
from finstill.teacher.checkpoint import load_classifier
from finstill.teacher.export import export_graph
from finstill.teacher.int8 import fuse_teacher, quantize_teacher


@pytest.fixture(scope="session")
def trained_on_cut_texts(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Package]:
    """Return a function that copies a package; the copy says that long texts were cut, and what else is given."""

    def copy(package: Package, **said: object) -> Package:
        folder = tmp_path_factory.mktemp("cut") / "package"
        shutil.copytree(standing_folder(package.folder), folder)
        write_json(folder / PACKAGE_FILE, {**read_json(folder / PACKAGE_FILE), "long": "cut", **said})
        return Package.read(folder)

    return copy


@pytest.fixture(scope="session")
def graphs(make_checkpoint: Callable[..., Path], tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """One random teacher as exported, fused and in int8, with outlying channels as trained encoders have them."""
    model = load_classifier(make_checkpoint(hidden_size=64, intermediate_size=128, num_attention_heads=4))
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "LayerNorm.weight" in name:
                parameter[:2] *= 8
    folder = tmp_path_factory.mktemp("graphs")
    paths = {name: folder / f"{name}.onnx" for name in ("exported", "fused", "int8")}
    export_graph(model, paths["exported"])
    fuse_teacher(paths["exported"], paths["fused"])
    quantize_teacher(paths["exported"], paths["int8"])
    return paths


@pytest.fixture
def cut_off_after() -> Callable[[int], TrainerCallback]:
    """Return a function that makes a callback which ends a training after so many epochs."""

    class CutOff(TrainerCallback):
        def __init__(self, epochs: int):
            self._epochs = epochs

        def on_epoch_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
            if (state.epoch or 0) >= self._epochs:
                raise InterruptedError

    return CutOff


@pytest.fixture
def computed_types() -> Iterator[set[torch.dtype]]:
    """The types of what torch's modules return while the test runs."""
    types: set[torch.dtype] = set()

    def listen(module: torch.nn.Module, inputs: object, output: object) -> None:
        if isinstance(output, torch.Tensor):
            types.add(output.dtype)

    registered = torch.nn.modules.module.register_module_forward_hook(listen)
    yield types
    registered.remove()
