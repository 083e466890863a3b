"""docs/runtime.md's code for other people's shelves and servers, run as it stands on the page."""

from __future__ import annotations

import json
import re
import runpy
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from importlib.util import find_spec
from pathlib import Path

import httpx
import pytest
from huggingface_hub import constants

from finstill.packaging.card import Provenance
from finstill.serving import Score, StudentClassifier
from finstill.serving.package import Package
from tests import hub

ROOT = Path(__file__).parents[2]
TEXTS = [
    "Shares fell after the warning",
    "",
    "Profit rose",
    " ".join(f"Company {i} reported a profit of {i} million." for i in range(30)),
    "Ünïcode ｆｕｌｌ　width €5bn",
]


@pytest.fixture
def shelf(package: Package, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The working folder, with the page's files and with `champion/current` as the pipeline leaves it."""
    page = (ROOT / "docs" / "runtime.md").read_text(encoding="utf-8")
    for name, code in re.findall(r"```python\n# (\w+\.py)\n(.*?)```", page, re.DOTALL):
        (tmp_path / name).write_text(code, encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    put_into_service(package)
    return tmp_path


def put_into_service(package: Package) -> None:
    version = Path("champion", f".current.versions/{package.name}")
    shutil.copytree(package.folder, version)
    for file in ("learned.npy", "training.json"):
        (version / file).write_bytes(b"for training alone")
    current = Path("champion/current")
    current.unlink(missing_ok=True)
    current.symlink_to(version.relative_to("champion"))


def answers(student: StudentClassifier) -> list[Score]:
    """Each text's own, asked alone."""
    return [next(student.score([text])) for text in TEXTS]


def test_a_student_scores_in_many_threads_at_once_as_it_does_in_one(package: Package) -> None:
    student = StudentClassifier(package.folder)
    expected = answers(student)
    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(lambda _: answers(student), range(40)))
    assert all(each == expected for each in found)


class TestHub:
    @pytest.fixture
    def server(self, shelf: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[hub.Hub]:
        monkeypatch.setattr(constants, "HF_HUB_CACHE", str(shelf / "cache"))
        monkeypatch.setenv("HF_TOKEN", "hf_of_a_person")
        with hub.running({}) as running:
            hub.point_at(running.url, monkeypatch)
            yield running

    def test_a_pushed_student_is_loaded_by_revision_whatever_is_pushed_later(
        self, server: hub.Hub, shelf: Path, package: Package, make_package: Callable[..., Package]
    ) -> None:
        first = runpy.run_path("push.py")["pushed"].oid
        named = Provenance("my headlines.csv", "0" * 32, False, None, None, {"test": 120})
        later = make_package("later", seed=1, provenance=named)
        put_into_service(later)
        push = (shelf / "push.py").read_text(encoding="utf-8")
        (shelf / "push.py").write_text(push.replace('"v1"', '"v2"'), encoding="utf-8")
        second = runpy.run_path("push.py")["pushed"].oid
        assert server.tags["you/tone"] == {"v1": first, "v2": second}

        loaded = runpy.run_path("pull.py")["student"]
        assert loaded.package.digest == package.digest != later.digest
        assert answers(loaded) == answers(StudentClassifier(package.folder))
        assert set(server.fetched) == {"model.int8.onnx", "package.json", "tokenizer.json"}

    def test_what_is_pushed_is_the_package_without_what_only_training_needs(
        self, server: hub.Hub, package: Package
    ) -> None:
        commit = runpy.run_path("push.py")["pushed"].oid
        pushed = {file.name for file in server.commits["you/tone"][commit].iterdir()}
        assert pushed == {file.name for file in package.folder.iterdir()} | {".gitattributes"}


class TestServer:
    @pytest.fixture
    def client(self, shelf: Path) -> Iterator[httpx.Client]:
        command = [sys.executable, "-m", "uvicorn", "server:app", "--port", "0", "--no-use-colors"]
        with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as server:
            assert server.stderr is not None
            lines = iter(server.stderr.readline, "")
            started = next((found for line in lines if (found := re.search(r"running on (http://\S+)", line))), None)
            assert started, "uvicorn ended before it listened"
            with httpx.Client(base_url=started[1], timeout=60) as client:
                yield client
            server.terminate()

    def test_texts_get_their_own_answers_from_many_requests_at_once(
        self, client: httpx.Client, package: Package
    ) -> None:
        expected = answers(StudentClassifier(package.folder))
        with ThreadPoolExecutor(8) as pool:
            replies = list(pool.map(lambda _: client.post("/score", json={"texts": TEXTS}), range(24)))
        for reply in replies:
            assert reply.status_code == 200
            for found, own in zip(reply.json(), expected, strict=True):
                assert found["label"] == own.label
                assert found["windows"] == own.windows
                assert found["probabilities"] == pytest.approx(own.probabilities, abs=1e-6)
                assert found["calibrated"] == pytest.approx(own.calibrated, abs=1e-6)

    def test_a_wrong_request_is_told_why_and_the_next_one_is_answered(self, client: httpx.Client) -> None:
        wrong = {
            b"Shares fell": "Invalid JSON",
            b'{"text": "Shares fell"}': "Field required",
            b'{"texts": ["Shares fell", 5]}': "valid string",
            rb'{"texts": ["\ud83d"]}': "hex escape",
            b'{"texts": ["\xff"]}': "Invalid JSON",
            b"[" * 100_000: "recursion limit",
            json.dumps({"texts": [""] * 1001}).encode(): "at most 1000 items",
        }
        for body, reason in wrong.items():
            reply = client.post("/score", content=body)
            assert (reply.status_code, reason in reply.text) == (422, True), reply.text
        assert client.post("/score", content=b" " * 1_000_001).status_code == 413
        assert client.post("/score", content=iter([b" " * 600_000] * 2)).status_code == 413
        assert client.get("/score").status_code == 405
        assert client.post("/score", json={"texts": []}).json() == []
        assert len(client.post("/score", json={"texts": TEXTS}).json()) == len(TEXTS)


REGISTER_AND_SCORE = """
import json, runpy, sys
import mlflow, pandas
runpy.run_path("register.py")
by_alias, by_version = runpy.run_path("load.py")["student"], mlflow.pyfunc.load_model("models:/tone/1")
texts = json.load(sys.stdin)
print(json.dumps([by_alias.predict(texts), by_version.predict(pandas.DataFrame({"text": texts}))]))
"""


@pytest.mark.skipif(find_spec("mlflow") is None, reason="MLflow comes with the extra dev: pip install 'finstill[dev]'")
def test_a_student_registered_in_mlflow_is_loaded_from_there(
    shelf: Path, package: Package, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "sqlite:///mlflow.db")
    monkeypatch.setenv("MLFLOW_DISABLE_TELEMETRY", "true")
    command = [sys.executable, "-c", REGISTER_AND_SCORE]
    run = subprocess.run(command, input=json.dumps(TEXTS), capture_output=True, text=True)
    assert run.returncode == 0, run.stderr
    expected = answers(StudentClassifier(package.folder))
    for found in json.loads(run.stdout.splitlines()[-1]):
        for row, score in zip(found, expected, strict=True):
            assert row == {"label": score.label, "probabilities": pytest.approx(score.probabilities, abs=1e-6)}
    assert not [file.name for file in shelf.rglob("*") if file.suffix in (".pkl", ".pickle")]
