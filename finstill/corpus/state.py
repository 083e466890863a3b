"""What can be told of texts and checkpoints without reading them: enough to know that nothing is new."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from finstill.config.architectures import TEACHER
from finstill.config.profile import EMBEDDED, CorpusSource
from finstill.corpus.sources import source_files
from finstill.errors import InputError, UnreachableError
from finstill.files import digest


def source_state(source: CorpusSource) -> str:
    """Return a digest that changes when the source may have changed.

    Of files it takes names, sizes and times of change; of a Hugging Face data set the commit. A file that was touched
    and holds what it held counts as changed: the stages after it find out that it is not.

    Raises:
        InputError: the source, or its revision on the hub, does not exist.
        UnreachableError: the hub does not answer.
    """
    if source.hub is None:
        return files_state(file.path for file in source_files(source))
    folder = Path(source.hub)
    if folder.is_dir():
        return files_state(folder.rglob("*"))
    return digest(source.hub, source.hub_config or "", _hub_commit(source, source.hub))


def checkpoint_state(name: str) -> str:
    """Return a digest that changes when a file of a checkpoint's folder does; empty for a checkpoint that is none."""
    folder = Path(name)
    return files_state(folder.rglob("*")) if name not in (TEACHER, EMBEDDED) and folder.is_dir() else ""


def files_state(files: Iterable[Path]) -> str:
    """Return a digest of the files' paths, sizes and times of change; folders among them are passed over."""
    statuses = [(file, file.stat()) for file in sorted({file for file in files if file.is_file()})]
    return digest(*(f"{file}\0{status.st_size}\0{status.st_mtime_ns}" for file, status in statuses))


def _hub_commit(source: CorpusSource, name: str) -> str:
    from huggingface_hub import HfApi
    from huggingface_hub.errors import (
        HfHubHTTPError,
        HFValidationError,
        RepositoryNotFoundError,
        RevisionNotFoundError,
    )
    from huggingface_hub.utils import httpx

    try:
        return str(HfApi().dataset_info(name, revision=source.hub_revision).sha)
    except RevisionNotFoundError as error:
        where = f"{source.section}.hub_revision"
        raise InputError(f"'{name}' has no revision '{source.hub_revision}'", where=where) from error
    except HFValidationError as error:
        problem = f"'{name}' is no folder here, and cannot name a data set on the hub"
        raise InputError(problem, where=f"{source.section}.hub") from error
    except RepositoryNotFoundError as error:
        raise InputError("the hub has no such data set, or it is private", where=name) from error
    except (HfHubHTTPError, httpx.HTTPError, OSError) as error:
        raise UnreachableError("the hub does not answer", where=name) from error
