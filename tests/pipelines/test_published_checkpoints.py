"""Each checkpoint as it is published teaches a packaged student, or is refused with what to do."""

from __future__ import annotations

import re
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from finstill.serving import StudentClassifier
from finstill.teacher.checkpoint import class_names, load_classifier
from pipelines.failures import step_failure
from tests.pipelines.house import House
from tests.published_checkpoints import (
    NAMELESS,
    PROSUS,
    PUBLISHED,
    bert,
    deberta_v3,
    financial_roberta_large,
    finbert_tone,
    prosus_finbert,
    roberta,
    xlm_roberta,
)

CHINESE = {"negative": "公司{}季度净利润下降", "neutral": "公司在{}号会议室开会", "positive": "公司{}季度净利润上升"}


def refusal(house: House) -> str:
    """Run `label`, which must fail, and return what the step that failed says."""
    result = house.run("label")
    assert not result.success
    return next(step_failure(event)[1] for event in result.all_events if event.is_step_failure)


def distil(house: House) -> StudentClassifier:
    """Run every stage that reads a teacher and return the packaged student."""
    for job, partition in (("label", None), ("distil", "small")):
        house.instance.add_dynamic_partitions("students", ["small"])
        result = house.run(job, partition=partition)
        failed = [check.description for check in result.get_asset_check_evaluations() if not check.passed]
        assert result.success, failed
    return StudentClassifier(house.profile.workspace.package("small"))


def use(house: House, write: Callable[..., None], **options: object) -> None:
    folder = house.root / "teacher"
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    write(folder, **options)
    house.write_profile(folder)


@pytest.mark.parametrize("name", [name for name in PUBLISHED if name not in ("xlm_roberta", "deberta_v3")])
def test_a_published_checkpoint_teaches_a_student(name: str, house: House) -> None:
    use(house, PUBLISHED[name])
    if name == "finbert_tone_chinese":
        house.corpus.joinpath("first.csv").unlink()
        rows = [f"{text.format(i)},{label}\n" for i in range(40) for label, text in CHINESE.items()]
        house.add("first.csv", range(0), "".join(rows))
    student = distil(house)
    (score,) = student.score(["Profit rose 12 percent"])
    assert sorted(score.probabilities) == ["negative", "neutral", "positive"]
    assert house.metadata("tokens")["share_of_tokens_unknown"] < 0.5


@pytest.mark.parametrize("write", [xlm_roberta, deberta_v3], ids=lambda write: write.__name__)
def test_nameless_classes_teach_a_student_by_the_task_that_the_refusal_writes_out(
    write: Callable[[Path], None], house: House
) -> None:
    use(house, write)
    message = refusal(house)
    assert message.count("% with {negative: [LABEL_") == 6
    written = re.search(r"as (task: \{.*\})$", message)
    assert written
    profile = (house.root / "mine.yaml").read_text()
    (house.root / "mine.yaml").write_text(profile.replace("task: sentiment", written[1]))
    assert distil(house).package.labels == ("negative", "neutral", "positive")


@pytest.mark.parametrize(
    "options",
    [
        pytest.param({"dtype": torch.float16}, id="float16"),
        pytest.param({"dtype": torch.bfloat16}, id="bfloat16"),
        pytest.param({"weights": "shards"}, id="shards"),
        pytest.param({"changes": {"num_labels": 2}}, id="num_labels that differs from id2label"),
    ],
)
def test_weights_of_any_kind_are_the_same_classifier(options: dict, tmp_path: Path) -> None:
    whole, other = tmp_path / "whole", tmp_path / "other"
    for folder in (whole, other):
        folder.mkdir()
    prosus_finbert(whole)
    prosus_finbert(other, **options)
    model, expected = load_classifier(other), load_classifier(whole)
    assert class_names(model) == PROSUS
    assert model.dtype == torch.float32
    rounding = torch.finfo(options.get("dtype", torch.float32)).eps
    for name, weights in model.state_dict().items():
        torch.testing.assert_close(weights, expected.state_dict()[name], rtol=rounding, atol=rounding)


def test_512_tokens_are_all_that_514_positions_hold(house: House) -> None:
    use(house, financial_roberta_large)
    profile = (house.root / "mine.yaml").read_text()
    (house.root / "mine.yaml").write_text(profile.replace("max_length: 32", "max_length: 512"))
    house.add("long.csv", range(0), f"{'profit rose ' * 400},positive\n")
    assert house.run("label").success


def test_a_cased_vocabulary_keeps_apple_apart_from_apples(house: House) -> None:
    use(house, PUBLISHED["cased_bert"])
    house.add("more.csv", range(0), "Shares SHARES,neutral\n")
    assert house.run("label").success
    assert house.metadata("tokens")["share_of_tokens_unknown"] < 0.05


@pytest.mark.parametrize(
    ("write", "options", "words"),
    [
        pytest.param(bert, {"classes": ["LABEL_0"]}, r"one number for a text \(a regression\).*classifier", id="score"),
        pytest.param(
            bert,
            {"classes": ["esg", "fls"], "changes": {"problem_type": "multi_label_classification"}},
            r"do not exclude each other \(problem_type: multi_label_classification\).*chooses one class",
            id="several labels a text",
        ),
        pytest.param(
            roberta, {"classes": ["Environmental", "Social", "Governance", "None"]}, r"do not match", id="other task"
        ),
        pytest.param(roberta, {"classes": NAMELESS}, r"say nothing of what the classes mean.*teacher_classes", id="n"),
    ],
)
def test_what_cannot_be_a_teacher_is_refused_with_what_it_is(
    write: Callable[..., None], options: dict, words: str, house: House
) -> None:
    use(house, write, **options)
    assert re.search(words, refusal(house))


def test_a_teacher_with_two_classes_exchanged_stops_the_run_before_a_student_is_trained(house: House) -> None:
    """The first teacher is fine-tuned on the corpus; the second is the same with two names exchanged."""
    use(house, finbert_tone)
    house.add("more.csv", range(40, 300))
    profile = (house.root / "mine.yaml").read_text()
    tune = "fine_tune: {epochs: 4, learning_rate: 5.0e-3}, max_length: 32"
    (house.root / "mine.yaml").write_text(profile.replace("max_length: 32", tune))
    result = house.run("label")
    assert result.success
    (judged,) = [c for c in result.get_asset_check_evaluations() if c.check_name == "teacher_beats_the_majority_class"]
    assert judged.passed, judged.description
    exchanged = house.root / "exchanged"
    shutil.copytree(house.profile.workspace.teacher_checkpoint / "fine_tuned", exchanged)
    config = (exchanged / "config.json").read_text()
    swapped = config.replace("negative", "?").replace("positive", "negative").replace("?", "positive")
    (exchanged / "config.json").write_text(swapped)
    house.write_profile(exchanged)
    result = house.run("label")
    assert not result.success
    (judged,) = [c for c in result.get_asset_check_evaluations() if c.check_name == "teacher_beats_the_majority_class"]
    assert "look exchanged: it says negative for positive, positive for negative" in (judged.description or "")
