"""Local judges: a server on this machine, by a small program that stands in for vllm."""

from __future__ import annotations

import json
import multiprocessing
import os
import signal
import sys
import urllib.request
from pathlib import Path
from typing import Any

import pytest

from bench.test_judge import ask_about
from diffinfo.bench import server
from diffinfo.bench.endpoint import Endpoint
from diffinfo.cli import UserError
from diffinfo.config.benchmarks import Judge
from project import wait_until

# Says what it was called with, and answers with the model's name; an odd first word is its way to fail.
PROGRAM = """#!{python}
import http.server, json, os, pathlib, signal, sys, time
arguments, key = sys.argv[1:], os.environ["VLLM_API_KEY"]
folder = pathlib.Path(arguments[1])
pathlib.Path({notes!r}).open("a").write(json.dumps([os.getpid(), arguments, (folder / "config.json").read_text()]) + "\\n")
fate = (folder / "fate").read_text()
if fate == "ends":
    sys.exit("CUDA out of memory")
if fate == "deaf":
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
began = time.monotonic()

class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200 if self.path == "/health" and time.monotonic() - began > 0.3 else 503)
        self.end_headers()

    def do_POST(self):
        sent = json.loads(self.rfile.read(int(self.headers["content-length"])))
        assert self.headers["authorization"] == "Bearer " + key
        if fate == "dies":
            print("illegal memory access", flush=True)
            os._exit(1)
        message = dict(content=sent["model"] + ": " + sent["messages"][-1]["content"])
        body = json.dumps(dict(choices=[dict(message=message, finish_reason="stop")])).encode()
        self.send_response(200)
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

http.server.ThreadingHTTPServer(("127.0.0.1", int(arguments[arguments.index("--port") + 1])), Handler).serve_forever()
"""
JUDGE = Judge(kind="openai", model="local", serve=True, tensor_parallel=2, retries=1)


@pytest.fixture
def notes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """What the stand-ins were called with, line by line; they are the first on PATH."""
    found = tmp_path / "notes.jsonl"
    (tmp_path / "bin").mkdir()
    for name in server.PROGRAMS:
        program = tmp_path / "bin" / name
        program.write_text(PROGRAM.format(python=sys.executable, notes=str(found)))
        program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}:{os.environ['PATH']}")
    return found


def model(tmp_path: Path, fate: str = "", config: str = "{}") -> Path:
    folder = tmp_path / "model"
    folder.mkdir(exist_ok=True)
    (folder / "config.json").write_text(config)
    (folder / "fate").write_text(fate)
    return folder


def called(notes: Path) -> list[Any]:
    return [json.loads(line) for line in notes.read_text().splitlines()]


def test_a_judge_is_served_where_something_is_asked(tmp_path: Path, notes: Path) -> None:
    """Once for both rounds of questions, not where all is known; another model of the same name is asked anew."""
    folder = model(tmp_path)
    judge = Endpoint(JUDGE, tmp_path / "store", "job", folder)
    assert not notes.exists()
    (first,) = judge.ask(ask_about("one"), "asking")
    assert judge.ask(ask_about("two"), "asking")[0].endswith(": two")
    ((process, arguments, _),) = called(notes)
    name = first.removesuffix(": one")
    assert name.startswith("local-")
    port = arguments[arguments.index("--port") + 1]
    expected = ["serve", name, "--generation-config", "vllm", "--tensor-parallel-size", "2", "--host", "127.0.0.1"]
    assert arguments == [*expected, "--port", port]
    del judge
    wait_until(lambda: not alive(process), "the server's end")
    again = Endpoint(JUDGE, tmp_path / "store", "job", folder)
    assert again.ask(ask_about("one", "two"), "asking")[0] == first
    assert len(called(notes)) == 1
    other = Endpoint(JUDGE, tmp_path / "store", "job", model(tmp_path, config='{"another": 1}'))
    assert other.ask(ask_about("one"), "asking") != [first]
    assert called(notes)[1][2] == '{"another": 1}'


def alive(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    return True


def _work(folder: Path, store: Path) -> None:
    judge = Endpoint(JUDGE, store, "job", folder)
    judge.ask(ask_about("one"), "asking")
    signal.pause()


@pytest.mark.parametrize("fate", ["", "deaf"])
def test_the_server_ends_with_a_job_that_is_killed(
    tmp_path: Path, notes: Path, fate: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also one that does not hear SIGTERM, as vLLM while it compiles."""
    monkeypatch.setattr(server, "END", 0.5)
    job = multiprocessing.get_context("fork").Process(target=_work, args=(model(tmp_path, fate), tmp_path / "store"))
    job.start()
    wait_until(lambda: list((tmp_path / "store").glob("*.jsonl")), "a reply", alive=job.is_alive)
    ((process, arguments, _),) = called(notes)
    port = arguments[arguments.index("--port") + 1]
    assert urllib.request.urlopen(f"http://127.0.0.1:{port}/health").status == 200
    job.kill()
    job.join()
    wait_until(lambda: not alive(process), "the server's end")


def test_a_server_that_does_not_hear_ends_with_a_job_that_is_done(
    tmp_path: Path, notes: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(server, "END", 0.5)
    judge = Endpoint(JUDGE, tmp_path / "store", "job", model(tmp_path, "deaf"))
    judge.ask(ask_about("one"), "asking")
    ((process, _, _),) = called(notes)
    del judge
    assert not alive(process)


def test_a_server_that_fails_says_why(tmp_path: Path, notes: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UserError, match=r"vllm ended before it answered: CUDA out of memory \(all of it: .*\.log\)"):
        Endpoint(JUDGE, tmp_path / "store", "job", model(tmp_path, "ends")).ask(ask_about("one"), "asking")
    with pytest.raises(UserError, match=r"the server of local-\w+ ended: .*illegal memory access"):
        Endpoint(JUDGE, tmp_path / "store", "job", model(tmp_path, "dies")).ask(ask_about("one"), "asking")
    monkeypatch.setattr(server, "START", 0.0)
    with pytest.raises(UserError, match=r"vllm was not healthy in 0 s: it said nothing"):
        Endpoint(JUDGE, tmp_path / "store", "job", model(tmp_path)).ask(ask_about("one"), "asking")
    wait_until(lambda: not any(alive(process) for process, _, _ in called(notes)), "the servers' end")
    monkeypatch.setenv("PATH", "/nowhere")
    with pytest.raises(UserError, match=r"judge 'local-\w+' is to be served by vllm, which is not there"):
        Endpoint(JUDGE, tmp_path / "store", "job", model(tmp_path)).ask(ask_about("one"), "asking")


def test_transformers_serves_too(tmp_path: Path, notes: Path) -> None:
    judge = JUDGE.model_copy(update={"server": "transformers"})
    Endpoint(judge, tmp_path / "store", "job", model(tmp_path)).ask(ask_about("one"), "asking")
    ((_, arguments, _),) = called(notes)
    assert arguments[0] == "serve"
    assert arguments[2:5] == ["--host", "127.0.0.1", "--port"]


@pytest.mark.parametrize("changes", [{"kind": "reward-model"}, {"batch": True}, {"price": {"read": 1, "written": 1}}])
def test_what_does_not_fit_a_served_judge(changes: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="serve needs kind: openai, and has no batch and no price"):
        Judge(**{"kind": "openai", "model": "local", "serve": True} | changes)
