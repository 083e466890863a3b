"""Profiles and recipes: what is wrong is named with its line."""

from __future__ import annotations

from pathlib import Path

import pytest

from finstill.config.architectures import LstmAttentionConfig, StaticConfig
from finstill.config.profile import read_profile
from finstill.config.recipe import Recipe, read_recipes
from finstill.errors import InputError

PROFILE = """\
task: risk
corpus:
  path: texts.csv
  label: verdict
  label_names: {0: no_risk, 1: risk}
teacher:
  checkpoint: ProsusAI/finbert
  trained_on: [financial_phrasebank]
recipes: recipes.yaml
"""


def write(folder: Path, content: str, name: str = "mine.yaml") -> Path:
    (folder / name).write_text(content, encoding="utf-8")
    return folder / name


def test_a_profile_is_named_after_its_file_and_its_paths_start_there(tmp_path: Path) -> None:
    profile = read_profile(write(tmp_path, PROFILE))
    assert profile.name == "mine"
    assert profile.corpus.path == str(tmp_path / "texts.csv")
    assert profile.recipes == tmp_path / "recipes.yaml"
    assert profile.corpus.label_names == {"0": "no_risk", "1": "risk"}
    assert profile.task.labels == ("no_risk", "risk")


def test_a_checkpoint_beside_the_profile_goes_before_the_hub(tmp_path: Path) -> None:
    assert read_profile(write(tmp_path, PROFILE)).teacher.checkpoint == "ProsusAI/finbert"
    (tmp_path / "ProsusAI" / "finbert").mkdir(parents=True)
    assert read_profile(write(tmp_path, PROFILE)).teacher.checkpoint == str(tmp_path / "ProsusAI" / "finbert")


def test_a_data_set_in_the_hubs_layout_beside_the_profile_goes_before_the_hub(tmp_path: Path) -> None:
    path = write(tmp_path, PROFILE.replace("path: texts.csv", "hub: someone/texts"))
    assert read_profile(path).corpus.hub == "someone/texts"
    (tmp_path / "someone" / "texts").mkdir(parents=True)
    assert read_profile(path).corpus.hub == str(tmp_path / "someone" / "texts")


def test_an_imported_teachers_tokenizer_may_lie_beside_the_profile(tmp_path: Path) -> None:
    path = write(tmp_path, PROFILE.replace("checkpoint: ProsusAI/finbert", "imported: votes"))
    assert read_profile(path).teacher.starting_checkpoint == "embedded"
    (tmp_path / "encoder").mkdir()
    write(tmp_path, path.read_text().replace("imported: votes", "imported: votes\n  tokenizer: encoder"))
    teacher = read_profile(path).teacher
    assert (teacher.name, teacher.starting_checkpoint) == ("votes", str(tmp_path / "encoder"))


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        (
            "  label: verdict",
            "  lable: verdict",
            r"mine\.yaml, line 4: unknown key 'corpus\.lable'; did you mean 'label'",
        ),
        ("task: risk", "task: mood", r"line 1: .*there is no task 'mood'.*sentiment"),
        ("teacher:", "teacher:\n  max_length: 4", r"line 7: 'teacher\.max_length': .*greater than or equal to 8.*4"),
        ("teacher:", "teacher:\n  precision: float16", r"line 6: 'teacher': 'precision: float16' is for a GPU"),
        ("  path: texts.csv\n", "", r"exactly one of 'path'"),
        ("path: texts.csv", "path: []", r"line 2: 'corpus': 'path' and 'hub' must not be empty"),
        ("path: texts.csv", 'path: ""', r"line 2: 'corpus': 'path' and 'hub' must not be empty"),
        ("path: texts.csv", 'hub: ""', r"line 2: 'corpus': 'path' and 'hub' must not be empty"),
        ("recipes: recipes.yaml\n", "", r"mine\.yaml: 'recipes' is missing"),
        ("  checkpoint: ProsusAI/finbert\n", "", r"line 6: 'teacher': give exactly one of 'checkpoint'.*'imported'"),
        ("checkpoint: ProsusAI/finbert", "imported: votes\n  fine_tune: {}", r"'fine_tune' and 'precision' are for a"),
        (
            "checkpoint: ProsusAI/finbert",
            "imported: votes\n  long: windows",
            r"'long: windows' asks a teacher about parts",
        ),
        ("teacher:", "teacher:\n  tokenizer: embedded", r"'tokenizer' is for an imported teacher"),
        ("teacher:", "teacher:\n  fine_tune:", r"line 7: 'teacher\.fine_tune': it is empty: .* \{\} for its defaults"),
        ("task: risk", "task: risk\ntask: risk", r"line 2: not valid YAML.*duplicate"),
        ("task: risk", "task: [risk", r"not valid YAML"),
        (
            "  label: verdict",
            "  label: verdict\n  split: {by: date, validation_from: 2019-06-31, test_from: 2020-01-01}",
            r"mine\.yaml, line 5: not valid YAML: day is out of range",
        ),
        ("label: verdict", "label: ver\x01dict", r"mine\.yaml, line 4: not valid YAML: the character '\\x01'"),
        ("task: risk", "task: risk\nseed: -1", r"line 2: 'seed': .*greater than or equal to 0.*-1"),
        ("task: risk", "task: risk\nseed: 4294967296", r"line 2: 'seed': .*less than or equal to 4294967276"),
    ],
)
def test_what_is_wrong_in_a_profile_is_named_with_its_line(tmp_path: Path, old: str, new: str, message: str) -> None:
    with pytest.raises(InputError, match=message):
        read_profile(write(tmp_path, PROFILE.replace(old, new)))


