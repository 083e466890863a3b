"""From the hub, or a stand-in for its API: the files that a teacher needs and no others, at one commit."""

from __future__ import annotations

import errno
import os
import re
import shutil
from collections.abc import Iterator
from pathlib import Path

import huggingface_hub
import pytest
from huggingface_hub import constants

from finstill.config.profile import CorpusSource
from finstill.corpus.state import source_state
from finstill.corpus.tokenizer import read_tokenizer
from finstill.errors import InputError, UnreachableError
from finstill.teacher.checkpoint import (
    Checkpoint,
    class_names,
    load_classifier,
    record_source,
    recorded_source,
    resolve_checkpoint,
)
from tests import hub
from tests.published_checkpoints import modernbert, prosus_finbert, xlm_roberta


@pytest.fixture
def server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[hub.Hub]:
    """A hub with three models; what else a repository holds lies beside what is needed."""
    models = {"ProsusAI/finbert": prosus_finbert, "someone/modernbert": modernbert, "someone/xlm-r": xlm_roberta}
    folders = {}
    for name, write in models.items():
        folder = folders[name] = tmp_path / "hub" / name
        folder.mkdir(parents=True)
        write(folder)
        for file in ("tf_model.h5", "flax_model.msgpack", "README.md", ".gitattributes", "onnx/config.json"):
            (folder / file).parent.mkdir(exist_ok=True)
            (folder / file).write_bytes(b"not needed")
    # This one has its weights in both formats.
    (folders["someone/modernbert"] / "pytorch_model.bin").write_bytes(b"not needed")
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    with hub.running(folders) as running:
        hub.point_at(running.url, monkeypatch)
        yield running


def test_finberts_published_files_are_fetched_and_nothing_else(
    server: hub.Hub, caplog: pytest.LogCaptureFixture, capsys: pytest.CaptureFixture[str]
) -> None:
    caplog.set_level("INFO", logger="finstill")
    checkpoint = resolve_checkpoint("ProsusAI/finbert")
    first, *_, last = caplog.messages
    assert first == "teacher_source: asks the hub for 'ProsusAI/finbert' at 'main'"
    size = re.fullmatch(r"teacher_source: (\S+)B of (\S+)B fetched, .*", last)
    assert size
    assert size[1] == size[2]
    assert capsys.readouterr().err == ""
    assert checkpoint.revision == hub.COMMIT
    assert sorted(server.fetched) == [
        "config.json", "pytorch_model.bin", "special_tokens_map.json", "tokenizer_config.json", "vocab.txt",
    ]  # fmt: skip
    assert class_names(load_classifier(checkpoint.folder)) == ("positive", "negative", "neutral")
    assert read_tokenizer(checkpoint.folder).encode("shares fell").tokens == ["[CLS]", "shares", "fell", "[SEP]"]


def test_one_format_of_weights_is_fetched(server: hub.Hub) -> None:
    resolve_checkpoint("someone/modernbert")
    assert [file for file in server.fetched if "model." in file] == ["model.safetensors"]


def test_a_sentencepiece_model_is_fetched(server: hub.Hub) -> None:
    assert read_tokenizer(resolve_checkpoint("someone/xlm-r").folder).encode("shares").ids
    assert "sentencepiece.bpe.model" in server.fetched


