"""The true reward of completions as a scores table."""

import random

import pandas as pd
import pytest

from diffinfo.cli import UserError
from diffinfo.tables import artifacts
from diffinfo.world import truth
from diffinfo.world.language import draw_prompt, reward, write


def completions(path, asked, answers):
    frame = pd.DataFrame({"completion": answers, "messages": [[{"role": "user", "content": text}] for text in asked]})
    frame["prompt_token_ids"], frame["token_ids"] = [[1]] * len(frame), [[2] * (k + 1) for k in range(len(frame))]
    frame = frame.assign(
        benchmark="", epoch=0, prompt_id=frame.index.astype(str), sample=0, logp=-1.0, finish_reason="stop"
    )
    artifacts.write(path, frame, "completions")


@pytest.mark.parametrize("kind", ["multifaceted", "correctness"])
def test_every_completion_has_its_reward(tmp_path, kind):
    rng = random.Random(1)
    prompts = [draw_prompt(rng) for _ in range(40)]
    answers = [write(rng, prompt, 0.5) if k % 4 else "the the" for k, prompt in enumerate(prompts)]
    completions(tmp_path / "in.parquet", [prompt.text for prompt in prompts], answers)
    truth.main(completions=tmp_path / "in.parquet", kind=kind, out=tmp_path / "out.parquet")
    found = artifacts.read(tmp_path / "out.parquet", "scores")
    assert found.score.tolist() == [reward(p, a, kind) for p, a in zip(prompts, answers, strict=True)]
    assert found.tokens.tolist() == list(range(1, 41))


def test_another_prompt_is_refused(tmp_path):
    completions(tmp_path / "in.parquet", ["how are you ?"], ["fine"])
    with pytest.raises(UserError, match="not a prompt of the micro world"):
        truth.main(completions=tmp_path / "in.parquet", kind="correctness", out=tmp_path / "out.parquet")
