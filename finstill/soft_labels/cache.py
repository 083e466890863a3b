"""The cache of a teacher's logits: plain Parquet, one folder a teacher.

``<root>/<fingerprint>/part-<digest>.parquet`` holds the rows and ``<root>/<fingerprint>/teacher.json`` names the
teacher. The set of rows is what counts: parts may be added, merged or repeated in any order. A part is never changed,
and its name is the BLAKE2b digest of its bytes, so that two runs that write the same rows write the same file, and a
damaged part no longer matches its name.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Sequence
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from pyarrow import fs

from finstill.errors import InputError
from finstill.files import whole_file
from finstill.text import KEY_BYTES

if TYPE_CHECKING:
    import polars as pl

FORMAT_VERSION = 1
DESCRIPTION_FILE = "teacher.json"


def logits_schema(classes: int) -> pa.Schema:
    """Return the columns of a part for a teacher with `classes` classes; logits stand in the teacher's label order."""
    return pa.schema(
        [
            pa.field("key", pa.binary(KEY_BYTES), nullable=False),
            pa.field("logits", pa.list_(pa.float32(), classes), nullable=False),
            pa.field("n_tokens", pa.int32(), nullable=False),
            pa.field("truncated", pa.bool_(), nullable=False),
        ]
    )


class SoftLabelCache:
    """The cached rows of one teacher.

    Args:
        root: a folder, or the URL of a place in an object store that pyarrow knows (``s3://bucket/prefix``,
            ``gs://...``).
        fingerprint: the teacher's; see `finstill.teacher.fingerprint`.
        labels: the teacher's class names, in the order of its logits.

    Raises:
        InputError: the place holds another format's rows, or another label order under this fingerprint.
    """

    def __init__(self, root: str | Path, fingerprint: str, labels: Sequence[str]):
        self._filesystem, base = _open_root(root)
        self._folder = PurePosixPath(base) / fingerprint
        self._where = f"{root}/{fingerprint}"
        self.labels = tuple(labels)
        self.schema = logits_schema(len(self.labels))
        self._describe(fingerprint)

    def parts(self) -> list[str]:
        """Return the paths of all parts in the cache's file system, sorted."""
        listing = self._filesystem.get_file_info(fs.FileSelector(str(self._folder), allow_not_found=True))
        return sorted(
            info.path for info in listing if info.base_name.startswith("part-") and info.extension == "parquet"
        )

    def append(self, rows: pa.Table) -> str:
        """Add `rows` as one part and return its path; when this returns, they are on disk for good.

        Raises:
            InputError: a logit is not finite: the teacher, not the text, is broken, and nothing is written.
            OSError: the disk is full or the place cannot be written to; the cache is as it was.
        """
        rows = rows.cast(self.schema)
        if not np.isfinite(rows["logits"].combine_chunks().flatten().to_numpy()).all():
            raise InputError(
                "the teacher gave a logit that is not finite; the window was not stored", where=self._where
            )
        sink = pa.BufferOutputStream()
        pq.write_table(rows, sink, write_page_checksum=True)
        content = sink.getvalue()
        name = f"part-{hashlib.blake2b(content, digest_size=16).hexdigest()}.parquet"
        return self._put(name, content)

    def unseen(self, keys: pa.ChunkedArray) -> np.ndarray:
        """Return the positions in `keys` of the texts that the cache holds no row of: int64, ascending.

        A text that stands several times in `keys` counts once, at its first position.
        """
        import polars as pl

        wanted = _key_frame(keys).with_row_index("position").unique("key", keep="first")
        missing = wanted.join(self._scan().select("key"), on="key", how="anti")
        return missing.sort("position").collect(engine="streaming")["position"].to_numpy().astype(np.int64)

    def lookup(self, keys: pa.ChunkedArray) -> np.ndarray:
        """Return the logits of `keys` in their order: float32, (keys, classes).

        Raises:
            KeyError: a key has no row.
        """
        import polars as pl

        wanted = _key_frame(keys).with_row_index("position")
        # Parts may repeat a row; all of a key's rows are equal, so any of them will do.
        cached = self._scan().select("key", "logits").unique("key", keep="any")
        found = wanted.join(cached, on="key", how="left").sort("position").collect(engine="streaming")
        if missing := found["logits"].null_count():
            raise KeyError(f"{missing:,} of {len(found):,} texts have no row in {self._where}")
        return found["logits"].cast(pl.Array(pl.Float32, len(self.labels))).to_numpy()

    def _scan(self) -> pl.LazyFrame:
        """Return all rows as a lazy polars frame, keys as binary."""
        import polars as pl

        parts = self.parts()
        if not parts:
            return pl.from_arrow(self.schema.empty_table()).lazy()  # type: ignore[union-attr]
        if isinstance(self._filesystem, fs.LocalFileSystem):
            return pl.scan_parquet(parts, glob=False)
        import pyarrow.dataset as ds

        return pl.scan_pyarrow_dataset(ds.dataset(parts, filesystem=self._filesystem, schema=self.schema))

    def _describe(self, fingerprint: str) -> None:
        description = {"format": FORMAT_VERSION, "fingerprint": fingerprint, "labels": list(self.labels)}
        path = str(self._folder / DESCRIPTION_FILE)
        if self._filesystem.get_file_info(path).type == fs.FileType.NotFound:
            self._put(DESCRIPTION_FILE, json.dumps(description, indent=2).encode())
            return
        with self._filesystem.open_input_stream(path) as stream:
            stored = json.loads(stream.read())
        for field, ours in description.items():
            if stored.get(field) != ours:
                raise InputError(
                    f"its {field} is {stored.get(field)}, and {ours} was expected", where=f"{self._where}/teacher.json"
                )

    def _put(self, name: str, content: bytes | pa.Buffer) -> str:
        """Write one file, whole or not at all, and return its path."""
        path = self._folder / name
        if isinstance(self._filesystem, fs.LocalFileSystem):
            with whole_file(Path(path)) as unfinished:
                unfinished.write_bytes(content)
        else:
            # An object appears when its upload is complete, under its final name.
            with self._filesystem.open_output_stream(str(path)) as stream:
                stream.write(content)
        return str(path)


def _open_root(root: str | Path) -> tuple[fs.FileSystem, str]:
    if "://" not in str(root):
        return fs.LocalFileSystem(), os.path.abspath(root)
    return fs.FileSystem.from_uri(str(root))


def _key_frame(keys: pa.ChunkedArray) -> pl.LazyFrame:
    import polars as pl

    return pl.from_arrow(pa.table({"key": keys})).lazy()  # type: ignore[union-attr]
