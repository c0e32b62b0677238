"""The Batch API on loopback: files, batches that end at the second look, and lists of them, latest first."""

from __future__ import annotations

import json
import time
import uuid
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler
from typing import Any

from bench.loopback import LoopbackJudge, Odd, completion


class BatchJudge(LoopbackJudge):
    """Runs the requests of a batch once; ``lines`` are what it was paid for.

    Attributes:
        fault: called with the method and path of each request; what it returns is sent in place of the answer, ``(after=True)``
            once the request has had its effect.
        end: status of a batch that has run.
        partly: share of a batch's requests that are run.
    """

    def __init__(self) -> None:
        super().__init__()
        self.RequestHandlerClass = _Handler
        self.files: dict[str, bytes] = {}
        self.batches: dict[str, dict[str, Any]] = {}
        self.lines: list[dict[str, Any]] = []
        self.fault: Callable[[str, str, bool], Odd | None] = lambda method, path, after: None
        self.end = "completed"
        self.partly = 1.0

    def put(self, content: bytes) -> str:
        name = f"file-{uuid.uuid4().hex}"
        self.files[name] = content
        return name

    def create(self, asked: dict[str, Any]) -> dict[str, Any]:
        assert asked["completion_window"] == "24h"
        assert asked["endpoint"] == "/v1/chat/completions"
        name = f"batch_{len(self.batches)}"
        self.batches[name] = {
            "id": name, "object": "batch", "status": "validating", "created_at": int(time.time()),
            "output_file_id": None, "error_file_id": None, "errors": None, **asked,
        }  # fmt: skip
        return self.batches[name]

    def look(self, name: str) -> dict[str, Any]:
        """A batch, which then goes on."""
        batch = self.batches[name]
        if batch["status"] == "in_progress":
            self.run(batch)
        if batch["status"] == "validating":
            batch["status"] = "in_progress"
        return batch

    def run(self, batch: dict[str, Any]) -> None:
        rows = [json.loads(line) for line in self.files[batch["input_file_id"]].splitlines()]
        assert len({row["custom_id"] for row in rows}) == len(rows)
        done: dict[bool, list[bytes]] = {True: [], False: []}
        for row in rows[: round(len(rows) * self.partly)]:
            self.lines.append(row["body"])
            said = self.reply(row["body"], len(self.lines))
            said = said if isinstance(said, Odd) else Odd(200, completion(said))
            result = {"custom_id": row["custom_id"], "response": {"status_code": said.status, "body": said.body}}
            done[said.status == 200].append(json.dumps({"id": "x", "error": None} | result).encode() + b"\n")
        batch["output_file_id"] = self.put(b"".join(done[True][::-1])) if done[True] else None
        batch["error_file_id"] = self.put(b"".join(done[False])) if done[False] else None
        batch["status"] = self.end
        batch["request_counts"] = {"total": len(rows), "completed": len(done[True]), "failed": len(done[False])}


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: BatchJudge

    def do_POST(self) -> None:
        sent = self.rfile.read(int(self.headers["content-length"]))
        self.answer("POST", lambda: self.posted(sent))

    def do_GET(self) -> None:
        self.answer("GET", self.got)

    def posted(self, sent: bytes) -> dict[str, Any]:
        if self.path == "/v1/files":
            boundary = self.headers["content-type"].split("boundary=")[1].encode()
            (content,) = (
                part.partition(b"\r\n\r\n")[2][:-2] for part in sent.split(b"--" + boundary) if b"filename=" in part
            )
            assert b'name="purpose"\r\n\r\nbatch' in sent
            return {"id": self.server.put(content), "object": "file", "bytes": len(content), "purpose": "batch"}
        assert self.path == "/v1/batches"
        return self.server.create(json.loads(sent))

    def got(self) -> dict[str, Any] | bytes:
        path, _, query = self.path.partition("?")
        _, _, kind, *name = path.split("/")
        if kind == "files":
            return self.server.files[name[0]]
        if name:
            return self.server.look(name[0])
        latest = list(self.server.batches.values())[::-1]
        after = [i for i, batch in enumerate(latest, 1) if f"after={batch['id']}" in query.split("&")]
        page = latest[after[0] if after else 0 :][:2]
        return {"object": "list", "data": page, "has_more": page[-1:] != latest[-1:]}

    def answer(self, method: str, act: Callable[[], Any]) -> None:
        with self.server.lock:
            said = self.server.fault(method, self.path, False)
            if said is None:
                body = act()
                said = self.server.fault(method, self.path, True) or Odd(200, body)
        data = said.body if isinstance(said.body, bytes) else json.dumps(said.body).encode()
        self.send_response(said.status)
        self.send_header("content-type", "application/json")
        self.send_header("content-length", str(len(data) + said.drop))
        self.end_headers()
        self.wfile.write(data)
        self.close_connection = said.drop

    def log_message(self, format: str, *args: Any) -> None:
        pass
