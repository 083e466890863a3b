"""A stand-in for the Hugging Face hub: the part of its API that fetching a model uses, over folders on this machine."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread

import pytest
from huggingface_hub import constants

COMMIT = "0123456789abcdef0123456789abcdef01234567"
"""Where `main` of each model stands until it is moved."""


class Hub(ThreadingHTTPServer):
    """Serves each folder of `models`, by name, at the revision `main` and at its commit.

    Attributes:
        commits: of each model, the folder at each commit; `main` is the last one.
        fetched: paths of the files whose content was asked for.
    """

    daemon_threads = True

    def __init__(self, models: Mapping[str, Path]):
        super().__init__(("127.0.0.1", 0), _Handler)
        self.commits = {name: {COMMIT: folder} for name, folder in models.items()}
        self.fetched: list[str] = []

    def move(self, name: str, folder: Path, commit: str) -> None:
        """Let `main` of a model be another commit, with the files of another folder."""
        self.commits[name][commit] = folder

    def find(self, name: str, revision: str | None) -> tuple[str, Path] | None:
        """Return the commit that a revision stands for, and its folder."""
        commits = self.commits[name]
        commit = list(commits)[-1] if revision in (None, "main") else revision
        return (commit, commits[commit]) if commit in commits else None

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"


@contextmanager
def running(models: Mapping[str, Path]) -> Iterator[Hub]:
    hub = Hub(models)
    thread = Thread(target=hub.serve_forever, daemon=True)
    thread.start()
    try:
        yield hub
    finally:
        hub.shutdown()
        hub.server_close()
        thread.join()


def point_at(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Do what HF_ENDPOINT does, which huggingface_hub reads when it is imported."""
    monkeypatch.setattr(constants, "ENDPOINT", url)
    monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", url + "/{repo_id}/resolve/{revision}/{filename}")


class _Handler(BaseHTTPRequestHandler):
    server: Hub
    protocol_version = "HTTP/1.1"

    def do_HEAD(self) -> None:
        self._answer(send=False)

    def do_GET(self) -> None:
        self._answer(send=True)

    def log_message(self, *_: object) -> None:
        pass

    def _answer(self, *, send: bool) -> None:
        path = self.path.partition("?")[0]
        if found := re.fullmatch(r"/api/models/([^/]+/[^/]+)(?:/(revision|tree)/([^/]+))?", path):
            name, kind, revision = found.groups()
            if name not in self.server.commits:
                return self._refuse("RepoNotFound")
            if (at := self.server.find(name, revision)) is None:
                return self._refuse("RevisionNotFound")
            commit, folder = at
            files = sorted(str(file.relative_to(folder)) for file in folder.rglob("*") if file.is_file())
            if kind == "tree":
                body = [{"type": "file", "path": file, **_described(folder / file)} for file in files]
                return self._send(json.dumps(body).encode(), send=send)
            body = {"id": name, "sha": commit, "siblings": [{"rfilename": file} for file in files]}
            return self._send(json.dumps(body).encode(), send=send)
        if found := re.fullmatch(r"/([^/]+/[^/]+)/resolve/([^/]+)/(.+)", path):
            name, revision, file = found.groups()
            if (at := self.server.find(name, revision)) is None:
                return self._refuse("RevisionNotFound")
            commit, folder = at
            content = (folder / file).read_bytes()
            if send:
                self.server.fetched.append(file)
            headers = {"ETag": f'"{_described(folder / file)["oid"]}"', "X-Repo-Commit": commit}
            return self._send(content, send=send, headers=headers)
        return self._refuse("EntryNotFound")

    def _send(self, content: bytes, *, send: bool, headers: Mapping[str, str] | None = None) -> None:
        self.send_response(200)
        for name, value in {"Content-Length": str(len(content)), **(headers or {})}.items():
            self.send_header(name, value)
        self.end_headers()
        if send:
            self.wfile.write(content)

    def _refuse(self, code: str) -> None:
        self.send_response(404)
        for name, value in {"X-Error-Code": code, "X-Error-Message": code, "Content-Length": "0"}.items():
            self.send_header(name, value)
        self.end_headers()


def _described(file: Path) -> dict[str, str | int]:
    return {"size": file.stat().st_size, "oid": hashlib.sha1(file.read_bytes()).hexdigest()}
