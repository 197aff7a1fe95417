"""A Hub on this machine: it answers as it was told, and notes what it was asked."""

import json
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import MappingProxyType
from typing import Any, NamedTuple


class Answer(NamedTuple):
    """What is answered: a status, headers and a body; without a length of its own the body's is announced."""

    status: int = 200
    body: bytes = b""
    headers: Mapping[str, str] = MappingProxyType({})


class Asked(NamedTuple):
    """What was asked: method, path, who asked by which token, and what came along."""

    method: str
    path: str
    token: str
    body: bytes
    agent: str


class Hub:
    """Answers by path, or by a function of what was asked; 404 for all else."""

    def __init__(self, address: str) -> None:
        """Nothing was asked yet."""
        self.address = address
        self.answers: dict[str, Answer | Callable[[Asked], Answer]] = {}
        self.asked: list[Asked] = []

    def answer(self, asked: Asked) -> Answer:
        """What is said to a question, which is noted."""
        self.asked.append(asked)
        known = self.answers.get(asked.path.partition("?")[0], Answer(404))
        return known if isinstance(known, Answer) else known(asked)

    def paths(self) -> list[str]:
        """Every question, in order."""
        return [f"{asked.method} {asked.path}" for asked in self.asked]


def as_json(value: Any, status: int = 200) -> Answer:
    """A JSON value as an answer."""
    return Answer(status, json.dumps(value).encode(), {"Content-Type": "application/json"})


@contextmanager
def listening() -> Iterator[Hub]:
    """A Hub that listens while the context lasts."""

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.0"  # a connection a question; bodies may end where they like

        def do_GET(self) -> None:
            length = int(self.headers.get("Content-Length") or 0)
            token, agent = self.headers.get("Authorization") or "", self.headers.get("User-Agent") or ""
            asked = Asked(self.command, self.path, token, self.rfile.read(length), agent)
            status, body, headers = hub.answer(asked)
            self.send_response(status)
            for name, value in ({"Content-Length": str(len(body))} | dict(headers)).items():
                if value:
                    self.send_header(name, value)
            self.end_headers()
            try:
                self.wfile.write(body)
            except (BrokenPipeError, ConnectionResetError):
                pass  # whoever asked has heard enough

        do_POST = do_PUT = do_HEAD = do_DELETE = do_GET

        def log_message(self, *_: Any) -> None:
            """Say nothing."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    hub = Hub(f"http://127.0.0.1:{server.server_port}")
    thread = threading.Thread(target=server.serve_forever, args=(0.01,))
    thread.start()
    try:
        yield hub
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
