"""A stand-in for the Hugging Face hub: login, repositories, uploads and commits, as far as its client needs them to push a model."""

from __future__ import annotations

import base64
import hashlib
import json
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

TOKENS = {"hf_write": "write", "hf_read": "read"}  # of the user `ada`, who is in the organization `acme`


@dataclass
class Hub:
    """`repos`: whether each is private. `files`: the content of each, by repository and path. `refuses`: commits fail."""

    url: str = ""
    repos: dict[str, bool] = field(default_factory=dict)
    files: dict[str, dict[str, bytes]] = field(default_factory=dict)
    refuses: bool = False
    asked: list[str] = field(default_factory=list)
    uploads: dict[str, bytes] = field(default_factory=dict)

    def answer(self, method: str, path: str, body: bytes, token: str | None) -> tuple[int, Any]:
        self.asked.append(f"{method} {path}")
        if method == "PUT":
            self.uploads[hashlib.sha256(body).hexdigest()] = body
            return 200, {}
        role = TOKENS.get(token or "")
        if path == "/api/whoami-v2":
            who = {"type": "user", "name": "ada", "orgs": [{"name": "acme"}], "auth": {"accessToken": {"role": role}}}
            return (200, who) if role else (401, {"error": "Invalid user token."})
        if path == "/api/repos/create":
            asked = json.loads(body)
            name = f"{asked.get('organization') or 'ada'}/{asked['name']}"
            if name in self.repos:
                return 409, {"error": "exists", "url": f"{self.url}/{name}"}
            self.repos[name] = bool(asked.get("private")) or asked.get("visibility") == "private"
            return 200, {"url": f"{self.url}/{name}", "name": name}
        if path == "/api/validate-yaml":
            return 200, {"errors": [], "warnings": []}
        if found := re.fullmatch(r"/([\w.-]+/[\w.-]+)\.git/info/lfs/objects/batch", path):
            objects = [
                {**one, "actions": {"upload": {"href": f"{self.url}/upload/{one['oid']}"}}}
                for one in json.loads(body)["objects"]
            ]
            return 200, {"transfer": "basic", "objects": objects}
        found = re.fullmatch(r"/api/models/([\w.-]+/[\w.-]+)(.*)", path)
        if not found or found[1] not in self.repos:
            return 404, {"error": "Repository not found"}
        repo, rest = found.groups()
        if rest.startswith("/preupload"):
            large = {True: "lfs", False: "regular"}
            told = [{"path": one["path"], "uploadMode": large[one["path"].endswith("safetensors")], "shouldIgnore": False}
                    for one in json.loads(body)["files"]]  # fmt: skip
            return 200, {"files": told}
        if rest.startswith("/commit"):
            return (403, {"error": "the hub is closed today"}) if self.refuses else self._commit(repo, body)
        return 200, {"id": repo, "private": self.repos[repo], "sha": "0" * 40, "siblings": [], "tags": []}

    def _commit(self, repo: str, body: bytes) -> tuple[int, Any]:
        files = self.files.setdefault(repo, {})
        for line in map(json.loads, body.splitlines()):
            one = line["value"]
            if line["key"] == "file":
                files[one["path"]] = base64.b64decode(one["content"])
            elif line["key"] == "lfsFile":
                files[one["path"]] = self.uploads[one["oid"]]
        return 200, {
            "success": True,
            "commitOid": "1" * 40,
            "commitUrl": f"{self.url}/{repo}/commit/{'1' * 40}",
            "hookOutput": "",
        }


@contextmanager
def hub_server() -> Iterator[Hub]:
    hub = Hub()

    class Handler(BaseHTTPRequestHandler):
        def _any(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
            token = (self.headers.get("Authorization") or "").removeprefix("Bearer ") or None
            status, answer = hub.answer(self.command, self.path.partition("?")[0], body, token)
            content = json.dumps(answer).encode()
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(content)))
            if status == 404:
                self.send_header("X-Error-Code", "RepoNotFound")
            self.end_headers()
            self.wfile.write(content)

        do_GET = do_POST = do_PUT = do_HEAD = _any

        def log_message(self, *_: Any) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    hub.url = f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield hub
    finally:
        server.shutdown()
        server.server_close()
