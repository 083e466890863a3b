"""What the README tells a user to write is valid, and the files it links exist."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from finstill.profile import read_profile
from finstill.students.recipe import read_recipes

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]


def test_the_readmes_profile_and_recipes_are_valid(tmp_path: Path) -> None:
    profile, recipes = re.findall(r"```yaml\n(.*?)```", (ROOT / "README.md").read_text(encoding="utf-8"), re.DOTALL)
    (tmp_path / "news.yaml").write_text(profile)
    (tmp_path / "students.yaml").write_text(recipes)
    read = read_profile(tmp_path / "news.yaml")
    assert read.teacher.checkpoint == "ProsusAI/finbert"
    students = read_recipes(read.recipes)
    assert students["lstm-direct"].is_twin_of(students["lstm"])


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_to_files(page: Path) -> None:
    targets = re.findall(r"\]\((?!https?://)([^)#]+)", page.read_text(encoding="utf-8"))
    assert [target for target in targets if not (page.parent / target).exists()] == []


def test_built_in_profiles_and_their_recipes_are_valid() -> None:
    profiles = sorted((ROOT / "pipelines" / "profiles").glob("*.yaml"))
    assert profiles
    for path in profiles:
        assert read_recipes(read_profile(path).recipes)