def test_labels_that_a_fine_tuned_teacher_would_exchange_are_refused(tmp_path: Path) -> None:
    task = "task: {name: risk, teacher_classes: {risk: [no_risk], no_risk: [risk]}}"
    profile = PROFILE.replace("task: risk", task)
    assert read_profile(write(tmp_path, profile)).task.teacher_classes["risk"] == ("no_risk",)
    tuned = write(tmp_path, profile.replace("teacher:", "teacher:\n  fine_tune: {}"))
    with pytest.raises(InputError, match=r"line 6: 'teacher': with 'fine_tune' its classes are the task's labels"):
        read_profile(tuned)
    assert read_profile(write(tmp_path, PROFILE.replace("teacher:", "teacher:\n  fine_tune: {}"))).task.labels


@pytest.mark.parametrize(
    ("settings", "budget"),
    [
        ("", 512),
        ("  execution_provider: CUDAExecutionProvider\n", 16_384),
        ("  execution_provider: CUDAExecutionProvider\n  token_budget: 64\n", 64),
    ],
)
def test_a_gpu_gets_larger_batches_where_the_profile_does_not_say(tmp_path: Path, settings: str, budget: int) -> None:
    profile = write(tmp_path, PROFILE.replace("teacher:\n", f"teacher:\n{settings}"))
    assert read_profile(profile).teacher.token_budget == budget


def test_a_missing_profile_is_said(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"absent\.yaml: there is no such file"):
        read_profile(tmp_path / "absent.yaml")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("a: {}\nb:\n  alfa: 0.7\n", r"line 3: unknown key 'b\.alfa'; did you mean 'alpha'"),
        ("a:\n  alpha: 1.5\n", r"line 2: 'a\.alpha': .*less than or equal to 1.*1\.5"),
        ("a:\n  temperature: {start: 0}\n", r"line 2: 'a\.temperature\.start': .*greater than 0"),
        (
            "a:\n  temperature: {schedule: constant, end: 2}\n",
            r"line 2: 'a\.temperature': a constant temperature stays at 'start': leave out 'end'",
        ),
        ("a:\n  seed: -1\n", r"line 2: 'a\.seed': .*greater than or equal to 0.*-1"),
        ("a:\n  seed: 4294967296\n", r"line 2: 'a\.seed': .*less than 4294967296"),
        ("a:\n  architecture: {layers: three}\n", r"line 2: 'a\.architecture\.layers': .*valid integer.*three"),
        ("a:\n  student: transformer_xl\n", r"line 2: 'a\.student': .*lstm_attention"),
        ("a:\n  student: static\n  architecture: {layers: 2}\n", r"line 3: unknown key 'a\.architecture\.layers'"),
        (
            "a:\n  student: convolution\n  architecture: {filtres: 2}\n",
            r"unknown key 'a\.architecture\.filtres'; did you mean 'filters'",
        ),
        ("a:\n  architecture: {vocabulary_size: 900}\n", r"line 2: 'a\.architecture': .*say vocabulary: corpus too"),
        ("a:\n  soft_loss: kd\n", r"line 2: 'a\.soft_loss': .*'standardised_kl'.*'kd'"),
        ("a:\n  class_weights: even\n", r"line 2: 'a\.class_weights': write balanced, or .*\{risk: 5\} .*'even'"),
        ("a:\n  class_weights: {risk: 0}\n", r"line 2: 'a\.class_weights': the weight of 'risk' must be .* above 0"),
        (
            "a:\n  alpha: 1\n  class_weights: balanced\n",
            r"line 1: 'a': 'class_weights' weigh the loss of the labels, which alpha: 1 leaves out",
        ),
        ("a|b: {}\n", r"'a\|b' cannot name a recipe"),
        ("{}\n", r"names no recipe"),
    ],
)
def test_what_is_wrong_in_a_recipe_is_named_with_its_line(tmp_path: Path, content: str, message: str) -> None:
    with pytest.raises(InputError, match=message):
        read_recipes(write(tmp_path, content))


