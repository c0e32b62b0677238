"""A judge on loopback that speaks OpenAI's protocol, well or badly."""

from __future__ import annotations

import json
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from diffinfo.config.benchmarks import Judge

SECRET = "sk-test-0123456789-secret"


@dataclass(frozen=True)
class Odd:
    """A response as it stands: status, body and headers; ``hold`` seconds late; ``drop``: the line breaks before its end."""

    status: int = 200
    body: str | bytes | dict[str, Any] | list[Any] = b""
    headers: dict[str, str] = field(default_factory=dict)
    hold: float = 0.0
    drop: bool = False


def completion(text: Any = "", end: Any = "stop", usage: Any = None, **message: Any) -> dict[str, Any]:
    """A chat completion whose first message has this content."""
    choice = {"index": 0, "finish_reason": end, "message": {"role": "assistant", "content": text, **message}}
    said = {"id": "1", "object": "chat.completion", "created": 0, "model": "x", "choices": [choice]}
    return said | ({} if usage is None else {"usage": usage})


class LoopbackJudge(ThreadingHTTPServer):
    """Answers chat completions by ``reply(body, number)``: a text, a text and its end, an HTTP status, or as ``Odd``."""

    daemon_threads = True
    request_queue_size = 128

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.bodies: list[dict[str, Any]] = []
        self.times: list[float] = []
        self.keys: set[str] = set()
        self.reply: Callable[[dict[str, Any], int], str | tuple[str, str] | int | Odd] = lambda body, number: (
            "My final verdict is [[A=B]]"
        )
        self.lock = threading.Lock()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}/v1"

    def config(self, **changes: Any) -> Judge:
        return Judge(
            **{"kind": "openai", "model": "loopback", "base_url": self.url, "api_key_env": "JUDGE_KEY"} | changes
        )

    def handle_error(self, request: Any, client_address: Any) -> None:
        if not isinstance(sys.exception(), ConnectionError):  # of clients that are killed
            super().handle_error(request, client_address)


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_POST(self) -> None:
        server: LoopbackJudge = self.server  # type: ignore[assignment]
        body = json.loads(self.rfile.read(int(self.headers["content-length"])))
        with server.lock:
            server.keys.add(self.headers["authorization"])
            server.bodies.append(body)
            server.times.append(time.monotonic())
            number = len(server.bodies)
        said = server.reply(body, number)
        if isinstance(said, int):  # an endpoint that echoes the key, as careless ones do
            said = Odd(said, {"error": {"message": f"failed for {self.headers['authorization']}", "type": "test"}})
        if not isinstance(said, Odd):
            text, end = said if isinstance(said, tuple) else (said, "stop")
            said = Odd(200, completion(text, end))
        time.sleep(said.hold)
        data = said.body if isinstance(said.body, (bytes, str)) else json.dumps(said.body)
        data = data if isinstance(data, bytes) else data.encode("utf-8", "surrogatepass")
        self.send_response(said.status)
        for name, content in {"content-type": "application/json", "retry-after-ms": "1", **said.headers}.items():
            self.send_header(name, content)
        self.send_header("content-length", str(len(data) + said.drop))
        self.end_headers()
        self.wfile.write(data)
        self.close_connection = said.drop

    def log_message(self, format: str, *args: Any) -> None:
        pass
