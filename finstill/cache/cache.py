"""The cache of a teacher's logits: plain Parquet, one folder a teacher.

``<root>/<fingerprint>/part-<digest>.parquet`` holds the rows and ``<root>/<fingerprint>/teacher.json`` names the
teacher. The set of rows is what counts: parts may be added, merged or repeated in any order. ``docs/cache.md``
describes the format for other readers.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import Any, TypeVar

import numpy as np
import pyarrow as pa
import pyarrow.dataset as ds
from pyarrow import fs

from finstill.cache.joins import absent_positions, cached_logits
from finstill.cache.part import PART_FORMAT, decode_part, encode_part, finite_rows, logits_schema
from finstill.errors import InputError
from finstill.files import open_root, whole_file

FORMAT_VERSION = 1
DESCRIPTION_FILE = "teacher.json"

KEYS_NAMED = 3

STORE_ERRORS = ("AWS Error", "google::cloud::Status", "Azure Error")
"""What an error of an object store says in pyarrow; it has no number, as errors of a damaged file have none."""

Answer = TypeVar("Answer")


class DamagedPartError(InputError):
    """A part of a cache must not be read.

    Args:
        part: its path in the cache's file system.
        problem: what is wrong with it.
        place: its path, for people.
    """

    def __init__(self, part: str, problem: str, place: str):
        super().__init__(
            f"this part of the cache is damaged: {problem}",
            where=place,
            remedy="Run `finstill cache verify --quarantine` to set it aside; the next run labels its texts again, or "
            "import them again where the teacher is imported",
        )
        self.part = part
        self.problem = problem
        self.place = place


class SoftLabelCache:
    """The cached rows of one teacher.

    Args:
        root: a folder, or the URL of a place in an object store that pyarrow knows (``s3://bucket/prefix``,
            ``gs://...``; `pyarrow.fs.FileSystem.from_uri` lists the options of each).
        fingerprint: the teacher's; see `finstill.teacher.fingerprint`.
        labels: the teacher's class names, in the order of its logits.
        about: what people want to know of the teacher (source, revision, maximum length, precision). It is written
            once, with the first row's folder, and never compared.

    Raises:
        InputError: the root cannot be opened, or holds another format's rows or another label order under this
            fingerprint.
    """

    def __init__(
        self, root: str | Path, fingerprint: str, labels: Sequence[str], about: Mapping[str, str] | None = None
    ):
        self.filesystem, base = open_root(root)
        self.fingerprint = fingerprint
        self.labels = tuple(labels)
        self.folder = PurePosixPath(base) / fingerprint
        self.schema = logits_schema(len(self.labels))
        self._describe(about or {})

    @classmethod
    def open(cls, root: str | Path, fingerprint: str) -> SoftLabelCache:
        """Return the cache of a teacher whose folder exists, with the labels it was made with.

        Raises:
            InputError: there is no such folder.
        """
        filesystem, base = open_root(root)
        return cls(root, fingerprint, _read_description(filesystem, PurePosixPath(base) / fingerprint)["labels"])

    @property
    def where(self) -> str:
        """The folder, for people: an object store's without the credentials that its URL may carry."""
        return self._place(self.folder)

    def description(self) -> dict[str, Any]:
        """Return what ``teacher.json`` says: format, fingerprint, labels and about."""
        return _read_description(self.filesystem, self.folder)

    def part_files(self) -> list[fs.FileInfo]:
        """Return path, size and time of every part, sorted by path."""
        listing = self._list()
        # A listing made while a compaction swaps parts may hold neither the old ones nor the new. The next one holds
        # the new, so that two listings in a row with the same parts are complete.
        while (again := self._list()).keys() != listing.keys():
            listing = again
        return list(again.values())

    def parts(self) -> list[str]:
        """Return the paths of all parts in the cache's file system, sorted."""
        return [info.path for info in self.part_files()]

    def append(self, rows: pa.Table) -> str:
        """Add `rows` as one part and return its path; when this returns, they are stored for good.

        Raises:
            InputError: a logit is not finite: the other rows are stored, and the keys of these named; or the disk is
                full or the place cannot be written to, and the cache is as it was.
        """
        rows = rows.cast(self.schema)
        finite = finite_rows(rows)
        if finite.all():
            return self.put(*encode_part(rows))
        if finite.any():
            self.put(*encode_part(rows.filter(pa.array(finite))))
        keys = rows["key"].filter(pa.array(~finite))
        named = ", ".join(key.hex() for key in keys[:KEYS_NAMED].to_pylist())
        raise InputError(
            f"the teacher gave {len(keys):,} of {len(rows):,} texts logits that are not finite, and the others are "
            f"stored; the first of these texts have the keys {named}",
            where=self.where,
            remedy="float16 overflows beyond 65,504: set teacher.precision to float32. In another precision the "
            "teacher is broken",
        )

    def unseen(self, keys: pa.ChunkedArray) -> np.ndarray:
        """Return the positions in `keys` of the texts that the cache holds no row of: int64, ascending.

        A text that stands several times in `keys` counts once, at its first position.

        Raises:
            DamagedPartError: a part is damaged.
        """
        return self.query(lambda cached: absent_positions(keys, cached))

    def lookup(self, keys: pa.ChunkedArray) -> np.ndarray:
        """Return the logits of `keys` in their order: float32, (keys, classes).

        Raises:
            KeyError: a key has no row.
            DamagedPartError: a part is damaged.
        """
        logits, found = self.query(lambda cached: cached_logits(keys, cached, len(self.labels)))
        if not found.all():
            raise KeyError(f"{len(found) - found.sum():,} of {len(found):,} texts have no row in {self.where}")
        return logits

    def query(self, ask: Callable[[ds.Dataset], Answer]) -> Answer:
        """Return what `ask` makes of all rows.

        A compaction may remove a part between its listing and its reading: `ask` then starts again, on the new parts.

        Raises:
            DamagedPartError: a part is damaged.
            OSError: the disk or the object store failed.
        """
        while True:
            parts = self.parts()
            try:
                return ask(self.dataset(parts))
            except FileNotFoundError:
                # Whatever a listing says now: a part is named by its content, so one that was merged away and written
                # again stands there under its old name.
                continue
            except (OSError, pa.ArrowException) as error:
                if set(parts) <= set(self.parts()):
                    self.raise_if_damaged(parts, error)
                    raise

    def dataset(self, parts: Sequence[str]) -> ds.Dataset:
        """Return the rows of `parts`, in their order."""
        return ds.FileSystemDataset.from_paths(
            list(parts), schema=self.schema, format=PART_FORMAT, filesystem=self.filesystem
        )

    def read_part(self, part: str) -> pa.Table | None:
        """Return the rows of a part, each byte checked; None where a compaction has removed it.

        Raises:
            DamagedPartError: it must not be read.
        """
        try:
            with self.filesystem.open_input_file(part) as file:
                content = file.read_buffer()
        except FileNotFoundError:
            return None
        try:
            return decode_part(part, content, self.schema)
        except ValueError as error:
            raise DamagedPartError(part, str(error), self._place(part)) from error

    def put(self, name: str, content: bytes | pa.Buffer) -> str:
        """Write one file, whole or not at all, and return its path.

        Raises:
            InputError: the place cannot be written to; the cache is as it was.
        """
        path = self.folder / name
        try:
            if isinstance(self.filesystem, fs.LocalFileSystem):
                with whole_file(Path(path)) as unfinished:
                    unfinished.write_bytes(content)
            else:
                # An object appears when its upload is complete, under its final name.
                with self.filesystem.open_output_stream(str(path)) as stream:
                    stream.write(content)
        except OSError as error:
            raise InputError(
                f"{len(content):,} bytes could not be written ({error.strerror or error}), and the cache is as it was",
                where=self.where,
                remedy="Free space or mend the permissions there, and run again: what is stored is not labelled twice",
            ) from error
        return str(path)

    def raise_if_damaged(self, parts: Sequence[str], error: Exception) -> None:
        """Check every byte of `parts`, where `error` may come of their content: one of a disk or a store does not.

        Raises:
            DamagedPartError: names the first that is damaged.
        """
        if isinstance(error, OSError) and (error.errno is not None or any(name in str(error) for name in STORE_ERRORS)):
            return
        for part in parts:
            self.read_part(part)

    def _list(self) -> dict[str, fs.FileInfo]:
        listing = self.filesystem.get_file_info(fs.FileSelector(str(self.folder), allow_not_found=True))
        parts = [info for info in listing if info.is_file and PurePosixPath(info.path).match("part-*.parquet")]
        return {info.path: info for info in sorted(parts, key=lambda info: info.path)}

    def _place(self, path: str | PurePosixPath) -> str:
        local = isinstance(self.filesystem, fs.LocalFileSystem)
        return str(path) if local else f"{self.filesystem.type_name}://{path}"

    def _describe(self, about: Mapping[str, str]) -> None:
        """Write ``teacher.json`` where there is none, and compare what it says with what was expected."""
        expected = {"format": FORMAT_VERSION, "fingerprint": self.fingerprint, "labels": list(self.labels)}
        path = str(self.folder / DESCRIPTION_FILE)
        if self.filesystem.get_file_info(path).type == fs.FileType.NotFound:
            content = json.dumps({**expected, "about": dict(about)}, indent=2, ensure_ascii=False) + "\n"
            self.put(DESCRIPTION_FILE, content.encode())
        # Read back even so: another run may have written it at the same time.
        stored = self.description()
        for field, ours in expected.items():
            if stored.get(field) != ours:
                raise InputError(
                    f"its {field} is {stored.get(field)}, and {ours} was expected",
                    where=self._place(path),
                    remedy="Another teacher or version wrote it: keep it, and set FINSTILL_CACHE to another folder",
                )


def teachers(root: str | Path) -> list[str]:
    """Return the fingerprints of all teachers that have a folder in `root`, sorted."""
    filesystem, base = open_root(root)
    folders = filesystem.get_file_info(fs.FileSelector(base, allow_not_found=True))
    descriptions = filesystem.get_file_info([f"{folder.path}/{DESCRIPTION_FILE}" for folder in folders])
    return sorted(
        folder.base_name
        for folder, description in zip(folders, descriptions, strict=True)
        if description.type == fs.FileType.File
    )


def _read_description(filesystem: fs.FileSystem, folder: PurePosixPath) -> dict[str, Any]:
    path = str(folder / DESCRIPTION_FILE)
    try:
        with filesystem.open_input_stream(path) as stream:
            return json.loads(stream.read())
    except FileNotFoundError as error:
        raise InputError(
            f"there is no {DESCRIPTION_FILE}: no teacher's cache",
            where=str(folder),
            remedy="`finstill cache ls` names the teachers that are there",
        ) from error
    except ValueError as error:
        raise InputError(f"it is not JSON ({error})", where=path) from error
