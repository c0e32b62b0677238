"""vLLM itself, in an environment of its own: ``make test-vllm``."""

import json
import os
import subprocess

import numpy as np
import pandas as pd
import pytest
import torch
from transformers import AutoModelForCausalLM

from diffinfo.world.training import start
from project import ROOT, Project

pytestmark = pytest.mark.vllm
PYTHON = ROOT / ".venv-vllm" / "bin" / "python"
SETTINGS = {  # of the build for CPUs; without OMP_NUM_THREADS it is many times slower
    "VLLM_ENABLE_V1_MULTIPROCESSING": "0", "VLLM_CPU_KVCACHE_SPACE": "1", "VLLM_NO_USAGE_STATS": "1",
    "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT / "workflow"),
}  # fmt: skip
SCRIPT = """
import json, sys
from pathlib import Path
from diffinfo.sample.engine import Decoding
from diffinfo.sample.vllm import VllmEngine

if __name__ == "__main__":
    folder, calls, out = json.loads(sys.argv[1])
    engine = VllmEngine("float32", 1, 256)
    drawn = Decoding(5, 0.8, 0.9, 12, 42)
    found = [engine(Path(folder), prompts, [], drawn, first) for prompts, first in calls]
    Path(out).write_text(json.dumps([[[(g.token_ids, g.logp) for g in answers] for answers in one] for one in found]))
"""
PROMPTS = [[3, 7, 11], [5, 5, 20, 31, 8], [40, 2], [9, 10, 11, 12, 13, 14, 15], [3, 7, 11]]


@pytest.mark.parametrize("style", ["mistral", "gemma2"])
def test_samples_are_the_prompts_own_and_their_logps_the_models(tmp_path, style):
    """Five distinct samples a prompt, the same in parts, whose log-probabilities are those of one forward pass."""
    folder = tmp_path / style
    start(folder, style, hidden=128, layers=2, seed=3)  # heads of 32, the smallest that vLLM has kernels for
    calls = [(PROMPTS, 0), (PROMPTS[:2], 0), (PROMPTS[2:], 2)]
    (tmp_path / "script.py").write_text(SCRIPT)
    command = [PYTHON, tmp_path / "script.py", json.dumps([str(folder), calls, str(tmp_path / "out.json")])]
    done = subprocess.run(command, capture_output=True, text=True, env={**os.environ, **SETTINGS}, check=False)
    assert done.returncode == 0, done.stderr[-4000:]
    whole, *parts = json.loads((tmp_path / "out.json").read_text())
    assert (
        done.stdout.count("Starting to load model") + done.stderr.count("Starting to load model") == 1
    )  # for all parts
    assert [[tokens for tokens, _ in answers] for part in parts for answers in part] == [
        [tokens for tokens, _ in answers] for answers in whole
    ]
    network = AutoModelForCausalLM.from_pretrained(
        folder, attn_implementation="eager", dtype=torch.float32, local_files_only=True, trust_remote_code=False
    )
    for prompt, answers in zip(PROMPTS, whole, strict=True):
        assert len({tuple(tokens) for tokens, _ in answers}) == 5
        for tokens, logp in answers:
            with torch.no_grad():
                logits = network(torch.tensor([prompt + tokens])).logits[0, len(prompt) - 1 : -1]
            expected = logits.log_softmax(-1)[range(len(tokens)), tokens].sum()
            assert logp == pytest.approx(float(expected), abs=1e-4)
    assert whole[0] != whole[4]  # the same prompt later in the table draws anew


WORLD = {
    "world": {
        "hidden": 128, "layers": 1, "corpus": 300, "base_steps": 2, "teacher_steps": 2, "reward_steps": 4,
        "pairs": 100, "test_prompts": 10,
    },
    "epochs": 1,
    "entropy": {"prompts": 8, "max_tokens": 8},
    "did": {"prompts": 8},
}  # fmt: skip
CELL = "micro-mistral/magpie-pro/dpo-b0.1"
ENTROPY, ANSWERS = f"results/entropy/{CELL}/epoch-1.parquet", f"results/answers/{CELL}/1-1.parquet"
TARGETS = [ENTROPY, f"results/did/{CELL}/epoch-1/entropy.parquet", ANSWERS]


def test_a_slice_of_the_grid(tmp_path):
    """Entropy, DID and answers of one cell: every completion by vLLM; the greedy ones are those of transformers."""
    project = Project(tmp_path / "project")
    project.snakemake("--cores", "2", *TARGETS, changes=WORLD)
    twin = project.copy(tmp_path / "twin")
    tools = twin.folder / "tools"
    (tools / "here/vllm").mkdir(parents=True)
    (tools / "here/vllm/__init__.py").touch()  # Snakemake's own Python, which looks for it, has none
    own = project.environment["PATH"].split(":")[0]
    there = f'PYTHONPATH={twin.folder}/workflow exec {PYTHON} "$@"'
    sampling = "diffinfo.sample.complete|diffinfo.entropy.did"
    (tools / "python").write_text(f'#!/bin/sh\ncase "$2" in {sampling}) {there};; *) exec {own}/python "$@";; esac\n')
    (tools / "python").chmod(0o755)
    twin.environment = {
        **os.environ, **SETTINGS, "PATH": f"{tools}:{project.environment['PATH']}", "PYTHONPATH": str(tools / "here"),
    }  # fmt: skip
    twin.snakemake("--cores", "1", *TARGETS, changes={**WORLD, "engine": {"name": "vllm"}})
    ours, theirs = (
        pd.read_parquet(one.folder / ANSWERS).set_index(["benchmark", "prompt_id"]) for one in (project, twin)
    )
    assert len(ours) > 8
    same = [list(a) == list(b) for a, b in zip(ours.token_ids, theirs.loc[ours.index].token_ids, strict=True)]
    assert np.mean(same) > 0.95  # but for near ties
    sampled = pd.read_parquet(twin.folder / f"results/entropy/{CELL}/epoch-1.completions.parquet")
    assert sampled.token_ids.map(tuple).nunique() > len(sampled) / 2
