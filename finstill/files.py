"""Files and folders that appear whole or not at all.

Each is written under a temporary name in the place it will live in, synced, and renamed: POSIX promises that a reader
sees the old one or the new one, never a part (rename(2), fsync(2)). A folder's name is a symbolic link to one of its
versions, see `whole_folder`; copy such a folder with `cp -rL`.
"""

from __future__ import annotations

import ctypes
import hashlib
import json
import logging
import os
import shutil
import stat
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any
from uuid import uuid4

from finstill.errors import InputError, UnreachableError

if TYPE_CHECKING:
    import pyarrow.fs

logger = logging.getLogger(__name__)

TEMPORARY_PREFIX = ".unfinished-"

VERSIONS_ENDING = ".versions"
"""The versions of a folder `name` stand beside it in `.name.versions`."""

REPLACED_SECONDS = 86_400
"""How long the version of a folder stays after it was replaced: whoever reads it still has a day to finish."""


@contextmanager
def whole_file(path: Path) -> Iterator[Path]:
    """Yield a temporary path; when the block ends without an exception it becomes `path`.

    A file that stood there gives it its mode; a new one is made as the umask says.

    Raises:
        OSError: the disk is full or the place cannot be written to; `path` is then as it was.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    kept = _mode_of_file(path)
    unfinished = path.with_name(f"{TEMPORARY_PREFIX}{uuid4().hex}")
    # Not by mkstemp, which passes over the umask. Who may not read what is replaced may not read it unfinished either.
    made_with = 0o666 if kept is None else kept | stat.S_IRUSR | stat.S_IWUSR
    os.close(os.open(unfinished, os.O_CREAT | os.O_EXCL | os.O_WRONLY, made_with))
    mode = unfinished.stat().st_mode & 0o777 if kept is None else kept
    try:
        yield unfinished
        # A library that writes safely puts a file of its own there.
        unfinished.chmod(mode)
        _sync(unfinished)
        unfinished.replace(path)
        _sync(path.parent)
    finally:
        unfinished.unlink(missing_ok=True)


@contextmanager
def whole_folder(path: Path) -> Iterator[Path]:
    """Yield an empty temporary folder; when the block ends without an exception `path` stands for it.

    A folder cannot be renamed over a full one, and a symbolic link can be over another. So each version is a folder of
    its own beside `path`, and `path` is a link to the one that counts: at every moment it names one whole version. A
    reader of several files takes them all from `standing_folder(path)`. What is replaced stays for `REPLACED_SECONDS`,
    for those who read it still, and goes with the first replacement after that. The umask says who
    reads it.

    Where a real folder stands under `path`, as older versions of Finstill made it, the link takes its place.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    unfinished = path.with_name(f"{TEMPORARY_PREFIX}{uuid4().hex}")
    # Not by mkdtemp, which passes over the umask.
    unfinished.mkdir()
    mode = unfinished.stat().st_mode & 0o777
    try:
        yield unfinished
        for each in (*unfinished.rglob("*"), unfinished):
            # Files that libraries write safely are their owner's alone.
            each.chmod(mode if each.is_dir() else mode & 0o666)
            _sync(each)
        _let_stand(unfinished, path)
    finally:
        shutil.rmtree(unfinished, ignore_errors=True)


@contextmanager
def one_at_a_time(path: Path) -> Iterator[None]:
    """Let one process at a time make what stands at `path`: others wait, by a lock that stays beside it."""
    from filelock import FileLock, Timeout  # No part of the installation that students in service need.

    path.parent.mkdir(parents=True, exist_ok=True)
    lock = FileLock(path.with_name(f"{path.name}.lock"))
    try:
        lock.acquire(blocking=False)
    except Timeout:
        logger.info("%s: waits until another process has made it", path.name)
        lock.acquire()
    try:
        yield
    finally:
        lock.release()


def made_once(path: Path, write: Callable[[Path], None]) -> Path:
    """Return `path`, after `write` has written it, whole or not at all, where it did not stand.

    Others that want the same file wait meanwhile.
    """
    with one_at_a_time(path):
        if not path.is_file():
            with whole_file(path) as unfinished:
                write(unfinished)
    return path


def standing_folder(path: Path) -> Path:
    """Return the folder that `path` stands for now: what is read from it belongs together, whoever replaces `path`."""
    return path.resolve() if path.is_symlink() else path


def remove_folder(path: Path) -> None:
    """Remove what `whole_folder` wrote to `path`, all versions of it; nothing there is nothing to do."""
    if path.is_symlink():
        path.unlink()
    for folder in (path, _versions(path)):
        shutil.rmtree(folder, ignore_errors=True)


