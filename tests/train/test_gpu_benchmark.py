"""The GPU benchmark runs, here on a CPU with tiny shapes: exactness, steps of all objectives, and what fails is recorded."""

import importlib.util
import json
from pathlib import Path

import pytest

FILE = Path(__file__).parents[2] / "benchmarks" / "gpu_training.py"


@pytest.fixture
def bench(tmp_path, monkeypatch, flex_on_cpu):
    """Runs the benchmark with further arguments; what it wrote."""
    spec = importlib.util.spec_from_file_location("gpu_training", FILE)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)

    def run(*arguments, cases=None):
        monkeypatch.setattr(module, "CASES", cases or module.CASES)
        module.main(["--device", "cpu", "--tiny", "--out", str(tmp_path / "out"), *arguments])
        return [json.loads(line) for line in (tmp_path / "out").read_text().splitlines()]

    run.scratch = ["--scratch", str(tmp_path)]
    return run


def test_exactness(bench):
    rows = bench("--case", "exact gemma2", *bench.scratch)
    assert [(row["of"], row["dtype"], row["kernel"]) for row in rows] == [
        (of, dtype, kernel)
        for dtype in ("float32", "bfloat16")
        for of in ("attention", "model")
        for kernel in ("loop", "flex")
    ]
    assert all(row["ok"] for row in rows if row["kernel"] == "flex")


@pytest.mark.parametrize("kernel", ["flex", "loop", "dense"])
def test_steps(bench, kernel):
    rows = bench("--case", f"train gemma2 {kernel}", *bench.scratch)
    assert [row["objective"] for row in rows] == ["dpo", "dpo-pg", "sft"]
    assert rows[0]["first_loss"] == pytest.approx(0.693147, abs=1e-6)
    assert all(row["seconds"] > 0 and row["tokens"] > 300 for row in rows)


def test_what_fails_and_what_is_late_leave_a_line(bench):
    _, failed = bench("--budget", "200", cases=["train nothing flex"])
    assert "KeyError: 'nothing'" in failed["error"]
    *_, late = bench("--budget", "0", cases=["train gemma2 flex"])
    assert late["skipped"]
