"""Seconds and peak memory of judging Arena-Hard, by the number of judgments: ``python benchmarks/judging.py``.

An endpoint on loopback answers at once, with 150 words and a verdict. The job is measured as it is run: once when everything is
to be paid, and once when everything was, so that all that is left is to read and aggregate the games.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pandas as pd
from tokenizers import Tokenizer, models, pre_tokenizers

from diffinfo.bench.arena_hard import Settings
from diffinfo.config.benchmarks import Judge
from diffinfo.tables import artifacts

JUDGMENTS = (2_000, 6_000, 20_000)
QUESTION, ANSWER = "what is it ? " * 40, "it is so because of this . " * 80  # 160 and 560 words
REPLY = {
    "choices": [{"finish_reason": "stop", "message": {"content": "because of this " * 50 + "[[A>B]]"}}],
    "usage": {"prompt_tokens": 1900, "completion_tokens": 150},
}


class Endpoint(BaseHTTPRequestHandler):
    """The same verdict for everyone."""

    protocol_version = "HTTP/1.1"
    said = json.dumps(REPLY).encode()

    def do_POST(self) -> None:
        """Answer at once."""
        self.rfile.read(int(self.headers["content-length"]))
        self.send_response(200)
        self.send_header("content-length", str(len(self.said)))
        self.end_headers()
        self.wfile.write(self.said)

    def log_message(self, format: str, *args: object) -> None:
        """Say nothing."""


def make(folder: Path, questions: int) -> None:
    """Questions with the baseline's answers, answers to them, and a tokenizer that counts words."""
    names = [f"q{number}" for number in range(questions)]
    asked = pd.DataFrame({"prompt_id": names, "benchmark": "arena-hard", "tag": "", "baseline": ANSWER})
    asked["messages"] = [[{"role": "user", "content": f"{name} {QUESTION}"}] for name in names]
    asked["checklist"] = [[]] * questions
    artifacts.write(folder / "questions.parquet", asked, "benchmark")
    answers = asked[["benchmark", "prompt_id", "messages"]].assign(
        epoch=1, sample=0, completion=ANSWER, logp=0.0, finish_reason="stop"
    )
    answers["prompt_token_ids"], answers["token_ids"] = [[1]] * questions, [[1] * 560] * questions
    artifacts.write(folder / "answers.parquet", answers, "completions")
    tokenizer = Tokenizer(models.WordLevel({"[UNK]": 0}, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer.save(str(folder / "tokenizer.json"))


def measure(folder: Path, address: str) -> tuple[float, float, float]:
    """Seconds on the clock, seconds of CPU and GiB at the peak of one job."""
    judge = Judge(kind="openai", model="loopback", base_url=address, api_key_env="KEY", concurrency=32)
    command = [
        sys.executable, "-m", "diffinfo.bench.arena_hard", "--answers", json.dumps([str(folder / "answers.parquet")]),
        "--questions", folder / "questions.parquet", "--settings", Settings(judge=judge).model_dump_json(),
        "--cache", folder / "cache", "--tokenizer", folder, "--judgments", folder / "judgments.parquet",
        "--winrates", folder / "winrates.parquet",
    ]  # fmt: skip
    began = time.monotonic()
    child = subprocess.Popen(command, stderr=subprocess.PIPE, env={**os.environ, "KEY": "any"})
    said = child.stderr.read()
    _, status, used = os.wait4(child.pid, 0)
    if status:
        raise SystemExit(said.decode()[-2000:])
    return time.monotonic() - began, used.ru_utime + used.ru_stime, used.ru_maxrss / 2**20


def main() -> None:
    """Measure at every size and print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--judgments", type=int, nargs="+", default=JUDGMENTS)
    sizes = parser.parse_args()
    server = ThreadingHTTPServer(("127.0.0.1", 0), Endpoint)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    print("| judgments | all to be paid | all paid before |")
    print("|---|---|---|")
    for judgments in sizes.judgments:
        with tempfile.TemporaryDirectory() as folder:
            make(Path(folder), judgments // 2)
            found = [measure(Path(folder), f"http://127.0.0.1:{server.server_address[1]}/v1") for _ in range(2)]
        cells = [f"{clock:.1f} s, {cpu:.1f} s of CPU, {gib:.2f} GiB" for clock, cpu, gib in found]
        print(f"| {judgments:,} | {' | '.join(cells)} |", flush=True)


if __name__ == "__main__":
    main()
