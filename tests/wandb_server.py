"""A stand-in for a W&B server, spoken to over HTTP by the real client, that keeps what it is sent and can fail on demand.

It answers the requests that wandb 0.31 makes for runs, resumed runs, tables, artifacts and saved views. As the real server, it
appends a run's rows at the offset that the client names.
"""

from __future__ import annotations

import base64
import json
import re
import threading
import time
import uuid
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

ENTITY = "team"
HISTORY, SUMMARY = "wandb-history.jsonl", "wandb-summary.json"


@dataclass
class ServedRun:
    """A run as the server has it."""

    id: str
    project: str = ""
    name: str = ""
    group: str = ""
    job_type: str = ""
    notes: str = ""
    tags: list[str] = field(default_factory=list)
    config: dict[str, Any] = field(default_factory=dict)
    summary: dict[str, Any] = field(default_factory=dict)
    lines: dict[str, dict[int, str]] = field(default_factory=dict)  # of each streamed file, by place
    files: dict[str, bytes] = field(default_factory=dict)
    exit_code: int | None = None

    @property
    def history(self) -> list[dict[str, Any]]:
        lines = self.lines.get(HISTORY, {})
        return [json.loads(lines[place]) for place in sorted(lines)]

    @property
    def steps(self) -> list[int]:
        return [row["_step"] for row in self.history]

    @property
    def settings(self) -> dict[str, Any]:
        """The configuration, without the keys of the client's own."""
        return {key: one["value"] for key, one in self.config.items() if key != "_wandb"}


@dataclass
class Fault:
    """What goes wrong: `answer` gives the HTTP status of a request, or "drop" or "hang"; None lets it through."""

    answer: Callable[[WandbServer, str], int | str | None]
    delay: float = 0.0


class WandbServer:
    """The server, from entering the context to leaving it. `runs` holds what arrived."""

    def __init__(self, fault: Fault | None = None) -> None:
        self.fault = fault
        self.runs: dict[str, ServedRun] = {}
        self.artifacts: dict[str, dict[str, Any]] = {}  # by the id that the server gave
        self.uploads: dict[str, bytes] = {}
        self.views: list[dict[str, Any]] = []
        self.operations: Counter[str] = Counter()
        self.lock = threading.RLock()
        self.over = threading.Event()
        self._server = _Quiet(("127.0.0.1", 0), _handler(self))
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}"

    def __enter__(self) -> WandbServer:
        threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self.over.set()
        self._server.shutdown()
        self._server.server_close()

    @property
    def rows(self) -> int:
        return sum(len(run.lines.get(HISTORY, {})) for run in self.runs.values())

    def named(self) -> dict[str, ServedRun]:
        """The runs by the last part of their ids: trials' names, and `sweep`."""
        return {run.id.split("-", 1)[1]: run for run in self.runs.values()}

    def file(self, artifact: dict[str, Any], name: str) -> bytes:
        """The content of an artifact's file."""
        return self.uploads[artifact["files"][name]]

    # ---- GraphQL --------------------------------------------------------------------------------------------------------------

    def answer(self, operation: str, sent: dict[str, Any]) -> dict[str, Any]:
        given = sent.get("input") or sent
        method = getattr(self, f"_{operation}", None)
        if method is None:
            return {"errors": [{"message": f"unknown operation {operation}"}]}
        return {"data": method(given)}

    def _Viewer(self, _: dict[str, Any]) -> Any:
        edges = [{"node": {"name": ENTITY, "id": "team"}}]
        viewer = {"id": "me", "entity": ENTITY, "username": "me", "name": "me", "email": "me@example.org", "admin": False}
        return {"viewer": viewer | {"flags": "{}", "teams": {"edges": edges}, "apiKeys": {"edges": []}}}

    def _RunResumeStatus(self, sent: dict[str, Any]) -> Any:
        run = self.runs.get(sent["name"])
        bucket = None
        if run is not None:
            history = run.lines.get(HISTORY, {})
            tail = [history[max(history)]] if history else []
            bucket = _bucket(run) | {
                "summaryMetrics": json.dumps(run.summary),
                "historyLineCount": len(history),
                "state": "running" if run.exit_code is None else "failed" if run.exit_code else "finished",
                "logLineCount": 0,
                "eventsLineCount": 0,
                "historyTail": json.dumps(tail),
                "eventsTail": "[]",
                "config": json.dumps(run.config),
                "tags": run.tags,
                "notes": run.notes,
                "wandbConfig": '{"t":1}',
            }
        project = sent.get("project") or "tests"
        return {"model": {"id": project, "name": project, "entity": {"id": ENTITY, "name": ENTITY}, "bucket": bucket}}

    _RunStatus = _RunResumeStatus

    def _UpsertBucket(self, sent: dict[str, Any]) -> Any:
        key = sent.get("name") or sent.get("id")
        run_id = base64.b64decode(key).decode() if key not in self.runs and key.endswith("=") else key
        new = run_id not in self.runs
        run = self.runs.setdefault(run_id, ServedRun(run_id))
        for key, ours in (("displayName", "name"), ("groupName", "group"), ("jobType", "job_type"), ("notes", "notes")):
            if sent.get(key):
                setattr(run, ours, sent[key])
        run.project = sent.get("project") or run.project
        run.tags = sent.get("tags") or run.tags
        if sent.get("config"):
            run.config = json.loads(sent["config"])
        if sent.get("summaryMetrics"):
            run.summary = json.loads(sent["summaryMetrics"])
        if not sent.get("summaryMetrics"):  # the client opens it
            run.exit_code = None
        project = {"id": run.project, "name": run.project, "entity": {"id": ENTITY, "name": ENTITY}}
        return {"upsertBucket": {"bucket": _bucket(run) | {"project": project}, "inserted": new}}

    def _CreateRunFiles(self, sent: dict[str, Any]) -> Any:
        files = [{"name": name, "uploadUrl": f"{self.url}/storage/{sent['run']}/{name}"} for name in sent["files"]]
        return {"createRunFiles": {"runID": sent["run"], "uploadHeaders": [], "files": files}}

    def _CreateArtifact(self, sent: dict[str, Any]) -> Any:
        key = uuid.uuid4().hex
        self.artifacts[key] = {**sent, "id": key, "files": {}, "state": "PENDING"}
        return {"createArtifact": {"artifact": {"id": key, "state": "PENDING", "artifactSequence": {"latestArtifact": None}}}}

    def _CreateArtifactManifest(self, _: dict[str, Any]) -> Any:
        file = {"id": "m", "uploadUrl": f"{self.url}/storage/manifest/{uuid.uuid4().hex}", "uploadHeaders": []}
        return {"createArtifactManifest": {"artifactManifest": {"id": "m", "file": file}}}

    def _CreateArtifactFiles(self, sent: dict[str, Any]) -> Any:
        edges = []
        for told in sent["artifactFiles"]:
            place = f"artifacts/{uuid.uuid4().hex}"
            self.artifacts[told["artifactID"]]["files"][told["name"]] = place
            node = {"storagePath": place, "uploadUrl": f"{self.url}/storage/{place}", "uploadHeaders": []}
            edges.append({"node": node | {"uploadMultipartUrls": None, "artifact": {"id": told["artifactID"]}}})
        return {"createArtifactFiles": {"files": {"edges": edges}}}

    def _CommitArtifact(self, sent: dict[str, Any]) -> Any:
        artifact = self.artifacts[sent["artifactID"]]
        artifact["state"] = "COMMITTED"
        return {"commitArtifact": {"artifact": {"id": artifact["id"], "digest": artifact.get("digest", "")}}}

    def _UpsertView2(self, sent: dict[str, Any]) -> Any:
        self.views.append(sent)
        return {"upsertView": {"view": {"id": f"view-{len(self.views)}", "name": sent.get("name") or "nw-1"}, "inserted": True}}

    # ---- files and rows -------------------------------------------------------------------------------------------------------

    def stream(self, run_id: str, sent: dict[str, Any]) -> None:
        run = self.runs.setdefault(run_id, ServedRun(run_id))
        for name, part in (sent.get("files") or {}).items():
            lines = run.lines.setdefault(name, {})
            for place, line in enumerate(part["content"], start=part["offset"]):
                lines[place] = line
            if name == SUMMARY and part["content"]:
                run.summary = json.loads(part["content"][-1])
        if sent.get("complete"):
            run.exit_code = sent.get("exitcode")

    def store(self, place: str, content: bytes) -> None:
        self.uploads[place] = content
        first, _, name = place.partition("/")
        if first in self.runs:
            self.runs[first].files[name] = content


