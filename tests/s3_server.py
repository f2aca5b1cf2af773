"""A real S3 server for tests: moto's, in a process of its own, with one bucket. It can be halted and woken."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import boto3

CREDENTIALS = {"AWS_ACCESS_KEY_ID": "planted-id", "AWS_SECRET_ACCESS_KEY": "planted-secret", "AWS_DEFAULT_REGION": "us-east-1"}
BUCKET = "bucket"


@dataclass
class Server:
    process: subprocess.Popen[bytes]
    port: int

    def url(self, key: str, bucket: str = BUCKET) -> str:
        return f"s3://{bucket}/{key}?scheme=http&endpoint_override=127.0.0.1:{self.port}"

    def halt(self) -> None:
        """It takes connections on and answers none, as a server in trouble does."""
        self.process.send_signal(signal.SIGSTOP)

    def wake(self) -> None:
        self.process.send_signal(signal.SIGCONT)


@contextmanager
def s3_server() -> Iterator[Server]:
    """Also puts the credentials of this process, and of those that it starts, into the environment."""
    before = {name: os.environ.get(name) for name in CREDENTIALS}
    os.environ.update(CREDENTIALS)
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = int(probe.getsockname()[1])
    command = [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(port)]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        while True:
            assert process.poll() is None
            try:
                socket.create_connection(("127.0.0.1", port), timeout=1).close()
                break
            except OSError:
                time.sleep(0.1)
        boto3.client("s3", endpoint_url=f"http://127.0.0.1:{port}").create_bucket(Bucket=BUCKET)
        yield Server(process, port)
    finally:
        process.send_signal(signal.SIGCONT)
        process.kill()
        process.wait()
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value
