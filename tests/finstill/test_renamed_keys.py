"""Settings and files of an older version, which called some keys otherwise: they are read, and the new name is said."""

import logging
import re
from collections.abc import Callable
from pathlib import Path

import pytest
from pydantic import BaseModel
from transformers import PreTrainedModel

from assets.resources import ProfileResource
from finstill.config.profile import read_profile
from finstill.config.recipe import Recipe, read_recipes
from finstill.errors import InputError
from finstill.evaluation.evaluate import StudentEvaluation
from finstill.files import read_json, write_json
from finstill.serving import StudentClassifier
from finstill.serving.package import Package
from finstill.students.registry import load_student
from finstill.teacher.export import TeacherGraph

PROFILE = "task: sentiment\ncorpus: {path: a.csv, text: t}\nrecipes: r.yaml\n"
TEACHER = "teacher: {checkpoint: ProsusAI/finbert}\n"

Reader = Callable[[Path], BaseModel | dict[str, Recipe]]

each_renamed = pytest.mark.parametrize(
    ("read", "text", "value", "old", "new"),
    [
        (
            read_profile,
            PROFILE + TEACHER + "HERE\n",
            "{path: b.csv, label: tone, name: tweets}",
            "other_origin",
            "out_of_domain",
        ),
        (
            read_profile,
            PROFILE + "teacher:\n  checkpoint: a/b\n  HERE\n",
            "[phrasebank]",
            "teacher.seen",
            "teacher.trained_on",
        ),
        (read_profile, PROFILE + TEACHER + "budgets:\n  HERE\n", "0.1", "budgets.divergence", "budgets.kl_to_teacher"),
        (
            read_profile,
            PROFILE + TEACHER + "augmentation:\n  HERE\n",
            "0.3",
            "augmentation.windowed",
            "augmentation.cropped",
        ),
        (read_recipes, "a: &a\n  HERE\nb:\n  <<: *a\n  alpha: 0\n", "{layers: 2}", "shape", "architecture"),
    ],
)


def written(text: str, value: str, *keys: str) -> str:
    """Return `text` with the last part of each key, and its value, on the line of HERE."""
    return re.sub(
        "( *)HERE", lambda found: "\n".join(f"{found[1]}{key.rpartition('.')[2]}: {value}" for key in keys), text
    )


@each_renamed
def test_an_old_key_gives_the_same_settings_and_one_warning(
    read: Reader, text: str, value: str, old: str, new: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    file = tmp_path / "mine.yaml"
    file.write_text(written(text, value, new))
    expected = read(file)
    assert not caplog.records
    file.write_text(written(text, value, old))
    assert read(file) == expected
    # A run reads its settings several times.
    assert read(file) == expected
    (record,) = caplog.records
    assert record.levelno == logging.WARNING
    assert record.name.startswith("finstill.")
    assert record.getMessage().startswith(f"{file}: '{old}' is called '{new}' now")


@each_renamed
def test_a_key_under_both_names_is_refused(
    read: Reader, text: str, value: str, old: str, new: str, tmp_path: Path
) -> None:
    file = tmp_path / "mine.yaml"
    file.write_text(written(text, value, new, old))
    with pytest.raises(InputError, match=rf"line \d+: '(a\.)?{old}' is the old name of '(a\.)?{new}', and both are"):
        read(file)


def test_an_error_below_an_old_key_names_its_line(tmp_path: Path) -> None:
    file = tmp_path / "recipes.yaml"
    file.write_text("a:\n  alpha: 0\n  shape:\n    layers: three\n")
    with pytest.raises(InputError, match=r"line 4: 'a\.architecture\.layers': .*three"):
        read_recipes(file)


def test_a_recipe_that_an_older_tuning_found_is_read(tmp_path: Path) -> None:
    recipe = Recipe.model_validate({"architecture": {"layers": 2}, "alpha": 0.4})
    profile = ProfileResource(path=str(tmp_path / "mine.yaml"), home=str(tmp_path / "home"), cache=str(tmp_path))
    (tmp_path / "mine.yaml").write_text(PROFILE + TEACHER)
    (tmp_path / "r.yaml").write_text("a: {alpha: 0}\n")
    profile.workspace.tuning.mkdir(parents=True)
    stored = recipe.model_dump(mode="json")
    stored["shape"] = stored.pop("architecture")
    write_json(profile.workspace.tuning / "recipe.json", stored)
    assert profile.recipes()["tuned"] == recipe


def test_an_older_evaluation_is_refused(tmp_path: Path) -> None:
    write_json(tmp_path / "evaluation.json", {"student": {}, "teacher": {}})
    with pytest.raises(InputError, match=r"another version .* made this evaluation\. Materialize evaluation again"):
        StudentEvaluation.read(tmp_path)


def test_an_older_teachers_description_is_read(tmp_path: Path) -> None:
    described = {
        "folder": None,
        "fingerprint": "f",
        "labels": ["a", "b"],
        "max_length": 64,
        "precision": "float32",
        "source": "a/b",
        "revision": None,
        "seen": ["phrasebank"],
        "parameters": 5,
    }
    write_json(tmp_path / "teacher.json", described)
    assert TeacherGraph.read(tmp_path).trained_on == ("phrasebank",)


def test_an_older_package_in_service_is_read_and_scores(make_package: Callable[..., Package], tmp_path: Path) -> None:
    folder = make_package().folder
    (expected,) = StudentClassifier(folder).score(["Profit rose"])
    weights: PreTrainedModel = load_student(folder)
    package, config = read_json(folder / "package.json"), read_json(folder / "config.json")
    package["recipe"]["shape"] = package["recipe"].pop("architecture")
    package["measured"]["divergence"] = package["measured"].pop("kl_to_teacher")
    config["shape"] = config.pop("architecture")
    write_json(folder / "package.json", package)
    write_json(folder / "config.json", config)
    assert Package.read(folder).digest == package["digest"]
    assert list(StudentClassifier(folder).score(["Profit rose"])) == [expected]
    assert load_student(folder).config.architecture == weights.config.architecture


def test_students_and_embeddings_of_an_older_version_are_understood() -> None:
    recipe = Recipe.model_validate({"student": "transformer", "architecture": {"layers": [1]}})
    assert (recipe.student, recipe.architecture.checkpoint) == ("encoder", "teacher")
    assert recipe == Recipe(student="encoder", architecture={"checkpoint": "teacher", "layers": (1,)})
    assert Recipe.model_validate({"architecture": {"embedding": "teacher"}}) == Recipe()