def replaced_folders(root: Path) -> Iterator[Path]:
    """Yield the versions of folders anywhere in `root` that no name stands for any more, or not yet."""
    for versions in root.rglob(f".*{VERSIONS_ENDING}"):
        path = versions.with_name(versions.name.removeprefix(".").removesuffix(VERSIONS_ENDING))
        for version in versions.iterdir():
            if version.name != standing_folder(path).name:
                yield version


def _mode_of_file(path: Path) -> int | None:
    """Return the permissions of a regular file, and None where none stands."""
    try:
        mode = path.lstat().st_mode
    except FileNotFoundError:
        return None
    return mode & 0o777 if stat.S_ISREG(mode) else None


def _versions(path: Path) -> Path:
    return path.with_name(f".{path.name}{VERSIONS_ENDING}")


def _let_stand(folder: Path, path: Path) -> None:
    """Make `folder`, which lies beside `path`, the version that `path` stands for."""
    versions = _versions(path)
    versions.mkdir(exist_ok=True)
    version = versions / uuid4().hex
    # A version's time of change tells from when on it may go: now for what is new, and below for what it replaces.
    os.utime(folder)
    folder.rename(version)
    _sync(versions)
    link = path.with_name(f"{TEMPORARY_PREFIX}{version.name}")
    # Relative, so that everything may be moved.
    link.symlink_to(Path(versions.name, version.name))
    if path.exists():
        # Before it is replaced: another writer may remove what was replaced long ago.
        os.utime(path)
    try:
        link.replace(path)
    except IsADirectoryError:
        _take_over(link, path, versions)
    _sync(path.parent)
    for other in versions.iterdir():
        # Another writer may remove it at the same moment.
        with suppress(FileNotFoundError):
            if other.name != standing_folder(path).name and other.stat().st_mtime < time.time() - REPLACED_SECONDS:
                shutil.rmtree(other, ignore_errors=True)


def _take_over(link: Path, path: Path, versions: Path) -> None:
    """Put `link` where a real folder stands, and the folder among the versions."""
    retired = versions / uuid4().hex
    if _exchange(link, path):
        # Another writer may have been first.
        if link.is_symlink():
            link.unlink()
        else:
            link.rename(retired)
        return
    # On a file system that cannot exchange two names there is a moment, this once, in which nothing stands there.
    with suppress(FileNotFoundError):
        path.rename(retired)
    link.replace(path)


def _exchange(one: Path, other: Path) -> bool:
    """Exchange two names in one step, and return whether system and file system can.

    Linux's renameat2 with RENAME_EXCHANGE and macOS's renamex_np with RENAME_SWAP; Python has neither.
    """
    library = ctypes.CDLL(None, use_errno=True)
    names = os.fsencode(one), os.fsencode(other)
    if hasattr(library, "renameat2"):
        in_this_folder, exchange = -100, 2
        return library.renameat2(in_this_folder, names[0], in_this_folder, names[1], exchange) == 0
    if hasattr(library, "renamex_np"):
        swap = 2
        return library.renamex_np(*names, swap) == 0
    return False


def write_json(path: Path, value: Any) -> None:
    """Write `value` to `path` as indented UTF-8 JSON, whole or not at all."""
    with whole_file(path) as unfinished:
        unfinished.write_text(json.dumps(value, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def read_json(path: Path) -> Any:
    return json.loads(path.read_text(encoding="utf-8"))


def open_root(root: str | Path) -> tuple[pyarrow.fs.FileSystem, str]:
    """Return the file system of a cache's root and the path in it.

    Raises:
        InputError: the URL names no file system that pyarrow knows, or one that cannot be reached. What the library
            says is left out where the URL may hold credentials, since it quotes the URL.
    """
    from pyarrow import ArrowException, fs

    if "://" not in str(root):
        return fs.LocalFileSystem(), str(Path(root).absolute())
    try:
        return fs.FileSystem.from_uri(str(root))
    except (OSError, ArrowException) as error:
        secret = "@" in str(root)
        # Without its cause nobody else could tell that the network may be there again.
        fault = UnreachableError if secret and isinstance(error, OSError) else InputError
        raise fault(
            f"'{str(root).partition('://')[0]}://...' cannot be opened as a cache: "
            f"{type(error).__name__ if secret else error}",
            remedy="Give a folder, or a URL such as s3://bucket/prefix?region=eu-west-1",
            # A cause is printed with the stack trace.
        ) from (None if secret else error)


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
