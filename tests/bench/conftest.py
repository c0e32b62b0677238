"""A judge on loopback that speaks OpenAI's protocol, and small benchmarks to judge."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from tokenizers import Tokenizer, models, pre_tokenizers

from diffinfo.config.benchmarks import Judge
from diffinfo.tables import artifacts

SECRET = "sk-test-0123456789-secret"


class LoopbackJudge(ThreadingHTTPServer):
    """Answers chat completions by ``reply(body, number)``: a text, a text and its end, or an HTTP status to fail with."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.bodies: list[dict[str, Any]] = []
        self.keys: set[str] = set()
        self.reply: Callable[[dict[str, Any], int], str | tuple[str, str] | int] = lambda body, number: (
            "My final verdict is [[A=B]]"
        )
        self.lock = threading.Lock()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}/v1"

    def config(self, **changes: Any) -> Judge:
        return Judge(kind="openai", model="loopback", base_url=self.url, api_key_env="JUDGE_KEY", **changes)


class _Handler(BaseHTTPRequestHandler):
    def do_POST(self) -> None:
        server: LoopbackJudge = self.server  # type: ignore[assignment]
        body = json.loads(self.rfile.read(int(self.headers["content-length"])))
        with server.lock:
            server.keys.add(self.headers["authorization"])
            server.bodies.append(body)
            number = len(server.bodies)
        text = server.reply(body, number)
        if isinstance(text, int):  # an endpoint that echoes the key, as careless ones do
            self._send(text, {"error": {"message": f"failed for {self.headers['authorization']}", "type": "test"}})
            return
        text, end = text if isinstance(text, tuple) else (text, "stop")
        message = {"index": 0, "finish_reason": end, "message": {"role": "assistant", "content": text}}
        self._send(200, {"id": "1", "object": "chat.completion", "created": 0, "model": "x", "choices": [message]})

    def _send(self, status: int, value: dict[str, Any]) -> None:
        data = json.dumps(value).encode()
        self.send_response(status)
        for name, content in (("content-type", "application/json"), ("retry-after-ms", "1")):
            self.send_header(name, content)
        self.send_header("content-length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, format: str, *args: Any) -> None:
        pass


@pytest.fixture
def secret(monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.setenv("JUDGE_KEY", SECRET)
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    return SECRET


@pytest.fixture
def loopback(secret: str) -> Iterator[LoopbackJudge]:
    server = LoopbackJudge()
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield server
    server.shutdown()
    server.server_close()
    thread.join()


@pytest.fixture
def words(tmp_path: Path) -> Path:
    """A folder whose tokenizer counts words."""
    tokenizer = Tokenizer(models.WordLevel({"[UNK]": 0}, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    folder = tmp_path / "tokenizer"
    folder.mkdir()
    tokenizer.save(str(folder / "tokenizer.json"))
    return folder


@pytest.fixture
def questions(tmp_path: Path) -> Path:
    """Four Arena-Hard questions."""
    rows = [
        {
            "benchmark": "arena-hard",
            "prompt_id": f"q{i}",
            "messages": [{"role": "user", "content": f"question {i} {{x}}"}],
            "tag": "t",
            "checklist": [],
            "baseline": f"baseline answer {i}",
        }
        for i in range(4)
    ]
    path = tmp_path / "arena-hard.parquet"
    artifacts.write(path, pd.DataFrame(rows), "benchmark")
    return path


@pytest.fixture
def tasks(tmp_path: Path) -> Path:
    """Three WildBench tasks."""
    rows = [
        {
            "benchmark": "wildbench",
            "prompt_id": f"w{i}",
            "messages": [
                {"role": "user", "content": "first"},
                {"role": "assistant", "content": "second"},
                {"role": "user", "content": f"task {i}"},
            ],
            "tag": tag,
            "checklist": ["is it right ?", "is it polite ?"],
            "baseline": f"reference {i}",
        }
        for i, tag in enumerate(["Math", "Coding & Debugging", "Creative Writing; Editing; Math"])
    ]
    path = tmp_path / "wildbench.parquet"
    artifacts.write(path, pd.DataFrame(rows), "benchmark")
    return path


@pytest.fixture
def write_answers(tmp_path: Path) -> Callable[..., Path]:
    """Writes a completions table of {epoch: {prompt_id: text}}."""

    def write(name: str, answers: dict[int, dict[str, str]], benchmark: str = "arena-hard", cut: str = "") -> Path:
        rows = [
            {
                "benchmark": benchmark,
                "epoch": epoch,
                "prompt_id": prompt,
                "sample": 0,
                "messages": [{"role": "user", "content": "x"}],
                "prompt_token_ids": [1],
                "completion": text,
                "token_ids": list(range(len(text.split()) + (prompt != cut))),
                "logp": 0.0,
                "finish_reason": "length" if prompt == cut else "stop",
            }
            for epoch, texts in answers.items()
            for prompt, text in texts.items()
        ]
        path = tmp_path / f"{name}.parquet"
        artifacts.write(path, pd.DataFrame(rows), "completions")
        return path

    return write
