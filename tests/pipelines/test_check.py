"""`finstill check` tells beforehand what a run then does, and writes nothing."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from finstill.cli import main
from tests.pipelines.house import House
from tests.published_checkpoints import finbert_tone_chinese, roberta, xlm_roberta
from tests.tiny_corpus import csv_rows


def check(house: House) -> tuple[int, dict]:
    """Run the command on the house's profile; return its exit status and the JSON that it wrote."""
    path = house.root / "report.json"
    status = main(["check", str(house.root / "mine.yaml"), "--json", str(path), "--home", str(house.root / "home")])
    return status, json.loads(path.read_text())


def told(report: dict, severity: str) -> list[str]:
    return [problem["message"] for problem in report["problems"] if problem["severity"] == severity]


def files(folder: Path) -> list[Path]:
    return sorted(folder.rglob("*"))


def test_it_counts_what_the_run_then_does(house: House) -> None:
    house.add("more.csv", range(0), 'Shares  fell 1 points after the warning,negative\n"",neutral\nNo label,\n')
    before = files(house.root / "home")
    status, report = check(house)
    assert status == 0
    assert files(house.root / "home") == before
    assert house.run("label").success
    corpus, logits, teacher = (house.metadata(name) for name in ("corpus", "teacher_logits", "teacher_onnx"))
    assert report["rows"] == corpus["rows_read"]
    assert report["texts"] == corpus["dagster/row_count"]
    assert report["dropped"]["duplicate merged"] == 1
    assert report["rows"] - report["texts"] == sum(report["dropped"].values()) == 2
    assert sum(report["labels"].values()) == corpus["texts_labelled"]
    assert report["unlabelled"] == 1
    assert report["unseen_texts"] == logits["rows_reached_by_the_teacher"]
    assert report["labelling_seconds"] > 0
    assert report["teacher"]["architecture"] == "BertForSequenceClassification"
    assert ", ".join(report["teacher"]["classes"]) == teacher["classes"]
    assert report["teacher"]["unknown_share"] == house.metadata("tokens")["share_of_tokens_unknown"]
    assert report["teacher"]["cut_share"] == 0


def test_what_the_cache_has_is_not_counted_again(house: House) -> None:
    assert house.run("label").success
    house.add("more.csv", range(40, 44))
    _, report = check(house)
    assert (report["texts"], report["unseen_texts"]) == (132, 12)


