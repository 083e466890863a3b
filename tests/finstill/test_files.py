"""A folder that is replaced is whole at every moment: for its readers, after a kill, and with two writers at once."""

from __future__ import annotations

import os
import shutil
import signal
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from finstill import files
from finstill.files import (
    made_once,
    read_json,
    remove_folder,
    replaced_folders,
    standing_folder,
    whole_file,
    whole_folder,
    write_json,
)
from finstill.packaging import champion
from finstill.packaging.champion import roll_back
from finstill.serving.package import Package

CHANGES = {"ctypes.dlsym", "os.chmod", "os.mkdir", "os.remove", "os.rename", "os.rmdir", "os.symlink", "os.utime"}
"""Audit events that Python raises before it asks the system to change something."""

_before_each_change: dict[int, Callable[[], None]] = {}
"""What is called before each change of a thread, by the thread's identifier."""


def _hook(event: str, _: object) -> None:
    if event in CHANGES and (called := _before_each_change.get(threading.get_ident())):
        called()


sys.addaudithook(_hook)


@pytest.fixture(autouse=True, scope="module")
def _no_sync() -> Iterator[None]:
    """A killed process loses nothing that it gave to the system, so syncing would cost time alone."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(files, "_sync", lambda path: None)
        yield


def write(path: Path, name: str) -> None:
    """Make a folder of two files that belong together."""
    with whole_folder(path) as unfinished:
        for file in ("one", "two"):
            (unfinished / file).write_text(name)


def read(path: Path) -> str:
    """Return the name of the version that stands under a path; both files must be of it."""
    folder = standing_folder(path)
    one, two = ((folder / file).read_text() for file in ("one", "two"))
    assert one == two
    return one


def real_folder(path: Path, name: str) -> None:
    """Make a folder as older versions of Finstill did."""
    path.mkdir()
    for file in ("one", "two"):
        (path / file).write_text(name)


def killed_everywhere(work: Callable[[], None], restore: Callable[[], None]) -> Iterator[None]:
    """Do some work in a process that is killed before its first change, then before its second, until it finishes.

    Yields:
        After each kill; `restore` is called before each start.
    """
    for left in range(1000):
        restore()
        process = os.fork()
        if not process:
            remaining = left

            def count_down() -> None:
                nonlocal remaining
                if not remaining:
                    os.kill(os.getpid(), signal.SIGKILL)
                remaining -= 1

            try:
                _before_each_change[threading.get_ident()] = count_down
                work()
            finally:
                os._exit(0)
        _, status = os.waitpid(process, 0)
        yield
        if not os.WIFSIGNALED(status):
            assert left > 5, "the work was never cut off"
            return
    pytest.fail("the work does not end")


def test_others_read_a_folder_whatever_its_files_were_made_with(tmp_path: Path) -> None:
    with whole_folder(tmp_path / "package") as unfinished:
        (unfinished / "inner").mkdir(mode=0o700)
        (unfinished / "inner" / "weights").touch(mode=0o600)
    modes = [path.stat().st_mode & 0o777 for path in (tmp_path / "package").rglob("*")]
    assert sorted(modes) == [0o644, 0o755]


@pytest.fixture
def _own_group_reads() -> Iterator[None]:
    before = os.umask(0o027)
    yield
    os.umask(before)


@pytest.mark.usefixtures("_own_group_reads")
def test_what_is_published_is_read_by_whom_the_umask_lets(tmp_path: Path) -> None:
    write(tmp_path / "folder", "new")
    write_json(tmp_path / "file", {})
    paths = tmp_path / "file", tmp_path / "folder", tmp_path / "folder" / "one"
    assert [path.stat().st_mode & 0o777 for path in paths] == [0o640, 0o750, 0o640]


@pytest.mark.parametrize("mode", [0o600, 0o664, 0o444])
def test_a_file_that_is_replaced_keeps_its_mode(tmp_path: Path, mode: int) -> None:
    path = tmp_path / "file"
    path.touch()
    path.chmod(mode)
    with whole_file(path) as unfinished:
        assert not unfinished.stat().st_mode & 0o077 & ~mode, "nobody reads it unfinished who may not read it"
        unfinished.write_text("new")
    assert path.stat().st_mode & 0o777 == mode
    assert path.read_text() == "new"


@pytest.mark.parametrize("was", ["a link", "a real folder", "a real folder where names cannot be exchanged"])
def test_a_kill_at_any_moment_leaves_one_whole_folder(
    tmp_path: Path, was: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "place" / "folder"
    if "cannot" in was:
        monkeypatch.setattr(files, "_exchange", lambda one, other: False)

    def restore() -> None:
        shutil.rmtree(path.parent, ignore_errors=True)
        path.parent.mkdir()
        if was == "a link":
            write(path, "old")
        else:
            real_folder(path, "old")

    found, gaps = [], 0
    for _ in killed_everywhere(lambda: write(path, "new"), restore):
        if path.exists():
            found.append(read(path))
        else:
            gaps += 1
        write(path, "newer")
        assert read(path) == "newer"
    assert set(found) == {"old", "new"}
    assert found == sorted(found, reverse=True), "once it is new it stays so"
    assert gaps <= (1 if "cannot" in was else 0)


class Killed(BaseException):
    """Raised before each change from some moment on: to the file system, the writer is dead."""


class Writer(threading.Thread):
    """A thread that stops before each change until it is let go on."""

    def __init__(self, work: Callable[[], None]):
        super().__init__(daemon=True)
        self.killed = self.finished = False
        self._work, self._turn, self._stopped = work, threading.Semaphore(0), threading.Semaphore(0)
        self.start()
        self._stopped.acquire()

    def run(self) -> None:
        _before_each_change[threading.get_ident()] = self._wait
        try:
            self._work()
        except Killed:
            pass
        finally:
            del _before_each_change[threading.get_ident()]
            self.finished = True
            self._stopped.release()

    def _wait(self) -> None:
        if not self.killed:
            self._stopped.release()
            self._turn.acquire()
        if self.killed:
            raise Killed

    def step(self, kill: bool = False) -> None:
        """Let it make one change, or die."""
        if not self.finished:
            self.killed = kill
            self._turn.release()
            self._stopped.acquire()


@given(
    turns=st.lists(st.booleans(), max_size=60),
    killed_after=st.integers(0, 40),
    was=st.sampled_from(["nothing", "a link", "a real folder"]),
)
@settings(max_examples=150)
def test_any_interleaving_of_two_writers_and_a_kill_leaves_one_whole_folder(
    turns: list[bool], killed_after: int, was: str
) -> None:
    with tempfile.TemporaryDirectory() as name:
        path = Path(name) / "folder"
        if was == "a link":
            write(path, "old")
        elif was == "a real folder":
            real_folder(path, "old")
        writers = [Writer(lambda: write(path, "first")), Writer(lambda: write(path, "second"))]
        steps = 0
        while not all(writer.finished for writer in writers):
            which = turns.pop() if turns else writers[0].finished
            writers[which].step(kill=which is True and steps >= killed_after)
            steps += which
            # At every moment, not at the end alone.
            if was != "nothing":
                assert read(path) in ("old", "first", "second")
        for writer in writers:
            writer.join()
        assert read(path) in ("first", "second"), "one of the writers was not killed"
        write(path, "last")
        assert read(path) == "last"


def test_a_reader_of_several_files_has_them_of_one_version(tmp_path: Path) -> None:
    path = tmp_path / "folder"
    write(path, "old")
    reading = standing_folder(path)
    one = (reading / "one").read_text()
    write(path, "new")
    write(path, "newer")
    assert (reading / "two").read_text() == one == "old"
    assert read(path) == "newer"


def test_what_was_replaced_goes_a_day_later_and_not_before(tmp_path: Path) -> None:
    path, beside = tmp_path / "folder", tmp_path / "folder-two"
    write(beside, "beside")
    write(path, "first")
    first = standing_folder(path)
    os.utime(first, (0, 0))
    write(path, "second")
    assert first.is_dir(), "it is old, and was replaced just now"
    second = standing_folder(path)
    assert list(replaced_folders(tmp_path)) == [first]
    long_ago = time.time() - files.REPLACED_SECONDS - 1
    os.utime(first, (long_ago, long_ago))
    write(path, "third")
    assert not first.exists()
    assert list(replaced_folders(tmp_path)) == [second]
    remove_folder(path)
    assert sorted(each.name for each in tmp_path.iterdir()) == [".folder-two.versions", "folder-two"]
    assert read(beside) == "beside"


def test_everything_may_be_moved_and_copied(tmp_path: Path) -> None:
    write(tmp_path / "here" / "folder", "old")
    (tmp_path / "here").rename(tmp_path / "there")
    assert read(tmp_path / "there" / "folder") == "old"
    shutil.copytree(tmp_path / "there", tmp_path / "copy")
    write(tmp_path / "copy" / "folder", "new")
    assert read(tmp_path / "copy" / "folder") == "new"
    assert read(tmp_path / "there" / "folder") == "old"


class TestChampion:
    """Each package has its name in a second file too, in the place of its graph."""

    def package(self, folder: Path, name: str) -> Package:
        with whole_folder(folder) as unfinished:
            (unfinished / "model.onnx").write_text(name)
            values = {"name": name, "task": "sentiment", "labels": ["a", "b"], "max_length": 8, "teacher": "t"}
            values |= {"corpus": "c", "recipe": {}, "parameters": 1, "temperature": None, "measured": {}}
            write_json(unfinished / "package.json", values | {"digest": f"digest of {name}"})
        return Package.read(folder)

    def in_service(self, folder: Path, which: str = "current") -> str:
        package = Package.read(folder / which)
        assert package.graph_of("float32").read_text() == package.name
        return package.name

    @pytest.fixture
    def folder(self, tmp_path: Path) -> Path:
        for name in ("first", "second", "third"):
            self.package(tmp_path / name, name)
        return tmp_path / "champion"

    def promote(self, folder: Path, *names: str) -> None:
        for name in names:
            champion._promote(Package.read(folder.parent / name), folder, "a test says so")

    def restore(self, folder: Path) -> None:
        shutil.rmtree(folder, ignore_errors=True)
        self.promote(folder, "first", "second")

    def test_a_promotion_that_is_killed_leaves_one_whole_champion(self, folder: Path) -> None:
        found = set()
        for _ in killed_everywhere(lambda: self.promote(folder, "third"), lambda: self.restore(folder)):
            found.add(self.in_service(folder))
            if self.in_service(folder) != "third":
                self.promote(folder, "third")
            assert self.in_service(folder) == "third"
            assert self.in_service(folder, "previous") == "second"
        assert found == {"second", "third"}

    def test_a_roll_back_that_is_killed_leaves_one_whole_champion_and_the_next_ends_it(self, folder: Path) -> None:
        found = set()
        for _ in killed_everywhere(lambda: roll_back(folder) and None, lambda: self.restore(folder)):
            found.add(self.in_service(folder))
            if (folder / "replaced").is_dir() or self.in_service(folder) == "second":
                decision = roll_back(folder)
                assert decision.champion == "first"
            assert self.in_service(folder) == "first"
            assert self.in_service(folder, "previous") == "second"
            assert read_json(folder / "withdrawn.json") == ["digest of second"]
        assert found == {"first", "second"}
        assert roll_back(folder).champion == "second"
        assert read_json(folder / "withdrawn.json") == ["digest of first"]

    def test_a_promotion_after_a_roll_back_that_was_killed_starts_afresh(self, folder: Path) -> None:
        for _ in killed_everywhere(lambda: roll_back(folder) and None, lambda: self.restore(folder)):
            before = self.in_service(folder)
            self.promote(folder, "third")
            assert roll_back(folder).champion == before

    @given(turns=st.lists(st.booleans(), max_size=150), killed_after=st.integers(0, 90))
    @settings(max_examples=50)
    def test_two_promotions_at_once_and_a_kill_leave_one_whole_champion(
        self, turns: list[bool], killed_after: int
    ) -> None:
        with tempfile.TemporaryDirectory() as name:
            folder = Path(name) / "champion"
            for each in ("first", "second", "third"):
                self.package(Path(name) / each, each)
            self.promote(folder, "first")
            writers = [Writer(lambda: self.promote(folder, "second")), Writer(lambda: self.promote(folder, "third"))]
            steps = 0
            while not all(writer.finished for writer in writers):
                which = turns.pop() if turns else writers[0].finished
                writers[which].step(kill=which is True and steps >= killed_after)
                steps += which
                assert self.in_service(folder) in ("first", "second", "third")
            assert self.in_service(folder) in ("second", "third")
            assert self.in_service(folder, "previous") in ("first", "second", "third")


def test_who_wants_the_same_file_waits_and_others_do_not(tmp_path: Path) -> None:
    both_write, written = threading.Barrier(2, timeout=20), []

    def make(name: str) -> str:
        def write(unfinished: Path) -> None:
            both_write.wait()
            written.append(name)
            unfinished.write_text(name)

        return made_once(tmp_path / "made" / name, write).read_text()

    with ThreadPoolExecutor(4) as pool:
        assert list(pool.map(make, ["a", "b", "a", "b"])) == ["a", "b", "a", "b"]
    assert sorted(written) == ["a", "b"]
