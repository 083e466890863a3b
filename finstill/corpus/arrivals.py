"""Files that others drop into a folder or an object store, and how they join the corpus: each once, and only whole."""

from __future__ import annotations

import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from pyarrow import fs

from finstill.config.profile import EMBEDDED, CorpusSource
from finstill.corpus.sources import is_readable
from finstill.errors import InputError
from finstill.files import digest, open_root, whole_file


@dataclass(frozen=True)
class Watched:
    """The files of a drop at one moment.

    Attributes:
        waiting: files that were not there, or were different, the last time: each name with its size and time of
            change. One of these may still be being written.
        ready: files that have not changed since the last time and were not taken yet.
        taken: files that were handed out before.
    """

    waiting: Mapping[str, str]
    ready: Mapping[str, str]
    taken: Mapping[str, str]


def watch(drop: str, waiting: Mapping[str, str], taken: Mapping[str, str]) -> Watched:
    """Return what has become of a drop since it was last looked at.

    A file is ready when two looks find the same size and time of change. A file whose content is replaced later is
    another file. Files that are gone are forgotten.

    Args:
        drop: a folder, or the URL of a prefix in an object store; see `finstill.cache.cache.SoftLabelCache`.
        waiting, taken: as of the last look.

    Raises:
        InputError: the drop cannot be opened or does not exist.
    """
    filesystem, base = open_root(drop)
    try:
        listing = filesystem.get_file_info(fs.FileSelector(base, recursive=True))
    except FileNotFoundError as error:
        raise InputError("there is no such folder", where=base, remedy="Make it, or name another") from error
    files = {
        str(PurePosixPath(info.path).relative_to(base)): f"{info.size}-{info.mtime_ns}"
        for info in sorted(listing, key=lambda info: info.path)
        if info.type == fs.FileType.File and is_readable(info.base_name)
    }
    old = {name: mark for name, mark in files.items() if taken.get(name) == mark}
    new = {name: mark for name, mark in files.items() if name not in old}
    ready = {name: mark for name, mark in new.items() if waiting.get(name) == mark}
    return Watched({name: mark for name, mark in new.items() if name not in ready}, ready, old)


def take(drop: str, names: Sequence[str], source: CorpusSource) -> list[Path]:
    """Copy files of a drop into the folder of the corpus, each whole or not at all, and return where they are.

    A copy is named after the file and its size and time of change: taking it again makes no second one, and a file
    dropped later under the same name does not replace it.

    Raises:
        InputError: the corpus is no folder, or a file is no longer in the drop.
    """
    folder = Path(source.path) if isinstance(source.path, str) and source.path != EMBEDDED else None
    if folder is None or (folder.exists() and not folder.is_dir()):
        raise InputError(
            "files that are dropped join a corpus that is a folder, and this one is not",
            where=source.hub or f"corpus.path: {source.path}",
            remedy="Put its files into a folder and give that as corpus.path",
        )
    filesystem, base = open_root(drop)
    copies = []
    for name in names:
        info = filesystem.get_file_info(str(PurePosixPath(base) / name))
        if info.type != fs.FileType.File:
            raise InputError("this file is no longer in the drop", where=f"{base}/{name}")
        # The whole ending stays, also of a compressed file: it tells how to read it.
        stem, point, ending = Path(name).name.partition(".")
        path = folder / f"{stem}-{digest(name, str(info.size), str(info.mtime_ns))[:12]}{point}{ending}"
        with (
            filesystem.open_input_stream(info.path, compression=None) as content,
            whole_file(path) as unfinished,
            unfinished.open("wb") as copy,
        ):
            shutil.copyfileobj(content, copy, 1 << 20)
        copies.append(path)
    return copies
