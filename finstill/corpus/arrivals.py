"""Files that others drop into a folder or an object store, and how they join the corpus: each once, and only whole.

A file is known by its name and its mark, which is its size and time of change. It counts as taken where its copy stands
in the corpus's folder, or where the list of what was taken has it: so it is taken again after a copy that failed, and
not after somebody removed the copy. A review that people have filled in holds corrections and not texts, and its copy
stands in their folder.

Files that no reader knows are passed over, and so are hidden ones. In a folder so are links, since whoever drops one
may not be allowed to read what it points to, and names that are not UTF-8, which neither JSON nor a message can hold.
"""

from __future__ import annotations

import os
import shutil
import stat
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import BinaryIO

from pyarrow import fs

from finstill.config.profile import EMBEDDED, CorpusSource
from finstill.corpus.corrections import is_review
from finstill.corpus.readers import COMPRESSED
from finstill.corpus.rows import writable
from finstill.corpus.sources import is_readable
from finstill.errors import InputError
from finstill.files import digest, open_root, read_json, whole_file, write_json

NAME_BYTES = 255
"""Bytes that a file's name may have on common file systems (NAME_MAX)."""


@dataclass(frozen=True)
class Watched:
    """The files of a drop at one moment, each name with its mark.

    Attributes:
        waiting: files that were not there, or were different, the last time. One of these may still be being written.
        ready: files that have not changed since the last time and were not taken yet.
        taken: files that were.
    """

    waiting: Mapping[str, str]
    ready: Mapping[str, str]
    taken: Mapping[str, str]


@dataclass(frozen=True)
class Taken:
    """What became of files that were to be taken.

    Attributes:
        copies: where they stand, in the corpus's folder or that of the corrections.
        left: names of those that changed since they were looked at; the next look finds them.
    """

    copies: list[Path]
    left: list[str]


class _ChangedError(Exception):
    """A file is another than the one that was looked at."""


def watch(drop: str, waiting: Mapping[str, str], source: CorpusSource, taken: Path, corrections: Path) -> Watched:
    """Return what has become of a drop since it was last looked at.

    A file is ready when two looks find the same size and time of change. A file whose content is replaced later is
    another file.

    Args:
        drop: a folder, or the URL of a prefix in an object store; see `finstill.cache.cache.SoftLabelCache`.
        waiting: as of the last look; what was ready then belongs to it too.
        source: the corpus that they join.
        taken: the list that `take` keeps.
        corrections: the folder of corrected labels.

    Raises:
        InputError: the drop cannot be opened or does not exist, or the corpus is no folder.
    """
    folders = _corpus_folder(source), corrections
    files = _marks(drop)
    known = _read(taken)
    old = {
        name: mark for name, mark in files.items() if known.get(name) == mark or _copy_of(name, mark, folders).exists()
    }
    new = {name: mark for name, mark in files.items() if name not in old}
    ready = {name: mark for name, mark in new.items() if waiting.get(name) == mark}
    return Watched({name: mark for name, mark in new.items() if name not in ready}, ready, old)


def take(drop: str, files: Mapping[str, str], source: CorpusSource, taken: Path, corrections: Path) -> Taken:
    """Copy files of a drop into the folder of the corpus, or of the corrections, each whole or not at all, and write
    down which.

    A copy is named after the file and its mark. One that stands is left as it is, since somebody may have mended it,
    and a file dropped later under the same name does not replace it. A file that is not as it was looked at, before
    or after it was copied, is left for the next look.

    Args:
        files: names with their marks; an empty mark is that of now.
        taken: the list of names and marks, as JSON. What is no longer in the drop is forgotten.
        corrections: the folder of corrected labels.

    Raises:
        InputError: the corpus is no folder, or a file is no longer in the drop or is one that is passed over.
    """
    folders = _corpus_folder(source), corrections
    filesystem, base = open_root(drop)
    there = _marks(drop)
    done: dict[str, str] = {}
    copies, left = [], []
    try:
        for name, looked_at in files.items():
            # Only what a look lists: a name such as `../x.csv` would lead out of the drop.
            if name not in there:
                raise _gone(base, name)
            mark = looked_at or there[name]
            path = _copy_of(name, mark, folders)
            try:
                if not path.exists():
                    _copy(filesystem, base, name, mark, path)
            except _ChangedError:
                left.append(name)
            else:
                copies.append(path)
                done[name] = mark
    finally:
        write_json(taken, {name: mark for name, mark in _read(taken).items() if name in there} | done)
    return Taken(copies, left)