def test_class_weights_name_labels_of_the_task(tmp_path: Path) -> None:
    file = write(tmp_path, "a:\n  alpha: 0.5\n  class_weights: {rsik: 5}\n")
    with pytest.raises(InputError, match=r"line 3: 'a\.class_weights': 'rsik' is not one .*\['no_risk', 'risk'\]"):
        read_recipes(file, labels=("no_risk", "risk"))
    write(tmp_path, "a:\n  class_weights: {risk: 5, no_risk: 0.5}\nb: {class_weights: balanced}\n")
    recipes = read_recipes(file, labels=("no_risk", "risk"))
    assert recipes["a"].class_weights == {"risk": 5, "no_risk": 0.5}
    assert recipes["a"].digest == Recipe(class_weights={"no_risk": 0.5, "risk": 5}).digest
    assert recipes["b"] == Recipe.from_stored(recipes["b"].model_dump(mode="json"))


def test_a_twin_is_the_same_recipe_with_alpha_zero(tmp_path: Path) -> None:
    recipes = read_recipes(write(tmp_path, "a: &a {alpha: 0.7, epochs: 3}\nb:\n  <<: *a\n  alpha: 0\nc: {alpha: 0}\n"))
    assert list(recipes) == ["a", "b", "c"]
    assert recipes["b"].is_baseline_of(recipes["a"])
    assert not recipes["c"].is_baseline_of(recipes["a"])
    assert not recipes["a"].is_baseline_of(recipes["b"])


def test_an_architecture_is_its_students_own() -> None:
    assert isinstance(Recipe(student="static").architecture, StaticConfig)
    read = Recipe.model_validate_json(Recipe(student="static", architecture={"hidden_width": 0}).model_dump_json())
    assert read.architecture == StaticConfig(hidden_width=0)
    stored = Recipe(student="static").model_dump(mode="json")
    del stored["architecture"]["pair_width"]
    assert Recipe.from_stored(stored).architecture == StaticConfig(pair_width=0)
    older = Recipe(student="encoder").model_dump(mode="json") | {"student": "transformer", "architecture": {}}
    assert Recipe.from_stored(older).student == "encoder"
    with pytest.raises(ValueError, match="LstmAttentionConfig is not of this student's architecture"):
        Recipe(student="static", architecture=LstmAttentionConfig())


def test_a_stored_recipe_of_a_constant_temperature_is_read_whatever_end_it_has() -> None:
    recipe = Recipe.model_validate({"temperature": {"schedule": "constant", "start": 2}})
    stored = recipe.model_dump(mode="json")
    assert Recipe.model_validate(stored) == Recipe.from_stored(stored) == recipe
    stored["temperature"]["end"] = 4.0
    assert Recipe.from_stored(stored) == recipe


def test_defaults_are_the_designs() -> None:
    recipe = Recipe()
    assert (recipe.alpha, recipe.soft_loss) == (0.7, "kl")
    assert recipe.architecture == LstmAttentionConfig(layers=3, hidden_width=128)
    assert (recipe.temperature.schedule, recipe.temperature.start, recipe.temperature.end) == ("linear", 5, 1)


def test_students_answer_in_the_order_of_the_labels(tmp_path: Path) -> None:
    profile = PROFILE.replace("task: risk", "task: {name: mine, labels: [LABELS]}")
    one, other = (
        read_profile(write(tmp_path, profile.replace("LABELS", labels)))
        for labels in ("no_risk, risk", "risk, no_risk")
    )
    assert one.package_settings != other.package_settings
