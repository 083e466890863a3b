"""The same cache on a real S3-compatible server."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path

import boto3
import numpy as np
import pyarrow as pa
import pytest
from moto.server import ThreadedMotoServer
from pyarrow import fs

from finstill.cache.cache import DamagedPartError, SoftLabelCache, teachers
from finstill.cache.labelling import label_texts, write_logits
from finstill.cache.upkeep import compact, prune, quarantine, statistics, verify
from finstill.cli import main
from finstill.errors import InputError
from finstill.inference.session import OnnxClassifier

FINGERPRINT = "a" * 32
LABELS = ("negative", "neutral", "positive")


@pytest.fixture(scope="module")
def endpoint() -> Iterator[str]:
    server = ThreadedMotoServer("127.0.0.1", 0)
    server.start()
    host, port = server.get_host_and_port()
    yield f"{host}:{port}"
    server.stop()


@pytest.fixture
def bucket(endpoint: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[object]:
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "testing")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "testing")
    resource = boto3.resource("s3", endpoint_url=f"http://{endpoint}", region_name="us-east-1")
    bucket = resource.create_bucket(Bucket="labels")
    yield bucket
    bucket.objects.delete()
    bucket.delete()


@pytest.fixture
def root(endpoint: str, bucket: object) -> str:
    return f"s3://labels/cache?scheme=http&endpoint_override={endpoint}&region=us-east-1"


def test_a_teacher_pass_costs_new_texts_only(
    root: str, graph: Path, write_tokens: Callable[[Path, Sequence[str]], pa.Table], tmp_path: Path
) -> None:
    tokens = tmp_path / "tokens.parquet"
    write_tokens(tokens, [f"headline {i}" for i in range(90)])
    cache = SoftLabelCache(root, FINGERPRINT, LABELS)
    assert label_texts(tokens, cache, partial(OnnxClassifier, graph), 512).labelled == 90
    write_tokens(tokens, [f"headline {i}" for i in range(100)])
    assert label_texts(tokens, cache, partial(OnnxClassifier, graph), 512).labelled == 10
    write_logits([tokens], cache, tmp_path / "remote.parquet")

    local = SoftLabelCache(tmp_path / "local", FINGERPRINT, LABELS)
    label_texts(tokens, local, partial(OnnxClassifier, graph), 512)
    write_logits([tokens], local, tmp_path / "local.parquet")
    remote, here = (pa.parquet.read_table(tmp_path / f"{name}.parquet") for name in ("remote", "local"))
    assert remote["key"].equals(here["key"])
    np.testing.assert_allclose(remote["logits"].to_pylist(), here["logits"].to_pylist(), rtol=0, atol=1e-4)


def test_upkeep_works_there_too(  # type: ignore[no-untyped-def]
    root: str, bucket, make_rows: Callable[..., pa.Table], capsys: pytest.CaptureFixture[str]
) -> None:
    cache = SoftLabelCache(root, FINGERPRINT, LABELS, {"source": "moto"})
    for seed in range(4):
        cache.append(make_rows(20, seed))
    cache.append(make_rows(20, 1).slice(5))
    assert compact(cache).duplicates == 15
    assert statistics(cache).rows == 80

    damaged = cache.append(make_rows(20, 9))
    content = bucket.Object(damaged.removeprefix("labels/")).get()["Body"].read()
    bucket.Object(damaged.removeprefix("labels/")).put(Body=content[:-9])
    with pytest.raises(DamagedPartError, match=f"s3://labels/cache/{FINGERPRINT}/part-"):
        cache.unseen(make_rows(20, 9)["key"])
    (found,) = verify(cache)
    quarantine(cache, found.part)
    assert len(cache.unseen(make_rows(20, 9)["key"])) == 20

    assert teachers(root) == [FINGERPRINT]
    assert SoftLabelCache.open(root, FINGERPRINT).description()["about"] == {"source": "moto"}
    assert main(["cache", "ls", "--root", root]) == 0
    assert FINGERPRINT[:12] in capsys.readouterr().out
    prune(cache)
    assert teachers(root) == []


def test_a_bucket_that_is_not_there_is_named(endpoint: str, bucket: object) -> None:
    with pytest.raises(InputError, match="s3://nowhere/cache"):
        SoftLabelCache(
            f"s3://nowhere/cache?scheme=http&endpoint_override={endpoint}&region=us-east-1", FINGERPRINT, LABELS
        )


def test_a_store_that_does_not_answer_is_no_reason_to_read_the_whole_cache(
    root: str, make_rows: Callable[..., pa.Table], monkeypatch: pytest.MonkeyPatch
) -> None:
    cache = SoftLabelCache(root, FINGERPRINT, LABELS)
    cache.append(make_rows(20))
    monkeypatch.delattr(SoftLabelCache, "read_part")
    gone = fs.S3FileSystem(
        endpoint_override="127.0.0.1:1",
        scheme="http",
        region="us-east-1",
        connect_timeout=1,
        retry_strategy=fs.AwsDefaultS3RetryStrategy(max_attempts=0),
    )
    with pytest.raises(OSError, match="AWS Error"):
        cache.query(lambda _: gone.get_file_info("labels/cache"))