def test_classes_without_names_stop_a_run_and_their_mappings_are_shown(
    house: House, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = house.root / "teacher"
    folder.mkdir()
    xlm_roberta(folder)
    house.write_profile(folder)
    status, report = check(house)
    assert status == 1
    (stop,) = told(report, "stops")
    assert stop.count("% with {negative: [LABEL_") == 6
    assert "teacher_classes: {negative: [LABEL_" in capsys.readouterr().out


def test_classes_that_the_profile_corrects_are_counted_as_it_says(house: House) -> None:
    profile = house.root / "mine.yaml"
    corrected = "{negative: [negative], neutral: [positive], positive: [neutral]}"
    task = f"{{name: sentiment, labels: [negative, neutral, positive], teacher_classes: {corrected}}}"
    profile.write_text(profile.read_text().replace("task: sentiment", f"task: {task}"))
    placed = check(house)[1]["teacher"]["labels"]
    assert placed == {"negative": ["negative"], "neutral": ["positive"], "positive": ["neutral"]}


def test_a_further_teacher_is_judged_on_the_texts_as_it_reads_them(house: House, tiny_checkpoint: Path) -> None:
    other = house.root / "other"
    other.mkdir()
    # Its vocabulary is so small that most of the first teacher's ids are none of its own.
    roberta(other, ["negative", "neutral", "positive"])
    house.write_profile(other)
    alone = check(house)[1]["teacher"]
    profile = house.root / "mine.yaml"
    profile.write_text(
        profile.read_text().replace(str(other), f"{tiny_checkpoint}, ensemble: [{{checkpoint: {other}}}]")
    )
    _, report = check(house)
    (further,) = report["ensemble"]
    assert alone["labelled_texts"] > 0
    told = ("labelled_texts", "accuracy", "macro_f1", "unknown_share", "lengths")
    assert {name: further[name] for name in told} == {name: alone[name] for name in told}


def test_every_problem_is_told_at_once(house: House) -> None:
    folder = house.root / "teacher"
    folder.mkdir()
    roberta(folder, ["Environmental", "Social", "Governance"])
    house.write_profile(folder)
    house.add("more.csv", range(0), "Something,marvellous\n")
    house.recipes.write_text("small: {epochs: many}\n")
    status, report = check(house)
    assert status == 1
    stops = told(report, "stops")
    assert len(stops) == 2, stops
    assert any("recipes.yaml, line 1" in message for message in stops)
    assert any("more.csv, row 1: the label 'marvellous'" in message for message in stops)


def test_a_teacher_of_another_language_and_texts_that_are_cut_are_warned_of(house: House) -> None:
    folder = house.root / "teacher"
    folder.mkdir()
    finbert_tone_chinese(folder)
    house.write_profile(folder)
    house.add("more.csv", range(0), "".join(f"{'Ж ' * 60} {i},neutral\n" for i in range(30)))
    _, report = check(house)
    warnings = told(report, "warning")
    assert any("unknown to the tokenizer" in message for message in warnings), warnings
    assert any("of the texts are longer than 32 tokens and would be cut" in message for message in warnings), warnings
    assert any("validation texts have a label" in message for message in warnings)


@pytest.mark.parametrize(("name", "warned"), [("", True), (", name: headlines", False)])
def test_a_corpus_without_a_name_that_the_teacher_may_have_seen_is_warned_of(
    house: House, name: str, warned: bool
) -> None:
    house.write_profile(house.root / "absent")
    profile = house.root / "mine.yaml"
    named = profile.read_text().replace("label: tone", f"label: tone{name}")
    profile.write_text(named.replace("max_length: 32", "max_length: 32, trained_on: [phrasebank]"))
    warnings = told(check(house)[1], "warning")
    assert any("corpus.name: the teacher was trained on phrasebank" in each for each in warnings) == warned


def test_a_student_whose_tokenizer_does_not_know_the_language_is_warned_of(house: House) -> None:
    house.recipes.write_text("own: {student: encoder, architecture: {layers: [0]}}\nas-teacher: {epochs: 1}\n")
    house.add("more.csv", range(0), "".join(f"{'𐍈 ' * 20} {i},neutral\n" for i in range(60)))
    _, report = check(house)
    (warning,) = [each["message"] for each in report["problems"] if "would read" in each["message"]]
    assert "the tokenizer of 'embedded', by which own would read. Set architecture.checkpoint to teacher" in warning


def test_a_label_only_baseline_that_would_find_no_label_stops_a_run(house: House) -> None:
    profile = house.root / "mine.yaml"
    profile.write_text(profile.read_text().replace("label: tone}", "label: tone, split: part}"))
    lines = [f"{line},train" for line in csv_rows(range(9)).splitlines()]
    lines += [f"{line},test" for line in csv_rows(range(9, 12)).splitlines()]
    lines += [f"{line.partition(',')[0]},,validation" for line in csv_rows(range(12, 15)).splitlines()]
    (house.corpus / "first.csv").write_text("\n".join(["body,tone,part", *lines, ""]))
    status, report = check(house)
    assert status == 1
    (stop,) = told(report, "stops")
    assert "small-baseline would learn from labels alone (alpha: 0), and no text of the validation split" in stop


def test_the_out_of_domain_set_and_the_search_are_looked_at_too(house: House, tiny_checkpoint: Path) -> None:
    (house.root / "tweets.csv").write_text("tweet,mood\nTo the moon,bullish\n")
    other = "out_of_domain: {path: tweets.csv, text: tweet, label: mood, name: tweets}\n"
    house.write_profile(tiny_checkpoint, f"{other}tuning: {{recipe: smal}}\n")
    status, report = check(house)
    assert status == 1
    stops = told(report, "stops")
    assert len(stops) == 2, stops
    assert any("tweets.csv, row 1: the label 'bullish'" in message for message in stops)
    assert any("tuning.recipe: there is no recipe 'smal'" in message for message in stops)


def test_a_profile_that_cannot_be_read_is_the_only_problem(house: House) -> None:
    (house.root / "mine.yaml").write_text("task: sentiment\n")
    status, report = check(house)
    assert status == 1
    assert [problem["severity"] for problem in report["problems"]] == ["stops"]
    assert "mine.yaml" in report["problems"][0]["message"]


@pytest.mark.parametrize("ending", ["", " Ж"])
def test_a_run_of_the_same_words_follows_a_check_without_stops(house: House, ending: str) -> None:
    house.add("more.csv", range(0), f"Profit rose{ending},positive\n")
    status, _ = check(house)
    assert (status == 0) == house.run("label").success
