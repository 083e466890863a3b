"""What a newcomer has goes from `finstill new` and `finstill check` to a champion without an edit."""

from __future__ import annotations

import shutil
from pathlib import Path

import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest

from finstill.cli import main
from finstill.config.profile import CorpusSource
from finstill.config.task import SENTIMENT
from finstill.corpus.build import read_corpus
from finstill.files import remove_folder
from finstill.serving import StudentClassifier
from pipelines.failures import step_failure
from tests.pipelines.house import House
from tests.published_checkpoints import trained_finbert
from tests.published_data_sets import PUBLISHED
from tests.tiny_corpus import RECIPES


@pytest.fixture(scope="module")
def finbert(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """finBERT's five files, with small weights that have learned what the data sets' sentences say."""
    data, folder = tmp_path_factory.mktemp("data"), tmp_path_factory.mktemp("finbert")
    texts: list[str] = []
    labels: list[str] = []
    for name in ("financial_phrasebank", "fiqa", "twitter_financial_news"):
        write = PUBLISHED["phrasebank_file" if name == "financial_phrasebank" else name]
        read_corpus(CorpusSource(path=str(write(data)), known=name), SENTIMENT.labels, folder / "corpus.parquet")
        table = pq.read_table(folder / "corpus.parquet")
        labelled = table.filter(pc.is_valid(table["label"]))
        texts += labelled["text"].to_pylist()
        labels += labelled["label"].to_pylist()
    trained_finbert(folder, texts, labels)
    return folder


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the first test leaves the teacher's graph, so that the others need not export the same teacher again."""
    return tmp_path_factory.mktemp("exported") / "onnx"


@pytest.mark.parametrize("name", PUBLISHED)
def test_a_data_set_as_it_is_published_is_labelled_in_three_commands_and_becomes_a_champion(
    name: str, house: House, finbert: Path, exported: Path
) -> None:
    for file in ("mine.yaml", "recipes.yaml"):
        (house.root / file).unlink()
    given = PUBLISHED[name](house.root)
    profile = str(house.root / "mine.yaml")
    assert main(["new", str(given), "--teacher", str(finbert), "--profile", profile]) == 0
    graph = house.root / "home" / "mine" / "teacher" / "onnx"
    # That of the house's first teacher.
    remove_folder(graph)
    if exported.is_dir():
        shutil.copytree(exported, graph)
    assert main(["check", profile, "--home", str(house.root / "home")]) == 0
    # The recipes that were written take minutes; these take a second.
    (house.root / "mine.students.yaml").write_text(RECIPES)
    house.instance.add_dynamic_partitions("students", ["small"])
    # After the first stage, all of them are a corpus like another: one of them goes on.
    first = not exported.is_dir()
    for job, partition in (("label", None), *([("distil", "small"), ("decide", None)] if first else [])):
        result = house.run(job, partition=partition)
        assert result.success, [step_failure(event) for event in result.all_events if event.is_step_failure]
    assert house.metadata("corpus")["texts_labelled"] == 240
    if not first:
        return
    shutil.copytree(graph, exported)
    (score,) = StudentClassifier(house.profile.workspace.champion / "current").score(["Net profit of company 7 rose"])
    assert sorted(score.probabilities) == list(SENTIMENT.labels)
