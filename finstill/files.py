"""Files and folders that appear whole or not at all.

Each is written under a temporary name in the place it will live in, synced, and renamed: POSIX promises that a reader
sees the old one or the new one, never a part (rename(2), fsync(2)).
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from finstill.errors import InputError

if TYPE_CHECKING:
    import pyarrow.fs

TEMPORARY_PREFIX = ".unfinished-"


@contextmanager
def whole_file(path: Path) -> Iterator[Path]:
    """Yield a temporary path; when the block ends without an exception it becomes `path`.

    Raises:
        OSError: the disk is full or the place cannot be written to; `path` is then as it was.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    descriptor, name = tempfile.mkstemp(prefix=TEMPORARY_PREFIX, dir=path.parent)
    os.close(descriptor)
    unfinished = Path(name)
    try:
        yield unfinished
        # mkstemp makes files that only their owner reads; what is published is read by others too.
        unfinished.chmod(0o644)
        _sync(unfinished)
        unfinished.replace(path)
        _sync(path.parent)
    finally:
        unfinished.unlink(missing_ok=True)


@contextmanager
def whole_folder(path: Path) -> Iterator[Path]:
    """Yield an empty temporary folder; when the block ends without an exception it replaces the folder `path`.

    A folder cannot be renamed over a full one, so the old one steps aside first: between the two renames `path` does
    not exist, but at no moment does it hold a mixture.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    unfinished = Path(tempfile.mkdtemp(prefix=TEMPORARY_PREFIX, dir=path.parent))
    try:
        yield unfinished
        unfinished.chmod(0o755)
        for file in unfinished.rglob("*"):
            _sync(file)
        retired = Path(tempfile.mkdtemp(prefix=TEMPORARY_PREFIX, dir=path.parent))
        if path.exists():
            path.replace(retired)
        unfinished.replace(path)
        _sync(path.parent)
        shutil.rmtree(retired)
    finally:
        shutil.rmtree(unfinished, ignore_errors=True)


def write_json(path: Path, value: Any) -> None:
    """Write `value` to `path` as indented UTF-8 JSON, whole or not at all."""
    with whole_file(path) as unfinished:
        unfinished.write_text(json.dumps(value, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def read_json(path: Path) -> Any:
    return json.loads(path.read_text(encoding="utf-8"))


def open_root(root: str | Path) -> tuple[pyarrow.fs.FileSystem, str]:
    """Return the file system of a cache's root and the path in it.

    Raises:
        InputError: the URL names no file system that pyarrow knows, or one that cannot be reached.
    """
    from pyarrow import ArrowException, fs

    if "://" not in str(root):
        return fs.LocalFileSystem(), str(Path(root).absolute())
    try:
        return fs.FileSystem.from_uri(str(root))
    except (OSError, ArrowException) as error:
        raise InputError(
            f"'{str(root).partition('://')[0]}://...' cannot be opened as a cache: {error}",
            remedy="Give a folder, or a URL such as s3://bucket/prefix?region=eu-west-1",
        ) from error


def digest(*parts: bytes | str | Path) -> str:
    """128 bits of BLAKE2b (RFC 7693) over `parts`, as 32 hexadecimal digits.

    A `Path` stands for the content of its file. Each part is preceded by its length, so no two lists of parts share a
    byte stream.
    """
    state = hashlib.blake2b(digest_size=16)
    for part in parts:
        if isinstance(part, Path):
            with part.open("rb") as file:
                content = hashlib.file_digest(file, lambda: hashlib.blake2b(digest_size=16)).digest()
        else:
            content = part.encode() if isinstance(part, str) else part
        state.update(len(content).to_bytes(8, "little"))
        state.update(content)
    return state.hexdigest()


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
