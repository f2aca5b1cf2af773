"""Spot notices, from servers that answer like those of the clouds."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from scalesweep.workers import notices
from scalesweep.workers.notices import await_notice


class Cloud(BaseHTTPRequestHandler):
    """A metadata server of an AWS and a Google machine, which announces the end at the third request."""

    asked: list[str]
    token = "a token"

    def do_PUT(self) -> None:
        right = self.path == "/latest/api/token" and int(self.headers["X-aws-ec2-metadata-token-ttl-seconds"]) > 0
        self._answer(200 if right else 400, self.token)

    def do_GET(self) -> None:
        self.asked.append(self.path)
        announced = len(self.asked) >= 3
        if self.path == "/latest/meta-data/spot/instance-action":
            if self.headers["X-aws-ec2-metadata-token"] != self.token:
                self._answer(401, "")
            elif announced:
                self._answer(200, '{"action": "terminate", "time": "2026-01-01T08:22:00Z"}')
            else:
                self._answer(404, "")
        elif self.path == "/computeMetadata/v1/instance/preempted" and self.headers["Metadata-Flavor"] == "Google":
            self._answer(200, "TRUE" if announced else "FALSE")
        else:
            self._answer(403, "")

    def _answer(self, code: int, text: str) -> None:
        self.send_response(code)
        self.end_headers()
        self.wfile.write(text.encode())

    def log_message(self, *_: object) -> None: ...


@pytest.fixture
def cloud(monkeypatch: pytest.MonkeyPatch) -> Iterator[ThreadingHTTPServer]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), Cloud)
    Cloud.asked = []
    threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()
    host = f"127.0.0.1:{server.server_port}"
    monkeypatch.setenv("AWS_EC2_METADATA_SERVICE_ENDPOINT", f"http://{host}/")
    monkeypatch.setenv("GCE_METADATA_HOST", host)
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:9")  # no request goes through it
    monkeypatch.setattr(notices, "POLL_SECONDS", 0.05)
    yield server
    server.shutdown()
    server.server_close()


@pytest.mark.parametrize("source", ["aws", "gcp"])
def test_a_cloud_is_asked_until_it_announces_the_end(cloud: ThreadingHTTPServer, source: str) -> None:  # noqa: ARG001
    assert await_notice(source) is None
    assert len(Cloud.asked) == 3


@pytest.mark.parametrize("source", ["aws", "gcp"])
def test_a_machine_that_is_not_of_that_cloud_says_so(cloud: ThreadingHTTPServer, source: str) -> None:
    cloud.shutdown()
    cloud.server_close()
    assert f"spot notices are not available ({source})" in str(await_notice(source))


def test_a_file_announces_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(notices, "POLL_SECONDS", 0.05)
    notice = tmp_path / "leaving"
    timer = threading.Timer(0.3, notice.touch)
    timer.start()
    assert await_notice(str(notice)) is None
    assert notice.exists()
