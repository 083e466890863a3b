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
