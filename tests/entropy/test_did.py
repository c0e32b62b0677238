import numpy as np
import pandas as pd
import pytest

from diffinfo import artifacts
from diffinfo.cli import UserError
from diffinfo.entropy import did


def test_beta_accuracy_is_the_share_of_prompts_with_a_rising_line():
    prompts = pd.Series(["a"] * 4 + ["b"] * 4 + ["c"] * 4 + ["d"] * 4)
    ratio = np.array([0, 1, 2, 3] * 3 + [5, 5, 5, 5.0])
    proxy = np.concatenate([2 * np.arange(4.0) - 9, -np.arange(4.0), [1, -1, 1, -1.0], [3, 2, 1, 0.0]])
    slopes = [np.polyfit(ratio[i : i + 4], proxy[i : i + 4], 1)[0] for i in (0, 4, 8)]
    assert did.beta_accuracy(prompts, proxy, ratio) == pytest.approx(np.mean([s >= 0 for s in slopes]))
    assert did.beta_accuracy(prompts, proxy + 100, ratio - 7) == did.beta_accuracy(prompts, proxy, ratio)
    assert np.isnan(did.beta_accuracy(prompts[12:], proxy[12:], ratio[12:]))


def test_pairs_join_by_prompt(tmp_path, completions):
    completions(tmp_path / "w.parquet", [-1.0, -2.0, -3.0])
    completions(tmp_path / "l.parquet", [-1.0, -2.0, -3.0])
    did.pairs(chosen=tmp_path / "w.parquet", rejected=tmp_path / "l.parquet", out=tmp_path / "p.parquet")
    table = artifacts.read(tmp_path / "p.parquet", "reference_logps")
    assert table.chosen_ids.tolist() == [[2], [2, 2], [2, 2, 2]]
    assert table.chosen_logp.isna().all()
    assert artifacts.provenance(tmp_path / "p.parquet")["identical"] == 1.0
    completions(tmp_path / "l.parquet", [-1.0, -2.0])
    with pytest.raises(UserError, match="answer different prompts: 2 of 3 and 2 match"):
        did.pairs(chosen=tmp_path / "w.parquet", rejected=tmp_path / "l.parquet", out=tmp_path / "p.parquet")
