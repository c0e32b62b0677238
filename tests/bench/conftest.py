"""Small benchmarks, and the judge on loopback that judges them."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pandas as pd
import pytest
from tokenizers import Tokenizer, models, pre_tokenizers

from bench.loopback import SECRET, LoopbackJudge
from diffinfo.tables import artifacts


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
