"""A random teacher of milliseconds as graphs of each kind."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from finstill.teacher.checkpoint import load_classifier
from finstill.teacher.export import export_graph
from finstill.teacher.int8 import fuse_teacher, quantize_teacher


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
