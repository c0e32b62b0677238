"""A small fake results folder with known numbers."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from diffinfo.tables import artifacts

LN2 = 0.6931471805599453
QA = {
    "piqa": "acc_norm", "siqa": "acc", "hellaswag": "acc_norm", "arc_easy": "acc_norm", "arc_challenge": "acc_norm",
    "mmlu": "acc", "gsm8k": "exact_match,flexible-extract", "boolq": "acc",
}  # fmt: skip
CONTROLLED = {"controlled": 50.0, "controlled_low": 45.0, "controlled_high": 55.0}
COSTS = dict.fromkeys(["unjudged", "read", "cached", "written", "dollars"])


class Tree:
    """Writes stage outputs under results/, each with the numbers a test asks for."""

    def __init__(self, root: Path) -> None:
        self.root = root / "results"
        self.rng = np.random.default_rng(0)

    def entropy(self, where: str, value: float, stderr: float = 1.0, accuracy: float | None = None) -> Path:
        path = self.root / f"{where}.parquet"
        row = {"entropy": value, "stderr": stderr, "prompts": 1000, "samples": 4, "truncated": 0.0}
        frame = pd.DataFrame([row | {"mean_tokens": 30.0, "beta_accuracy": accuracy}])
        artifacts.write(path, frame, "entropy")
        return path

    def log(
        self, run: str, chosen: float, rejected: float, *, span: str = "1-5", steps: int = 16, noise: float = 0.3,
        loss: float = 0.5, where: str = "train",
    ) -> Path:  # fmt: skip
        """A training log whose displacement falls in a straight line to ``chosen`` and ``rejected`` at the end."""
        first, last = map(int, span.split("-"))
        epochs = np.repeat(np.arange(first, last + 1), steps)
        step = np.arange(len(epochs)) + (first - 1) * steps + 1
        part = (step - 1) / (5 * steps - 1)
        batch = self.rng.normal(0, 4, len(step))  # what makes one batch unlike the next; the reference shares it
        scatter = noise * self.rng.normal(0, 1, (2, len(step))) * (part > 0)
        frame = pd.DataFrame(
            {
                "step": step,
                "epoch": epochs,
                "loss": 0.5,
                "dpo_loss": LN2 + (loss - LN2) * part,
                "logp_chosen": -60 + batch + chosen * part + scatter[0],
                "logp_rejected": -62 + batch + rejected * part + scatter[1],
                "reference_logp_chosen": -60 + batch,
                "reference_logp_rejected": -62 + batch,
                "margin": 0.0,
                "grad_norm": 1.0,
                "learning_rate": 1e-5,
                "tokens": 1000,
                "seconds": 0.1,
            }
        )
        for column in ("dot", "norm_chosen", "norm_rejected", "cosine"):
            frame[column] = None
        path = self.root / where / run / span / "train_log.parquet"
        if where == "did":
            path = self.root / "did" / run / "epoch-5" / "train_log.parquet"
        artifacts.write(path, frame, "train_log")
        return path

    def scores(self, run: str, span: str, gains: list[float], first: int = 1) -> Path:
        """Scores of 200 prompts x 1 sample per epoch: a prompt's own level plus the epoch's gain plus noise."""
        level = np.random.default_rng(7).normal(0, 3, 200)
        epochs = [
            pd.DataFrame(
                {
                    "epoch": first + i,
                    "prompt_id": [f"p{k}" for k in range(200)],
                    "sample": 0,
                    "score": level + gain + self.rng.normal(0, 0.5, 200) * (gain != 0),
                    "tokens": 20,
                }
            )
            for i, gain in enumerate(gains)
        ]
        path = self.root / "reward" / run / span / "scores.parquet"
        artifacts.write(path, pd.concat(epochs), "scores")
        return path

    def update(self, run: str, changes: np.ndarray, epoch: int = 5) -> Path:
        """H(pi) - H(pi_ref) at prompts p0, p1, ..."""
        path = self.root / f"update/{run}/epoch-{epoch}.parquet"
        frame = pd.DataFrame({"prompt_id": [f"p{i}" for i in range(len(changes))], "entropy_change": changes})
        zero = ("kl_reference", "kl_policy", "covariance", "ratio_tokens", "ratio_ratio", "tokens_tokens")
        artifacts.write(path, frame.assign(samples=4, **dict.fromkeys(zero, 0.0)), "update")
        return path

    def heldout(
        self, run: str, chosen: dict[int, np.ndarray], rejected: dict[int, np.ndarray] | None = None, span: str = "1-5"
    ) -> Path:
        """log pi - log pi_ref of held-out pairs p0, p1, ... by epoch."""
        path = self.root / "train" / run / span / "heldout.parquet"
        frames = []
        for epoch, values in chosen.items():
            level = np.random.default_rng(3).normal(-60, 4, len(values))
            names = {
                "logp_chosen": level + values,
                "reference_logp_chosen": level,
                "reference_logp_rejected": level - 2,
            }
            names["logp_rejected"] = level - 2 + (rejected or {}).get(epoch, np.zeros(len(values)))
            frames.append(pd.DataFrame({"epoch": epoch, "prompt_id": [f"p{i}" for i in range(len(values))], **names}))
        table = pd.concat(frames)
        extra = {name: 0.0 for name in artifacts.SCHEMAS["heldout"][1].names if name not in table}
        artifacts.write(path, table.assign(**extra), "heldout")
        return path

    def samples(self, run: str, entropies: np.ndarray) -> list[Path]:
        """Two samples of a DID proxy at each of prompts p0, p1, ..., with the mean -log-probability asked for."""
        path = self.root / "did" / run / "epoch-5" / "samples.parquet"
        rows = [
            {"prompt_id": f"p{i}", "sample": sample, "logp": -value + (3 if sample else -3)}
            for i, value in enumerate(entropies)
            for sample in (0, 1)
        ]
        rest = {"benchmark": "", "epoch": 1, "messages": [[]] * len(rows), "prompt_token_ids": [[1]] * len(rows)}
        rest |= {"completion": "", "token_ids": [[1]] * len(rows), "finish_reason": "stop"}
        artifacts.write(path, pd.DataFrame(rows).assign(**rest), "completions")
        return path

    def winrates(self, run: str, epoch: int, rate: float, half: float = 2.0) -> Path:
        path = self.root / "arena_hard" / run / "final" / "winrates.parquet"
        row = {"epoch": epoch, "win_rate": rate, "low": rate - half, "high": rate + half, "games": 200, "unscored": 1}
        artifacts.write(
            path, pd.DataFrame([row | {"mean_tokens": 31.5, "baseline_mean_tokens": 28.0, **CONTROLLED}]), "winrates"
        )
        return path

    def judgments(self, run: str, scores: list[float]) -> Path:
        path = self.root / "wildbench" / run / "judgments.parquet"
        rows = [
            {
                "benchmark": "wildbench",
                "epoch": 4,
                "prompt_id": f"t{i}",
                "game": 1,
                "judge": "embedded",
                "verdict": None,
            }
            | {"score": score, "tokens": 30, "chars": 120, "truncated": False, "reply": "", "apart": True, **COSTS}
            for i, score in enumerate(scores)
        ]
        artifacts.write(path, pd.DataFrame(rows), "judgments")
        return path

    def games(self, run: str, outcomes: list[float], apart: bool = True) -> Path:
        """Arena-Hard: both games of each question end alike, 1, 1/2 or 0 for the answer."""
        path = self.root / "arena_hard" / run / "final" / ("apart.parquet" if apart else "judgments.parquet")
        labels = {1.0: ("B>A", "A>B"), 0.5: ("A=B", "A=B"), 0.0: ("A>B", "B>A")}
        facts = {"benchmark": "arena-hard", "epoch": 4, "judge": "embedded", "score": None, "tokens": 30, "chars": 120}
        rows = [
            facts
            | {"prompt_id": f"q{i}", "game": game, "verdict": label, "truncated": False, "reply": "", "apart": apart}
            | COSTS
            for i, outcome in enumerate(outcomes)
            for game, label in enumerate(labels[outcome], 1)
        ]
        artifacts.write(path, pd.DataFrame(rows), "judgments")
        return path

    def items(self, run: str, values: dict[int, dict[str, list[float]]]) -> Path:
        """QA items of each epoch and benchmark."""
        path = self.root / "qa" / run / "1-5.items.parquet"
        rows = [
            {"epoch": epoch, "benchmark": benchmark, "item": f"{benchmark}/{i}/x", "value": value}
            for epoch, found in values.items()
            for benchmark, results in found.items()
            for i, value in enumerate(results)
        ]
        artifacts.write(path, pd.DataFrame(rows), "qa_items")
        return path

    def qa(self, run: str, values: list[float], stderr: float = 0.01) -> Path:
        """One accuracy per epoch, the same on all eight benchmarks."""
        rows = [
            {"epoch": e, "benchmark": b, "task": b, "metric": m, "value": v, "stderr": stderr, "n": 50}
            for e, v in enumerate(values, 1)
            for b, m in QA.items()
        ]
        rows.append(rows[0] | {"benchmark": "gsm8k", "metric": "exact_match,strict-match", "value": 0.0})
        path = self.root / "qa" / run / "1-5.parquet"
        artifacts.write(path, pd.DataFrame(rows), "qa")
        return path


@pytest.fixture
def tree(tmp_path: Path) -> Tree:
    return Tree(tmp_path)


@pytest.fixture(scope="module")
def shared_tree(tmp_path_factory) -> Tree:
    return Tree(tmp_path_factory.mktemp("shared"))
