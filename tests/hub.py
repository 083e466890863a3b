"""A stand-in for the Hugging Face hub: the part of its API that fetches and pushes models, over folders here."""

from __future__ import annotations

import base64
import hashlib
import json
import re
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from tempfile import TemporaryDirectory
from threading import Thread

import pytest
from huggingface_hub import ModelCard, constants
from huggingface_hub.utils import validate_repo_id

COMMIT = "0123456789abcdef0123456789abcdef01234567"
"""Where `main` of each model stands until it is moved."""


class Hub(ThreadingHTTPServer):
    """Serves each folder of `models`, by name, at the revision `main` and at its commit.

    Attributes:
        commits: of each model, the folder at each commit; `main` is the last one.
        tags: of each model, the commit that each tag stands for.
        fetched: paths of the files whose content was asked for.
    """

    daemon_threads = True

    def __init__(self, models: Mapping[str, Path], pushed: Path):
        super().__init__(("127.0.0.1", 0), _Handler)
        self.commits = {name: {COMMIT: folder} for name, folder in models.items()}
        self.tags: dict[str, dict[str, str]] = {name: {} for name in models}
        self.fetched: list[str] = []
        self._pushed = pushed

    def move(self, name: str, folder: Path, commit: str) -> None:
        """Let `main` of a model be another commit, with the files of another folder."""
        self.commits[name][commit] = folder

    def find(self, name: str, revision: str | None) -> tuple[str, Path] | None:
        """Return the commit that a revision stands for, and its folder."""
        commits = self.commits[name]
        if revision in (None, "main"):
            revision = list(commits)[-1]
        commit = self.tags[name].get(revision, revision)
        return (commit, commits[commit]) if commit in commits else None

    def push(self, name: str, files: Mapping[str, bytes]) -> str:
        """Add files to a model, a new one if there is none of that name, and return the commit."""
        commits = self.commits.setdefault(name, {})
        self.tags.setdefault(name, {})
        content = "".join(f"{path} {hashlib.sha1(content).hexdigest()}" for path, content in files.items())
        commit = hashlib.sha1(f"{name} {len(commits)} {content}".encode()).hexdigest()
        folder = self._pushed / commit
        if commits:
            shutil.copytree(list(commits.values())[-1], folder)
        for path, content in files.items():
            (folder / path).parent.mkdir(parents=True, exist_ok=True)
            (folder / path).write_bytes(content)
        commits[commit] = folder
        return commit

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"


@contextmanager
def running(models: Mapping[str, Path]) -> Iterator[Hub]:
    with TemporaryDirectory() as pushed:
        hub = Hub(models, Path(pushed))
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

    def do_POST(self) -> None:
        content = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        lines = [json.loads(line) for line in content.splitlines()]
        if self.path == "/api/validate-yaml":
            return self._validate_card(lines[0]["content"])
        if not self.headers.get("Authorization", "").startswith("Bearer "):
            return self._refuse("Unauthorized", 401)
        if self.path == "/api/repos/create":
            name = f"{lines[0]['organization']}/{lines[0]['name']}"
            status = 409 if name in self.server.commits else 200
            if status == 200:
                # The hub begins each repository with rules for Git LFS.
                self.server.push(name, {".gitattributes": b"*.onnx filter=lfs diff=lfs merge=lfs -text\n"})
            return self._send_json({"url": f"{self.server.url}/{name}"}, status=status)
        found = re.fullmatch(r"/api/models/([^/]+/[^/]+)/(preupload|commit|tag)/([^/]+)", self.path)
        if found is None:
            return self._refuse("EntryNotFound")
        name, action, revision = found.groups()
        if name not in self.server.commits:
            return self._refuse("RepoNotFound")
        if (at := self.server.find(name, revision)) is None:
            return self._refuse("RevisionNotFound")
        if action == "tag":
            stands = self.server.tags[name].setdefault(lines[0]["tag"], at[0])
            return self._send_json({}, status=200 if stands == at[0] else 409)
        if action == "preupload":
            # The hub would take large files through its own storage; here all come with the commit.
            paths = [file["path"] for file in lines[0]["files"]]
            modes = [{"path": path, "uploadMode": "regular", "shouldIgnore": False} for path in paths]
            return self._send_json({"files": modes})
        added = [line["value"] for line in lines if line["key"] == "file"]
        commit = self.server.push(name, {file["path"]: base64.b64decode(file["content"]) for file in added})
        return self._send_json({"commitOid": commit, "commitUrl": f"{self.server.url}/{name}/commit/{commit}"})

    def log_message(self, *_: object) -> None:
        pass

    def _answer(self, *, send: bool) -> None:
        path = self.path.partition("?")[0]
        if found := re.fullmatch(r"/api/(?:models|datasets)/([^/]+/[^/]+)(?:/(revision|tree)/([^/]+))?", path):
            name, kind, revision = found.groups()
            if name not in self.server.commits:
                return self._refuse("RepoNotFound")
            if (at := self.server.find(name, revision)) is None:
                return self._refuse("RevisionNotFound")
            commit, folder = at
            files = sorted(str(file.relative_to(folder)) for file in folder.rglob("*") if file.is_file())
            if kind == "tree":
                body = [{"type": "file", "path": file, **_described(folder / file)} for file in files]
                return self._send_json(body, send=send)
            return self._send_json(
                {"id": name, "sha": commit, "siblings": [{"rfilename": file} for file in files]}, send=send
            )
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

    def _validate_card(self, content: str) -> None:
        """Accept a card with the required fields, whose names of data sets and models may be names on the hub."""
        try:
            data = ModelCard(content, ignore_metadata_errors=False).data
            if data.license == "other" and not data.license_name:
                raise ValueError('"license_name" is required')
            evaluated_on = [result.dataset_type for result in data.eval_results or []]
            for name in [*(data.base_model or []), *(data.datasets or []), *evaluated_on]:
                validate_repo_id(name)
        except ValueError as error:
            return self._send_json({"errors": [{"message": str(error)}]}, status=400)
        return self._send_json({"errors": [], "warnings": []})

    def _send_json(self, body: object, *, send: bool = True, status: int = 200) -> None:
        self._send(json.dumps(body).encode(), send=send, status=status)

    def _send(self, content: bytes, *, send: bool, headers: Mapping[str, str] | None = None, status: int = 200) -> None:
        self.send_response(status)
        for name, value in {"Content-Length": str(len(content)), **(headers or {})}.items():
            self.send_header(name, value)
        self.end_headers()
        if send:
            self.wfile.write(content)

    def _refuse(self, code: str, status: int = 404) -> None:
        self.send_response(status)
        for name, value in {"X-Error-Code": code, "X-Error-Message": code, "Content-Length": "0"}.items():
            self.send_header(name, value)
        self.end_headers()


def _described(file: Path) -> dict[str, str | int]:
    return {"size": file.stat().st_size, "oid": hashlib.sha1(file.read_bytes()).hexdigest()}
