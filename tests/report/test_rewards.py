"""Expected rewards against loops over prompts and scipy's paired intervals."""

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from diffinfo.report.rewards import reward_table
from diffinfo.tables import artifacts

RUN = "micro-mistral/magpie-pro"


def scored(tree, method: str, epochs: list[int], seed: int, prompts: int = 30, samples: int = 2):
    """Scores of several samples a prompt; a prompt's own level is far larger than what methods differ by."""
    level, rng = np.random.default_rng(0).normal(0, 5, 40), np.random.default_rng(seed)
    rows = [
        {"epoch": e, "prompt_id": f"p{p:02}", "sample": s, "score": level[p] + rng.normal(seed / 10, 0.3), "tokens": 9}
        for e in epochs for p in range(prompts) for s in range(samples)
    ]  # fmt: skip
    path = tree.root / "reward" / RUN / method / "1-2" / "scores.parquet"
    artifacts.write(path, pd.DataFrame(rows).sample(frac=1, random_state=seed), "scores")
    return path


def by_prompt(path, epoch: int) -> dict[str, float]:
    frame = artifacts.read(path, "scores").query(f"epoch == {epoch}")
    return {prompt: float(np.mean(frame.score[frame.prompt_id == prompt])) for prompt in sorted(set(frame.prompt_id))}


def paired(one: dict[str, float], two: dict[str, float]) -> tuple[float, float, float, int]:
    both = sorted(set(one) & set(two))
    test = stats.ttest_rel([one[p] for p in both], [two[p] for p in both])
    ends = test.confidence_interval(0.95)
    return float(np.mean([one[p] - two[p] for p in both])), ends.low, ends.high, len(both)


def test_gains_bests_and_the_lead_are_paired_by_prompt(tree):
    paths = {"ref": scored(tree, "ref", [0], 1, prompts=28)}  # two prompts have no reference
    paths |= {
        m: scored(tree, m, [1, 2], s) for s, m in enumerate(("dpo-b0.1", "dpo-b0.02", "logpi-b0.1", "logpi-b0.02"), 2)
    }
    paths["dpo-pg"] = scored(tree, "dpo-pg", [1, 2], 99)  # no part of the lead
    table = reward_table(list(paths.values()))
    reference = by_prompt(paths["ref"], 0)
    gains = {(m, e): paired(by_prompt(paths[m], e), reference) for m in paths if m != "ref" for e in (1, 2)}
    epochs = table[table.quantity == "epoch"]
    assert len(epochs) == len(gains)
    for row in epochs.itertuples():
        assert (row.value, row.low, row.high, row.prompts) == pytest.approx(gains[row.method, row.epoch])
    best = {
        name: max((key for key in gains if key[0].startswith(start)), key=lambda k: gains[k][0])
        for name, start in (("dpo", "dpo-b"), ("logpi", "logpi"), ("dpo-pg", "dpo-pg"))
    }
    assert list(table[table.quantity == "best"].objective) == list(best)
    for row in table[table.quantity == "best"].itertuples():
        assert (row.method, row.epoch) == best[row.objective]
        assert row.value == pytest.approx(gains[best[row.objective]][0])
    row = table[table.quantity == "lead"].iloc[0]
    above = {
        name: {p: v - reference[p] for p, v in by_prompt(paths[method], epoch).items() if p in reference}
        for name, (method, epoch) in best.items()
    }
    assert (row.value, row.low, row.high, row.prompts) == pytest.approx(paired(above["dpo"], above["logpi"]))
