"""Dropped files join the corpus whole, each once, and none is lost to a copy that failed."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from pyarrow import fs

from finstill.config.profile import CorpusSource
from finstill.corpus import arrivals
from finstill.corpus.arrivals import Taken, Watched, take, watch
from finstill.errors import InputError


class Place:
    """A drop, the folders of a corpus and of its corrections, and the list of what was taken."""

    def __init__(self, root: Path):
        self.drop, self.corpus, self.taken = root / "drop", root / "corpus", root / "taken.json"
        self.corrections = root / "corrections"
        self.drop.mkdir()
        self.source = CorpusSource(path=str(self.corpus))

    def watch(self, waiting: dict[str, str] | None = None) -> Watched:
        return watch(str(self.drop), waiting or {}, self.source, self.taken, self.corrections)

    def ready(self) -> dict[str, str]:
        """Look twice."""
        return dict(self.watch(dict(self.watch().waiting)).ready)

    def take(self, files: dict[str, str]) -> Taken:
        return take(str(self.drop), files, self.source, self.taken, self.corrections)


@pytest.fixture
def place(tmp_path: Path) -> Place:
    return Place(tmp_path)


@pytest.mark.parametrize(
    ("name", "ending"),
    [("ä" * 120 + ".csv", ".csv"), ("b" * 248 + ".csv.gz", ".csv.gz"), ("x." + "y" * 240 + ".jsonl", ".jsonl")],
)
def test_a_name_that_leaves_no_room_for_its_mark_is_cut(place: Place, name: str, ending: str) -> None:
    (place.drop / name).write_text("text\nx\n")
    (copy,) = place.take(place.ready()).copies
    assert copy.read_text() == "text\nx\n"
    assert copy.name.endswith(ending)
    assert copy.name[0] == name[0]
    assert place.ready() == {}


def test_a_name_that_is_not_utf_8_ends_no_look(place: Place) -> None:
    try:
        (place.drop / os.fsdecode(b"caf\xe9.csv")).write_text("text\nx\n")
    except OSError:
        pytest.skip("this file system takes no such name")
    (place.drop / "b.csv").write_text("text\nx\n")
    assert list(place.ready()) == ["b.csv"]


def test_links_are_passed_over(place: Place, tmp_path: Path) -> None:
    """The service may read what whoever drops a link may not."""
    secret = tmp_path / "secret"
    secret.mkdir()
    (secret / "s.csv").write_text("text\nsecret\n")
    (place.drop / "link.csv").symlink_to(secret / "s.csv")
    (place.drop / "folder").symlink_to(secret)
    (place.drop / "b.csv").write_text("text\nx\n")
    assert list(place.ready()) == ["b.csv"]


def test_a_link_that_takes_a_file_s_place_is_not_followed(
    place: Place, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """At the last moment: after the file was looked at, and before it is opened."""
    file, secret = place.drop / "a.csv", tmp_path / "secret.csv"
    file.write_text("text\nx\n")
    secret.write_text("text\ny\n")
    ready, really_open = place.ready(), arrivals._open

    def open_later(filesystem, path: str):  # type: ignore[no-untyped-def]
        file.unlink()
        file.symlink_to(secret)
        return really_open(filesystem, path)

    monkeypatch.setattr(arrivals, "_open", open_later)
    with pytest.raises(OSError, match="symbolic links"):
        place.take(ready)
    assert list(place.corpus.glob("*")) == []


def test_only_what_a_look_lists_is_taken(place: Place, tmp_path: Path) -> None:
    outside = tmp_path / "outside.csv"
    outside.write_text("text\nx\n")
    (place.drop / "link.csv").symlink_to(outside)
    for name in ("../outside.csv", str(outside), "link.csv"):
        with pytest.raises(InputError, match="is one that is passed over"):
            place.take({name: ""})
    assert not place.corpus.exists()


def test_marks_are_those_that_arrow_tells(place: Place) -> None:
    """Lists of what was taken, and copies, are older than the look of our own."""
    (place.drop / "a.csv").write_text("text\nx\n")
    told = fs.LocalFileSystem().get_file_info(str(place.drop / "a.csv"))
    assert place.ready() == {"a.csv": f"{told.size}-{told.mtime_ns}"}


def test_what_was_taken_is_not_taken_again(place: Place) -> None:
    (place.drop / "a.csv").write_text("text\nx\n")
    ready = place.ready()
    assert list(ready) == ["a.csv"]
    (copy,) = place.take(ready).copies
    assert copy.read_text() == "text\nx\n"
    assert place.ready() == {}
    assert list(place.watch().taken) == ["a.csv"]


def test_files_in_hidden_folders_and_those_of_unfinished_writers_are_not_taken(place: Place) -> None:
    for name in ("_temporary/0/part-0.csv", ".staging/x.jsonl", "_delta_log/000.json", "day/_x.csv", "day/x.csv"):
        (place.drop / name).parent.mkdir(parents=True, exist_ok=True)
        (place.drop / name).write_text("text\nx\n")
    assert list(place.ready()) == ["day/x.csv"]


def test_a_copy_that_a_person_mended_stays_as_it_is_and_one_that_was_removed_stays_away(place: Place) -> None:
    (place.drop / "a.csv").write_text("text\nx\n")
    ready = place.ready()
    (copy,) = place.take(ready).copies
    copy.write_text("text\nmended\n")
    place.take(ready)
    assert copy.read_text() == "text\nmended\n"
    copy.unlink()
    assert place.ready() == {}
    (place.drop / "b.csv").write_text("text\ny\n")
    place.take(place.ready())
    assert place.ready() == {}, "the list has those of before too"


def test_a_copy_counts_where_the_list_was_never_written(place: Place) -> None:
    """A run that was killed between the two."""
    (place.drop / "a.csv").write_text("text\nx\n")
    place.take(place.ready())
    place.taken.unlink()
    assert place.ready() == {}


def test_after_a_copy_that_failed_the_file_is_ready_again_and_the_others_are_taken(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("a.csv", "b.csv"):
        (place.drop / name).write_text("text\nx\n")

    def full(source: object, copy: object, length: int) -> None:
        if "b" in names:
            raise OSError(28, "No space left on device")
        names.append("b")
        real(source, copy, length)

    names: list[str] = []
    real = arrivals.shutil.copyfileobj
    with monkeypatch.context() as patch:
        patch.setattr(arrivals.shutil, "copyfileobj", full)
        with pytest.raises(OSError, match="No space left"):
            place.take(place.ready())
    assert list(place.ready()) == ["b.csv"]
    assert [file.name[0] for file in place.corpus.iterdir()] == ["a"], "nothing torn, and nothing unfinished"


@pytest.mark.parametrize("when", ["before the copy", "while it is copied", "after it was copied"])
def test_a_file_that_is_rewritten_is_left_for_the_next_look(
    place: Place, when: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its size is the same each time, as that of a table with fixed widths: the time of change tells."""
    file = place.drop / "a.csv"
    file.write_text("text\nold old old\n")
    ready = place.ready()

    def rewrite() -> None:
        file.write_text("text\nnew new new\n")
        os.utime(file, ns=(1, 1))

    def copy_around(source, copy, length: int) -> None:  # type: ignore[no-untyped-def]
        copy.write(source.read(8))
        if when == "while it is copied":
            rewrite()
        copy.write(source.read())
        if when == "after it was copied":
            rewrite()

    with monkeypatch.context() as patch:
        if when == "before the copy":
            rewrite()
        else:
            patch.setattr(arrivals.shutil, "copyfileobj", copy_around)
        assert place.take(ready) == Taken([], ["a.csv"])
    assert list(place.corpus.glob("*")) == []
    (copy,) = place.take(place.ready()).copies
    assert copy.read_text() == "text\nnew new new\n"


