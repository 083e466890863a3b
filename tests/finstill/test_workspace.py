"""Every profile has a folder of its own, and every student one in it, however they are called."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from finstill.config.workspace import Workspace
from finstill.errors import InputError

HOME = Path("/home-of-all")


@given(name=st.text(st.characters(exclude_characters="\0"), max_size=80) | st.text(st.sampled_from("./a~"), max_size=9))
def test_a_profile_of_any_name_stays_in_a_folder_of_its_own(name: str) -> None:
    with suppress(InputError):
        root = Workspace.of_profile(HOME, Path("profiles", f"{name}.yaml")).root
        assert root.parent == HOME
        assert root.name not in ("", ".", "..", "cache")


@given(name=st.text(max_size=80) | st.text(st.sampled_from("./a-"), max_size=9))
def test_a_student_of_any_name_stays_in_its_workspace(name: str) -> None:
    workspace = Workspace(HOME / "mine")
    for folder_of in (workspace.student, workspace.package, workspace.evaluation):
        with suppress(InputError):
            assert folder_of(name).parent == workspace.students / name
            assert Path(name).parts == (name,) != ("..",)


@pytest.mark.parametrize("name", ["cache", "onnxruntime-web-1.30.0", "..", "."])
def test_a_profile_whose_folder_would_be_anothers_is_refused_by_name(name: str) -> None:
    with pytest.raises(InputError, match="cannot name a profile"):
        Workspace.of_profile(HOME, Path(f"{name}.yaml"))


@pytest.mark.parametrize("name", ["../champion", "..", ".", "", "a/b", "Upper", "a\n"])
def test_what_names_no_recipe_names_no_student(name: str) -> None:
    with pytest.raises(InputError, match="cannot name a student"):
        Workspace(HOME).student(name)


def test_two_profiles_of_one_name_do_not_share_a_workspace(tmp_path: Path) -> None:
    here, there = (tmp_path / folder / "mine.yaml" for folder in ("here", "there"))
    for file in (here, there):
        file.parent.mkdir()
        file.write_text("")
    workspace = Workspace.of_profile(tmp_path / "home", here)
    assert Workspace.of_profile(tmp_path / "home", there) == workspace, "nothing was made yet"
    workspace.belongs_to(here)
    assert Workspace.of_profile(tmp_path / "home", here) == workspace
    (tmp_path / "mine.yaml").symlink_to(here)
    assert Workspace.of_profile(tmp_path / "home", tmp_path / "mine.yaml") == workspace, "it is the same file"
    with pytest.raises(InputError, match=r"there/mine\.yaml: in .* lie the artefacts of .*here/mine\.yaml") as caught:
        Workspace.of_profile(tmp_path / "home", there)
    assert "set FINSTILL_HOME to another folder" in str(caught.value)
    here.rename(tmp_path / "moved.yaml")
    assert Workspace.of_profile(tmp_path / "home", there) == workspace, "one that was moved is not another"
