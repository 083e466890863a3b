"""What the README tells a user to write is valid, and the files it links exist."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from finstill.config.profile import read_profile
from finstill.config.recipe import read_recipes
from finstill.preflight.new import write_new_profile

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]


def test_the_readmes_profile_is_what_finstill_new_writes(tmp_path: Path) -> None:
    (shown,) = re.findall(r"```yaml\n(.*?)```", (ROOT / "README.md").read_text(encoding="utf-8"), re.DOTALL)
    rows = "".join(f"Größe {i}, so die Firma;{mood}\n" for i in range(5) for mood in ("Bearish", "Bullish", "neutral"))
    (tmp_path / "headlines.csv").write_text(f"Headline;Mood\n{rows}", encoding="windows-1252")
    path, recipes = write_new_profile([tmp_path / "headlines.csv"], "ProsusAI/finbert", tmp_path / "headlines.yaml")
    written = path.read_text(encoding="utf-8")
    assert "".join(line for line in written.splitlines(keepends=True) if not line.startswith("#")) == shown
    students = read_recipes(recipes)
    assert students["lstm-baseline"].is_baseline_of(students["lstm"])


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_to_files(page: Path) -> None:
    targets = re.findall(r"\]\((?!https?://)([^)#]+)", page.read_text(encoding="utf-8"))
    assert [target for target in targets if not (page.parent / target).exists()] == []


def test_built_in_profiles_and_their_recipes_are_valid() -> None:
    profiles = sorted((ROOT / "pipelines" / "profiles").glob("*.yaml"))
    assert profiles
    for path in profiles:
        assert read_recipes(read_profile(path).recipes)