def _corpus_folder(source: CorpusSource) -> Path:
    folder = Path(source.path) if isinstance(source.path, str) and source.path != EMBEDDED else None
    if folder is None or (folder.exists() and not folder.is_dir()):
        raise InputError(
            "files that are dropped join a corpus that is a folder, and this one is not",
            where=source.hub or f"corpus.path: {source.path}",
            remedy="Put its files into a folder and give that as corpus.path, or unset FINSTILL_DROP",
        )
    return folder


def _marks(drop: str) -> dict[str, str]:
    """Return the files of a drop that a reader knows, by name, each with its mark."""
    filesystem, base = open_root(drop)
    try:
        if isinstance(filesystem, fs.LocalFileSystem):
            listing = list(_local_files(base))
        else:
            listing = filesystem.get_file_info(fs.FileSelector(base, recursive=True))
    except FileNotFoundError as error:
        raise InputError("there is no such folder", where=base, remedy="Make it, or name another") from error
    return {
        name: _mark(info)
        for info in sorted(listing, key=lambda info: info.path)
        if info.type == fs.FileType.File and is_readable(name := str(PurePosixPath(info.path).relative_to(base)))
    }


def _local_files(base: str) -> Iterator[fs.FileInfo]:
    """Yield the files of a folder; Arrow's own listing follows links, and fails where a name is not UTF-8."""

    def fail(error: OSError) -> None:
        # A folder within that cannot be read, or is gone already, keeps no other file from being taken.
        if error.filename == base:
            raise error

    for folder, _, names in os.walk(base, onerror=fail):
        for path in (str(Path(folder, name)) for name in names):
            if writable(path) == path:
                yield _local_file(path)


def _local_file(path: str) -> fs.FileInfo:
    """Return what Arrow tells of a file, but of a link that it is none."""
    try:
        found = os.lstat(path)
    except OSError:
        return fs.FileInfo(path, fs.FileType.NotFound)
    if not stat.S_ISREG(found.st_mode):
        return fs.FileInfo(path, fs.FileType.Unknown)
    return fs.FileInfo(path, fs.FileType.File, mtime_ns=found.st_mtime_ns, size=found.st_size)


def _mark(info: fs.FileInfo) -> str:
    return f"{info.size}-{info.mtime_ns}"


def _look(filesystem: fs.FileSystem, base: str, name: str) -> fs.FileInfo:
    path = str(PurePosixPath(base) / name)
    local = isinstance(filesystem, fs.LocalFileSystem)
    info = _local_file(path) if local else filesystem.get_file_info(path)
    if info.type != fs.FileType.File:
        raise _gone(base, name)
    return info


def _gone(base: str, name: str) -> InputError:
    return InputError("this file is no longer in the drop, or is one that is passed over", where=f"{base}/{name}")


def _copy_of(name: str, mark: str, folders: tuple[Path, Path]) -> Path:
    folder = folders[is_review(name)]
    file = Path(name)
    # The whole ending stays, also of a compressed file: it tells how to read it.
    stem, point, ending = file.name.partition(".")
    known_by = f"-{digest(name, *mark.split('-', 1))[:12]}"
    copy = f"{stem}{known_by}{point}{ending}"
    if len(copy.encode()) > NAME_BYTES:
        # Of a long name with many points only that part of the ending stays that tells how to read it.
        ending = "".join(file.suffixes[-2 if file.suffix.lower() in COMPRESSED else -1 :])
        room = NAME_BYTES - len(f"{known_by}{ending}".encode())
        stem = file.name.removesuffix(ending).encode()[:room].decode(errors="ignore")
        copy = f"{stem}{known_by}{ending}"
    return folder / copy


def _open(filesystem: fs.FileSystem, path: str) -> BinaryIO:
    if isinstance(filesystem, fs.LocalFileSystem):
        # A link may have taken the file's place since it was looked at.
        return os.fdopen(os.open(path, os.O_RDONLY | os.O_NOFOLLOW), "rb")
    return filesystem.open_input_stream(path, compression=None)


def _copy(filesystem: fs.FileSystem, base: str, name: str, mark: str, path: Path) -> None:
    info = _look(filesystem, base, name)
    if _mark(info) != mark:
        raise _ChangedError
    with (
        _open(filesystem, info.path) as content,
        whole_file(path) as unfinished,
        unfinished.open("wb") as copy,
    ):
        shutil.copyfileobj(content, copy, 1 << 20)
        if copy.tell() != info.size or _mark(_look(filesystem, base, name)) != mark:
            raise _ChangedError


def _read(taken: Path) -> dict[str, str]:
    return read_json(taken) if taken.is_file() else {}
