"""The same pairs through TRL's own DPOTrainer, step by step: the benchmark's contestants on a small model."""

import importlib.util
from pathlib import Path

import pytest

from diffinfo.config.types import Training


@pytest.fixture(scope="module")
def contest():
    file = Path(__file__).resolve().parents[2] / "benchmarks" / "training.py"
    spec = importlib.util.spec_from_file_location("training_benchmark", file)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_dpo_losses_are_those_of_trl(contest, tmp_path):
    contest.make_model(tmp_path / "model", 300, layers=1)
    table = contest.with_reference(contest.make_pairs(12, 300), tmp_path / "model")
    ours, _ = contest.Ours(tmp_path / "model", table, "dpo-b0.1", 4, Training(micro_batch_tokens=1024)).steps(3)
    theirs, _ = contest.trl_steps(tmp_path / "model", table, 4, 3, tmp_path / "out", **contest.BEST)
    assert ours == pytest.approx(theirs, abs=1e-4)
    assert ours[1] != pytest.approx(0.693147, abs=1e-4)  # it has learnt something by then
