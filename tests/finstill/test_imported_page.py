"""The examples of docs/imported.md run as they stand there."""

from __future__ import annotations

import json
import re
import shlex
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from finstill.cache.imported import find_imported
from finstill.cli import main
from finstill.config.profile import Teacher
from finstill.corpus.text import text_key

PAGE = Path(__file__).parents[2] / "docs" / "imported.md"

Run = Callable[[str], None]


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Run:
    """Return a function that runs the script and the command of a section of the page in an empty folder."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("FINSTILL_CACHE", "cache")

    def run(section: str) -> None:
        (text,) = re.findall(rf"## {section}\n(.*?)\n## ", PAGE.read_text(encoding="utf-8"), re.DOTALL)
        (script,) = re.findall(r"```python\n(.*?)```", text, re.DOTALL)
        (command,) = re.findall(r"```bash\nfinstill (.*?)```", text, re.DOTALL)
        exec(compile(script, str(PAGE), "exec"), {})
        assert main(shlex.split(command.replace("\\\n", " "))) == 0

    return run


def probabilities(name: str, text: str) -> list[float]:
    keys = pa.chunked_array([pa.array([text_key(text)], pa.binary(16))])
    (logits,) = find_imported("cache", name).lookup(keys).astype(float)
    return (np.exp(logits) / np.exp(logits).sum()).tolist()


def test_votes_become_their_shares(run: Run) -> None:
    rows = ["Profit rose,ann,positive", "Profit rose,ben,positive", "Profit rose,cem,neutral", "It met,ann,neutral"]
    Path("votes.csv").write_text("\n".join(["text,annotator,label", *rows]))
    run("Votes of annotators")
    total = 2 / 3 + 1 / 3 + 0.02
    assert probabilities("annotators@2026-11", "Profit rose") == pytest.approx(
        [0.02 / total, 1 / 3 / total, 2 / 3 / total]
    )
    assert probabilities("annotators@2026-11", "It met") == pytest.approx([0.02 / 1.04, 1 / 1.04, 0.02 / 1.04])


def test_top_tokens_become_the_labels_that_they_begin(run: Run) -> None:
    top = [["pos", np.log(0.5)], [" Positive", np.log(0.25)], ["neutral", np.log(0.125)], ["ne", -3.0], ["The", -4.0]]
    Path("answers.jsonl").write_text(
        "".join(json.dumps({"text": text, "top": each}) + "\n" for text, each in (("A", top), ("B", [["neg", -0.01]])))
        + json.dumps({"text": "C", "top": [["neutral", -0.2]]})
    )
    Path("prompt.txt").write_text("Is this news good?")
    run("A language model under vLLM")
    total = 0.75 + 0.125 + 0.001
    assert probabilities("qwen2.5-7b@1", "A") == pytest.approx([0.001 / total, 0.125 / total, 0.75 / total])


def test_the_profiles_of_the_page_are_valid() -> None:
    from ruamel.yaml import YAML

    shown = re.findall(r"```yaml\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.DOTALL)
    teachers = [Teacher.model_validate(YAML(typ="safe").load(each)["teacher"]) for each in shown]
    assert [teacher.name for teacher in teachers] == ["annotators@2026-11", "ProsusAI/finbert"]
    assert all(teacher.has_imported for teacher in teachers)
