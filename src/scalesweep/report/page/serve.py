"""The page over HTTP, on this machine alone, with new numbers while a sweep runs."""

from __future__ import annotations

import hashlib
import json
import threading
import time
from collections.abc import Callable, Sequence
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import urlsplit

from scalesweep.errors import ScalesweepError
from scalesweep.record import Record
from scalesweep.report.page.write import document, page_json, title_of

REFRESH_SECONDS = 2.0  # between two questions of a page
IDLE = 4  # times the seconds that one reading took, for which the numbers are kept: a large record does not fill a core
LOOPBACK = ("localhost", "127.0.0.1", "::1")


class Numbers:
    """The newest data of the page. They are read again when someone asks and they are old."""

    def __init__(self, read: Callable[[], Sequence[Record]]) -> None:
        self._read, self._lock, self._until = read, threading.Lock(), 0.0
        self.text, self.tag, self.title = "", "", ""

    def renew(self) -> None:
        """Read the records, unless this was just done.

        Raises:
            ScalesweepError, OSError: a record can't be read.
        """
        with self._lock:
            began = time.monotonic()
            if began < self._until:
                return
            records = self._read()
            text = page_json(records, REFRESH_SECONDS)
            tag = hashlib.sha256(json.dumps(json.loads(text)["sweeps"]).encode()).hexdigest()[:16]
            if f'"{tag}"' != self.tag:  # else only the time of writing is another
                self.text, self.tag, self.title = text, f'"{tag}"', title_of(records)
            self._until = time.monotonic() + max(REFRESH_SECONDS / 2, IDLE * (time.monotonic() - began))


def server(read: Callable[[], Sequence[Record]]) -> ThreadingHTTPServer:
    """A server of the page on a free port of the loopback address. `read` returns the records of the sweeps.

    Raises:
        ScalesweepError, OSError: a record can't be read.
    """
    numbers = Numbers(read)
    numbers.renew()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            # A page of another site could reach this port under a name of its own that resolves to the loopback address.
            if urlsplit(f"//{self.headers.get('Host', '')}").hostname not in LOOPBACK:
                self._answer(403, "text/plain", "ask for localhost")
                return
            try:
                numbers.renew()
            except (ScalesweepError, OSError) as error:
                self._answer(503, "text/plain", str(error))
                return
            if self.path == "/":
                self._answer(200, "text/html", document(numbers.text, numbers.title, served=True))
            elif self.path != "/data.json":
                self._answer(404, "text/plain", "there is / and /data.json")
            elif self.headers.get("If-None-Match") == numbers.tag:
                self._answer(304, "application/json", "")
            else:
                self._answer(200, "application/json", numbers.text)

        def _answer(self, status: int, kind: str, text: str) -> None:
            content = text.encode()
            self.send_response(status)
            headers = {"Content-Type": f"{kind}; charset=utf-8", "Cache-Control": "no-store", "ETag": numbers.tag}
            headers |= {"X-Content-Type-Options": "nosniff", "Cross-Origin-Resource-Policy": "same-origin"}
            for name, value in headers.items():
                self.send_header(name, value)
            if status != 304:
                self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        def log_message(self, format: str, *args: object) -> None:
            """Nothing: a line per request would hide the address."""

    return ThreadingHTTPServer(("127.0.0.1", 0), Handler)


def serve(read: Callable[[], Sequence[Record]], say: Callable[[str], None]) -> None:
    """Serve the page until Ctrl-C. `say` gets its address.

    Raises:
        ScalesweepError, OSError: a record can't be read.
    """
    with server(read) as running:
        say(f"http://127.0.0.1:{running.server_address[1]}/")
        try:
            running.serve_forever()
        except KeyboardInterrupt:
            return