def test_a_review_that_was_filled_in_joins_the_corrections_and_not_the_texts(place: Place) -> None:
    (place.drop / "label_review (2).csv").write_text("key,label\n")
    (place.drop / "a.csv").write_text("text\nx\n")
    place.take(place.ready())
    assert [file.read_text() for file in place.corrections.iterdir()] == ["key,label\n"]
    assert [file.read_text() for file in place.corpus.iterdir()] == ["text\nx\n"]
    place.taken.unlink()
    assert place.ready() == {}, "both copies count"


def test_what_is_no_longer_in_the_drop_is_forgotten(place: Place) -> None:
    for name in ("a.csv", "b.csv"):
        (place.drop / name).write_text("text\nx\n")
        place.take(place.ready())
    (place.drop / "a.csv").unlink()
    place.take({})
    assert '"b.csv"' in place.taken.read_text()
    assert '"a.csv"' not in place.taken.read_text()


def test_a_file_that_is_gone_is_named(place: Place) -> None:
    with pytest.raises(InputError, match=r"gone\.csv: this file is no longer in the drop"):
        place.take({"gone.csv": "1-1"})


@pytest.mark.parametrize("source", [{"hub": "owner/name"}, {"path": "embedded"}, {"path": ("a.csv", "b.csv")}])
def test_a_drop_beside_a_corpus_that_is_no_folder_is_refused_at_the_first_look(place: Place, source: dict) -> None:
    (place.drop / "a.csv").write_text("text\nx\n")
    with pytest.raises(InputError, match="join a corpus that is a folder, and this one is not"):
        watch(str(place.drop), {}, CorpusSource(**source), place.taken, place.corrections)
