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

COMMIT = "0123456789abcdef0123456789abcdef01234567"


class Hub(ThreadingHTTPServer):
    """Serves each folder of `models`, by name, at the revision `main`.

    Attributes:
        fetched: paths of the files whose content was asked for.
    """

    daemon_threads = True

    def __init__(self, models: Mapping[str, Path]):
        super().__init__(("127.0.0.1", 0), _Handler)
        self.models = models
        self.fetched: list[str] = []

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
            if name not in self.server.models:
                return self._refuse("RepoNotFound")
            if revision not in (None, "main", COMMIT):
                return self._refuse("RevisionNotFound")
            folder = self.server.models[name]
            files = sorted(str(file.relative_to(folder)) for file in folder.rglob("*") if file.is_file())
            if kind == "tree":
                body = [{"type": "file", "path": file, **_described(folder / file)} for file in files]
                return self._send(json.dumps(body).encode(), send=send)
            body = {"id": name, "sha": COMMIT, "siblings": [{"rfilename": file} for file in files]}
            return self._send(json.dumps(body).encode(), send=send)
        if found := re.fullmatch(r"/([^/]+/[^/]+)/resolve/[^/]+/(.+)", path):
            name, file = found.groups()
            content = (self.server.models[name] / file).read_bytes()
            if send:
                self.server.fetched.append(file)
            headers = {"ETag": f'"{_described(self.server.models[name] / file)["oid"]}"', "X-Repo-Commit": COMMIT}
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
