"""Direct requests to a W&B server: why it refuses, which rows it has of a run, and a new summary for a run that has ended."""

from __future__ import annotations

import base64
import json
import ssl
import urllib.error
import urllib.request
from dataclasses import dataclass
from http.client import HTTPException
from typing import Any

from scalesweep.errors import first_line

SECONDS = 8.0  # for an answer

_VIEWER = "query Viewer { viewer { id entity } }"
_STATUS = """query RunStatus($project: String, $entity: String, $name: String!) {
  model(name: $project, entityName: $entity) {
    bucket(name: $name, missingOk: true) { id state historyLineCount summaryMetrics }
  }
}"""
_SUMMARY = """mutation UpsertBucket($id: String, $summaryMetrics: JSONString) {
  upsertBucket(input: {id: $id, summaryMetrics: $summaryMetrics}) { bucket { id } }
}"""


class ServerError(Exception):
    """The server can't be used; the text is the reason."""


@dataclass(frozen=True)
class ServedRun:
    """A run as the server has it: its key there, whether it was finished, the number of its rows, and its summary."""

    key: str
    ended: bool
    rows: int
    summary: dict[str, Any]


class Server:
    """A W&B server. Without a key (other ways to log in), only the client of W&B speaks to it."""

    def __init__(self, url: str, key: str | None, seconds: float = SECONDS) -> None:
        self.url, self.seconds = url.rstrip("/"), seconds
        self._key = key

    @property
    def answers(self) -> bool:
        return self._key is not None

    def check(self) -> None:
        """Check that the server accepts the key.

        Raises:
            ServerError: it does not.
        """
        if self.answers and self._ask("Viewer", _VIEWER, {}).get("viewer") is None:
            raise ServerError(f"{self.url} does not know the API key; `wandb login` sets another one")

    def entity(self) -> str:
        """The default entity of the user.

        Raises:
            ServerError: the server does not answer.
        """
        return str(self._ask("Viewer", _VIEWER, {})["viewer"].get("entity") or "")

    def run(self, project: str, entity: str | None, run_id: str) -> ServedRun | None:
        """The run with this id; None where the server has none.

        Raises:
            ServerError: the server does not answer.
        """
        found = self._ask("RunStatus", _STATUS, {"project": project, "entity": entity, "name": run_id})
        bucket = (found.get("model") or {}).get("bucket")
        if bucket is None:
            return None
        ended = bucket["state"] in ("finished", "failed")
        return ServedRun(bucket["id"], ended, bucket["historyLineCount"] or 0, json.loads(bucket["summaryMetrics"] or "{}"))

    def change_summary(self, run: ServedRun, changes: dict[str, Any]) -> None:
        """Write values into the summary of a run that has ended.

        Raises:
            ServerError: the server does not answer.
        """
        summary = json.dumps({**run.summary, **changes})
        self._ask("UpsertBucket", _SUMMARY, {"id": run.key, "summaryMetrics": summary})

    def _ask(self, operation: str, query: str, variables: dict[str, Any]) -> dict[str, Any]:
        content = json.dumps({"operationName": operation, "query": query, "variables": variables}).encode()
        key = base64.b64encode(f"api:{self._key}".encode()).decode()
        headers = {"Content-Type": "application/json", "Authorization": f"Basic {key}", "User-Agent": "scalesweep"}
        request = urllib.request.Request(f"{self.url}/graphql", content, headers)
        try:
            with urllib.request.urlopen(request, timeout=self.seconds) as answer:
                told = json.loads(answer.read())
        except urllib.error.HTTPError as error:
            raise ServerError(self._refusal(error.code)) from None
        except TimeoutError:
            raise ServerError(f"{self.url} does not answer within {self.seconds:.0f} s") from None
        except urllib.error.URLError as error:
            if isinstance(error.reason, ssl.SSLError):  # W&B's client may know other certificates
                self._key = None
                return {"viewer": {}}
            if isinstance(error.reason, TimeoutError):
                raise ServerError(f"{self.url} does not answer within {self.seconds:.0f} s") from None
            raise ServerError(f"{self.url} can't be reached: {_cause(error.reason)}") from None
        except (OSError, HTTPException) as error:
            raise ServerError(f"{self.url} breaks the connection off: {_cause(error)}") from None
        except ValueError:
            raise ServerError(f"{self.url} does not answer as a W&B server does") from None
        if not isinstance(told, dict) or told.get("data") is None:
            problems = told.get("errors") if isinstance(told, dict) else None
            raise ServerError(f"{self.url} refuses a request: {problems[0].get('message') if problems else 'no data'}")
        data: dict[str, Any] = told["data"]
        return data

    def _refusal(self, code: int) -> str:
        if code == 401:
            return f"{self.url} does not accept the API key (401); `wandb login` sets another one"
        if code == 403:
            return f"{self.url} forbids it (403); the API key may not write to this project or entity"
        return f"{self.url} answers with an error ({code})"


def _cause(error: object) -> str:
    return str(getattr(error, "strerror", None) or first_line(str(error) or type(error).__name__))