class _Quiet(ThreadingHTTPServer):
    daemon_threads = True

    def handle_error(self, *_: object) -> None:
        """A client that is killed breaks its connections off."""


def _bucket(run: ServedRun) -> dict[str, Any]:
    key = base64.b64encode(run.id.encode()).decode()
    told = {"id": key, "name": run.id, "displayName": run.name, "description": "", "config": json.dumps(run.config)}
    return told | {"sweepName": None, "historyLineCount": len(run.lines.get(HISTORY, {}))}


def _handler(server: WandbServer) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        disable_nagle_algorithm = True

        def log_message(self, *_: object) -> None: ...

        def _reply(self, status: int, value: Any) -> None:
            content = json.dumps(value).encode()
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        def _serve(self) -> None:
            content = self.rfile.read(int(self.headers.get("Content-Length") or 0))
            sent = json.loads(content or b"{}") if self.command == "POST" else {}
            operation = self.path
            if self.path == "/graphql":
                query = sent["query"]
                named = re.search(r"(?:query|mutation)\s+(\w+)", query)
                operation = sent.get("operationName") or (named.group(1) if named else "")
            with server.lock:
                server.operations[operation] += 1
            if (fault := server.fault) is not None:
                time.sleep(fault.delay)
                with server.lock:
                    found = fault.answer(server, operation)
                if found == "hang":
                    server.over.wait()
                if isinstance(found, str):
                    self.close_connection = True
                    self.connection.close()
                    return
                if found is not None:
                    self._reply(found, {"errors": [{"message": f"planted {found}"}]})
                    return
            with server.lock:
                if self.path == "/graphql":
                    self._reply(200, server.answer(operation, sent.get("variables") or {}))
                elif self.path.endswith("/file_stream"):
                    server.stream(self.path.split("/")[-2], sent)
                    self._reply(200, {"exitcode": None, "limits": {}})
                elif self.command == "PUT":
                    server.store(self.path.removeprefix("/storage/"), content)
                    self._reply(200, {})
                else:
                    self._reply(404, {})

        do_POST = do_PUT = do_GET = _serve

    return Handler
