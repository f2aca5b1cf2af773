"""Spot notices: whether the cloud or the operator has announced that this machine will be taken away.

AWS: https://docs.aws.amazon.com/AWSEC2/latest/UserGuide/spot-instance-termination-notices.html (two minutes ahead).
Google: https://cloud.google.com/compute/docs/instances/create-use-preemptible (30 seconds ahead).
"""

from __future__ import annotations

import os
import time
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any

import ray
from ray.exceptions import RayActorError

POLL_SECONDS = 5.0  # as AWS recommends
ANSWER_SECONDS = 2.0
_direct = urllib.request.build_opener(urllib.request.ProxyHandler({}))  # the metadata server is never behind a proxy


def await_notice(source: str) -> str | None:
    """Wait for the notice that the machine will be taken away. Returns a message at once if the source does not answer.

    Args:
        source: `aws` or `gcp` for the metadata server of that cloud, or the path of a file that the operator creates before
            taking the machine away.
    """
    try:
        noticed = _noticed(source)
    except OSError as error:
        return f"spot notices are not available ({source}): {error}"
    while not noticed:
        time.sleep(POLL_SECONDS)
        try:
            noticed = _noticed(source)
        except OSError:
            continue  # the server has answered before
    return None


class Listener:
    """An actor per node with workers, which waits for the notice that the node will be taken away."""

    def listen(self, source: str) -> str | None:
        return await_notice(source)


class NoticeWatch:
    """The listeners of all nodes with workers. A listener takes no resources and leaves a node with its last worker."""

    def __init__(self, source: str) -> None:
        self.source = source
        self._actor = ray.remote(Listener)
        self._watches: dict[str, tuple[Any, Any]] = {}  # node → its listener and the reference to the notice

    def poll(self, nodes: set[str]) -> tuple[list[str], list[str]]:
        """Listen on exactly these nodes. Returns the nodes with a new notice, and remarks on sources that do not answer."""
        for node in self._watches.keys() - nodes:
            ray.kill(self._watches.pop(node)[0])
        for node in nodes - self._watches.keys():
            watch = self._actor.options(num_cpus=0, label_selector={"ray.io/node-id": node}).remote()
            self._watches[node] = watch, watch.listen.remote(self.source)
        told = {reference: node for node, (_, reference) in self._watches.items() if reference is not None}
        leaving, remarks = [], []
        for reference in ray.wait(list(told), num_returns=len(told), timeout=0)[0] if told else []:
            node = told[reference]
            self._watches[node] = self._watches[node][0], None
            try:
                wrong = ray.get(reference)
            except RayActorError:
                continue  # usually the node is gone, and its workers are found dead too
            if wrong is None:
                leaving.append(node)
            else:
                remarks.append(wrong)
        return leaving, remarks


def _noticed(source: str) -> bool:
    """Whether the end of the machine has been announced. The addresses are those that the SDKs of these clouds use.

    Raises:
        OSError: the server does not answer.
    """
    if source == "aws":
        server = os.environ.get("AWS_EC2_METADATA_SERVICE_ENDPOINT", "http://169.254.169.254").rstrip("/")
        token = _ask(f"{server}/latest/api/token", "PUT", {"X-aws-ec2-metadata-token-ttl-seconds": "60"})
        if token is None:
            raise OSError(f"{server} returns no token")
        action = _ask(f"{server}/latest/meta-data/spot/instance-action", "GET", {"X-aws-ec2-metadata-token": token})
        return action is not None
    if source == "gcp":
        server = os.environ.get("GCE_METADATA_HOST", "metadata.google.internal")
        answer = _ask(f"http://{server}/computeMetadata/v1/instance/preempted", "GET", {"Metadata-Flavor": "Google"})
        return answer == "TRUE"
    return Path(source).exists()


def _ask(url: str, method: str, headers: dict[str, str]) -> str | None:
    """The text of the answer; None if the server has no such item (status 404)."""
    try:
        with _direct.open(urllib.request.Request(url, method=method, headers=headers), timeout=ANSWER_SECONDS) as answer:
            return str(answer.read(4096).decode(errors="replace").strip())
    except urllib.error.HTTPError as error:
        if error.code == 404:
            return None
        raise
