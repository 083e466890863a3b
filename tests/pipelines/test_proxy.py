"""Who passes the proxy of the deployment: nginx with the deployment's own file, before stand-ins for what it asks."""

from __future__ import annotations

import http.client
import json
import os
import shutil
import socket
import subprocess
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

import pytest
import yaml

DEPLOY = Path(__file__).parents[2] / "deploy"


class SignIn(BaseHTTPRequestHandler):
    """Answers as oauth2-proxy does for a person whose only group is in the cookie."""

    def do_GET(self) -> None:
        asked = parse_qs(urlsplit(self.path).query).get("allowed_groups")
        group = self.headers.get("Cookie")
        allowed = not asked or group in asked[0].split(",")
        self.send_response(401 if group is None else 202 if allowed else 403)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, *_: object) -> None:
        pass


class Webserver(SignIn):
    def do_GET(self) -> None:
        self.send_response(200)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def do_POST(self) -> None:
        self.do_GET()


@pytest.fixture(scope="module")
def port(tmp_path_factory: pytest.TempPathFactory) -> Iterator[int]:
    if (nginx := shutil.which("nginx", path=f"{os.environ['PATH']}:/usr/sbin")) is None:
        pytest.skip("nginx is not installed")
    folder = tmp_path_factory.mktemp("nginx")
    servers = [ThreadingHTTPServer(("127.0.0.1", 0), handler) for handler in (SignIn, Webserver)]
    for server in servers:
        threading.Thread(target=server.serve_forever, daemon=True).start()
    sign_in, webserver = (f"127.0.0.1:{server.server_port}" for server in servers)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    text = (DEPLOY / "nginx.conf").read_text(encoding="utf-8")
    for name, value in {
        "${OAUTH2_OPERATORS}": "operators,ops",
        "oauth2-proxy:4180": sign_in,
        "webserver:3000": webserver,
        "webserver-read-only:3000": webserver,
        "listen 8080": f"listen 127.0.0.1:{port}",
    }.items():
        assert name in text
        text = text.replace(name, value)
    paths = "".join(f"{each}_temp_path {folder};" for each in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi"))
    configuration = folder / "nginx.conf"
    configuration.write_text(
        f"daemon off; pid {folder}/pid; error_log stderr; events {{}} http {{ access_log off; {paths} {text} }}"
    )
    process = subprocess.Popen([nginx, "-e", "stderr", "-c", configuration])
    try:
        for _ in range(100):
            with socket.socket() as probe:
                if not probe.connect_ex(("127.0.0.1", port)):
                    break
            time.sleep(0.1)
        yield port
    finally:
        process.terminate()
        process.wait()
        for server in servers:
            server.shutdown()
            server.server_close()


@pytest.mark.parametrize(
    ("host", "group", "origin", "status"),
    [
        ("finstill.example", "operators", "https://finstill.example", 200),
        ("finstill.example", "ops", "https://finstill.example:8443", 200),
        ("finstill.example", "operators", None, 200),
        ("finstill.example", "visitors", None, 403),
        ("view.finstill.example", "visitors", "https://view.finstill.example", 200),
        ("finstill.example", "operators", "https://evil.example", 403),
        ("finstill.example", "operators", "https://finstill.example.evil.example", 403),
        ("finstill.example", "operators", "https://evil-finstill.example", 403),
        ("finstill.example", "operators", "https://view.finstill.example", 403),
        ("finstill.example", "operators", "null", 403),
    ],
)
def test_full_control_is_for_operators_and_for_pages_of_its_own(
    port: int, host: str, group: str, origin: str | None, status: int
) -> None:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=20)
    headers = {"Host": f"{host}:{port}", "Cookie": group} | ({"Origin": origin} if origin else {})
    connection.request("POST", "/graphql", json.dumps({}), headers)
    assert connection.getresponse().status == status
    connection.close()


def test_the_proxy_asks_for_a_group_whatever_the_environment_lacks() -> None:
    services = yaml.safe_load((DEPLOY / "compose.yaml").read_text(encoding="utf-8"))["services"]
    assert services["proxy"]["environment"]["OAUTH2_OPERATORS"] == "${OAUTH2_OPERATORS:-operators}"
    full_control, read_only = (DEPLOY / "nginx.conf").read_text(encoding="utf-8").split("server_name view.*;")
    assert "/oauth2/auth?allowed_groups=${OAUTH2_OPERATORS};" in full_control
    assert "allowed_groups" not in read_only
    # By the image's entry point, from here alone: where the variable is left as it is, nginx does not start.
    assert services["proxy"]["volumes"] == ["./nginx.conf:/etc/nginx/templates/default.conf.template:ro"]