def test_what_was_fetched_once_serves_when_the_hub_is_out_of_reach(
    server: hub.Hub, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    first = resolve_checkpoint("ProsusAI/finbert")
    hub.point_at("http://127.0.0.1:9", monkeypatch)
    assert resolve_checkpoint("ProsusAI/finbert") == first
    assert "the hub does not answer" in caplog.messages[-1]
    with pytest.raises(UnreachableError, match=r"someone/xlm-r.*out of reach"):
        resolve_checkpoint("someone/xlm-r")


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EACCES, errno.EROFS, errno.EDQUOT])
def test_a_place_that_cannot_be_written_to_is_not_the_hubs_fault(
    server: hub.Hub, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise OSError(number, os.strerror(number), "blobs/x.incomplete")

    monkeypatch.setattr(huggingface_hub, "snapshot_download", refuse)
    with pytest.raises(InputError, match=rf"cache: .*{os.strerror(number)}.*or set HF_HOME") as error:
        resolve_checkpoint("ProsusAI/finbert")
    assert not isinstance(error.value, UnreachableError)


@pytest.mark.parametrize("lacking", ["model", "tokenizer.json", None])
def test_only_a_whole_download_serves_when_the_hub_is_out_of_reach(
    server: hub.Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, lacking: str | None
) -> None:
    folder = tmp_path / "hub" / "someone/modernbert"
    load_classifier(folder).save_pretrained(folder, max_shard_size="20KB")
    (folder / "model.safetensors").unlink(missing_ok=True)
    first = resolve_checkpoint("someone/modernbert")
    shards = sorted(first.folder.glob("model-*.safetensors"))
    if lacking is not None:
        (shards[-1] if lacking.startswith("model") else first.folder / lacking).unlink()
    hub.point_at("http://127.0.0.1:9", monkeypatch)
    if lacking is None:
        assert len(shards) > 1
        assert resolve_checkpoint("someone/modernbert") == first
        return
    with pytest.raises(UnreachableError, match="out of reach and not all of it is in the local cache"):
        resolve_checkpoint("someone/modernbert")


def test_a_name_that_the_hub_does_not_know_is_said(server: hub.Hub) -> None:
    with pytest.raises(InputError, match=r"no model 'ProsusAI/finbret'.*HF_TOKEN"):
        resolve_checkpoint("ProsusAI/finbret")


def test_a_revision_that_the_hub_does_not_know_is_said(server: hub.Hub) -> None:
    with pytest.raises(InputError, match=r"teacher\.revision: 'ProsusAI/finbert' has no revision 'v9'"):
        resolve_checkpoint("ProsusAI/finbert", "v9")


def test_a_data_set_that_the_hub_does_not_have_is_no_fault_of_the_network(
    server: hub.Hub, monkeypatch: pytest.MonkeyPatch
) -> None:
    def state(name: str, revision: str | None = None) -> str:
        return source_state(CorpusSource(hub=name, hub_revision=revision))

    assert state("ProsusAI/finbert") == state("ProsusAI/finbert", "main")
    for given, message in (
        (("ProsusAI/finbert", "v9"), r"corpus\.hub_revision: 'ProsusAI/finbert' has no revision 'v9'"),
        (("ProsusAI/finbret",), r"no such data set"),
        (("my texts/of 2026",), r"corpus\.hub: 'my texts/of 2026' is no folder here"),
    ):
        with pytest.raises(InputError, match=message) as error:
            state(*given)
        assert not isinstance(error.value, UnreachableError)
    hub.point_at("http://127.0.0.1:9", monkeypatch)
    with pytest.raises(UnreachableError):
        state("ProsusAI/finbert")


def test_what_was_found_once_is_read_when_main_moves(server: hub.Hub, tmp_path: Path) -> None:
    path = tmp_path / "source.json"
    found = record_source("ProsusAI/finbert", "main", path)
    server.move("ProsusAI/finbert", server.commits["someone/modernbert"][hub.COMMIT], "f" * 40)
    assert recorded_source("ProsusAI/finbert", "main", path) == found
    assert record_source("ProsusAI/finbert", "main", path).revision == "f" * 40
    assert recorded_source("ProsusAI/finbert", "main", path).revision == "f" * 40


def test_what_was_not_found_or_is_not_asked_for_is_said(server: hub.Hub, tmp_path: Path) -> None:
    path = tmp_path / "source.json"
    with pytest.raises(InputError, match=r"not looked up yet.*Materialize teacher_source"):
        recorded_source("ProsusAI/finbert", "main", path)
    found = record_source("ProsusAI/finbert", "main", path)
    for name, revision in (("ProsusAI/finbert", "v2"), ("someone/modernbert", "main")):
        with pytest.raises(InputError, match=rf"'ProsusAI/finbert' stands for at 'main'.*'{name}' at '{revision}'"):
            recorded_source(name, revision, path)
    found.write(tmp_path)
    assert Checkpoint.read(tmp_path) == found
    shutil.rmtree(found.folder)
    with pytest.raises(InputError, match=r"is gone.*Materialize teacher_source again.*HF_HOME"):
        recorded_source("ProsusAI/finbert", "main", path)
    with pytest.raises(InputError, match=r"checkpoint\.json: the folder .* is gone.*teacher_checkpoint again.*HF_HOME"):
        Checkpoint.read(tmp_path)
    # No file of the hub's is missing from a folder.
    Checkpoint(tmp_path / "none", "none", None).write(tmp_path)
    with pytest.raises(InputError, match=r"teacher_checkpoint again\.?$"):
        Checkpoint.read(tmp_path)
