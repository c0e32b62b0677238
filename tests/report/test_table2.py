"""Table 2: proxies of the DID, and the size of updates beside them."""

from __future__ import annotations

import math

import pandas as pd
import pytest
from scipy import stats

from diffinfo.report import tables
from diffinfo.tables import artifacts
from pages import lines
from report.test_tables import ENDS, MP, cell_of, table3


def test_table2_marks_doubtful_proxies_with_a_dagger(tree, tmp_path):
    inputs = [
        tree.entropy(f"did/{MP}/dpo-b0.1/epoch-5/entropy", 33.0, accuracy=0.3),
        tree.entropy(f"did/{MP}/dpo-pg/epoch-5/entropy", 22.0, accuracy=0.8),
        table3(tree, tmp_path),
    ]
    out = tmp_path / "table2.parquet"
    tables.table2(inputs=inputs, out=out, dagger_below=0.5)
    frame = artifacts.read(out, "table2")
    doubtful, sound = cell_of(frame, "magpie-pro", "dpo-b0.1"), cell_of(frame, "magpie-pro", "dpo-pg")
    assert (doubtful.dagger, sound.dagger) == (True, False)
    assert (doubtful.did_entropy, doubtful.win_rate, doubtful.paper_did_entropy) == (33.0, 55.0, 236.24)
    assert (doubtful.paper_dagger, sound.paper_dagger) == (True, False)
    text = out.with_suffix(".md").read_text()
    assert "33.00 (-1.96, +1.96) †" in text
    assert "22.00 (-1.96, +1.96) †" not in text
    assert "28.1%" in text
    tables.table2(inputs=inputs, out=out, dagger_below=0.2)  # the threshold decides
    assert not artifacts.read(out, "table2").dagger.any()
    tree.entropy(f"did/{MP}/dpo-pg/epoch-5/entropy", 22.0, accuracy=float("nan"))  # no prompt has a slope
    tables.table2(inputs=inputs, out=out, dagger_below=0.2)
    assert artifacts.read(out, "table2").set_index("method").dagger[["dpo-b0.1", "dpo-pg"]].tolist() == [False, True]


def test_table2_has_a_column_of_its_own_for_sampled_pairs(tree, tmp_path):
    """Entropy, interval and dagger of each column by itself; without such proxies no column."""
    inputs = [
        tree.entropy(f"did/{MP}/dpo-b0.1/epoch-5/entropy", 33.0, accuracy=0.8),
        tree.entropy(f"did/{MP}/dpo-pg/epoch-5/entropy", 22.0, accuracy=0.3),
        table3(tree, tmp_path),
    ]
    out, z = tmp_path / "table2.parquet", stats.t.ppf(0.975, 999)
    tables.table2(inputs=inputs, out=out)
    assert "sampled" not in out.with_suffix(".md").read_text()
    assert artifacts.read(out, "table2").sampled_did_entropy.isna().all()
    inputs += [
        tree.entropy(f"did_sampled/{MP}/dpo-b0.1/epoch-5/entropy", 44.0, 2.0, accuracy=0.4),
        tree.entropy(f"did_sampled/{MP}/logpi-b0.1/epoch-5/entropy", 55.0, accuracy=0.9),
    ]
    for order in (inputs, inputs[::-1]):
        tables.table2(inputs=order, out=out)
        frame = artifacts.read(out, "table2")
        both, greedy, alone = (cell_of(frame, "magpie-pro", name) for name in ("dpo-b0.1", "dpo-pg", "logpi-b0.1"))
        assert (both.did_entropy, both.sampled_did_entropy, both.sampled_beta_accuracy) == (33.0, 44.0, 0.4)
        assert (both.low, both.sampled_high) == (pytest.approx(33 - z), pytest.approx(44 + 2 * z))
        assert (both.dagger, both.sampled_dagger) == (False, True)
        assert (greedy.dagger, greedy.sampled_dagger) == (True, False)
        assert pd.isna(greedy.sampled_did_entropy)
        assert (alone.sampled_did_entropy, alone.dagger, alone.sampled_dagger) == (55.0, False, False)
    (row,) = [line for line in lines(out.with_suffix(".md"), "method") if line["H(q)"].startswith("33.00")]
    assert row["H(q), sampled pairs"] == "44.00 (-3.92, +3.92) †"
    assert row["β′-accuracy, sampled pairs"] == "40.0%"


def test_every_column_of_table2_shows_its_number(tree, tmp_path):
    proxy = tree.entropy(f"did/{MP}/dpo-b0.1/epoch-5/entropy", 33.0, accuracy=0.3)
    artifacts.write(proxy, artifacts.read(proxy, "entropy").assign(truncated=0.125), "entropy")
    inputs = [proxy, table3(tree, tmp_path)]
    tables.table2(inputs=inputs, out=tmp_path / "table2.parquet", dagger_below=0.5)
    rows = {line["method"]: line for line in lines(tmp_path / "table2.md", "method")}
    elo = artifacts.read(inputs[1], "table3").set_index("method").elo["dpo-b0.1"]
    assert rows["DPO β = 0.1"] == {
        "method": "DPO β = 0.1", "H(q)": "33.00 (-1.96, +1.96) †", "β′-accuracy": "30.0%", "AH [%]": "55.0",
        "WB [Elo]": f"{elo:.1f}", "H(q), paper": "236.24 †", "β′-accuracy, paper": "28.1%", "AH, paper": "23.4",
        "WB, paper": "1146.9",
    }  # fmt: skip
    assert rows["DPO-PG"]["H(q)"] == "not measured"
    assert "Up to 12.5% of the proxy samples" in (tmp_path / "table2.md").read_text()


def test_table2_shows_the_last_epochs_update_beside(tree, tmp_path):
    found = [tree.entropy(f"did/{MP}/{m}/epoch-5/entropy", 33.0, accuracy=0.9) for m in ("dpo-b0.1", "dpo-pg")]
    names = ("kl_reference", "entropy_change")
    records = [
        {"model": "micro-mistral", "dataset": "magpie-pro", "method": method, "epoch": epoch, "prompts": 9}
        | {f"{name}{end}": at + i + shift for i, name in enumerate(names) for end, shift in ENDS}
        for method, epoch, at in (
            ("dpo-b0.1", 5, 3.0), ("dpo-b0.1", 1, 1.0), ("dpo-pg", 5, 6.0), ("dpo-pg-seed2", 5, 8.0), ("slic-b0.1", 5, 9.0),
        )
    ]  # fmt: skip
    updates = tmp_path / "updates.parquet"
    frame = pd.DataFrame(records, columns=artifacts.SCHEMAS["updates"][1].names)
    artifacts.write(updates, frame, "updates")
    tables.table2(inputs=[*found, updates], out=tmp_path / "table2.parquet")
    table = artifacts.read(tmp_path / "table2.parquet", "table2").set_index("method")
    assert "slic-b0.1" not in table.index  # it has no number of Table 2
    row = table.loc["dpo-b0.1"]
    assert [row[f"kl_reference{end}"] for end, _ in ENDS] == [3.0, 2.5, 4.0]
    assert [row[f"entropy_change{end}"] for end, _ in ENDS] == [4.0, 3.5, 5.0]
    both = table.loc["dpo-pg"]  # the mean over seeds, whose interval covers them
    assert both.kl_reference == pytest.approx(7.0)
    assert both.kl_reference_low == pytest.approx(7 - math.hypot(stats.t.ppf(0.975, 1) * 1.0, 0.5))
    shown = {line["method"]: line for line in lines(tmp_path / "table2.md", "method")}["DPO β = 0.1"]
    assert shown["KL(π_ref‖π) (ours)"] == "3.000 (-0.500, +1.000)"
    assert shown["H(π) − H(π_ref) (ours)"] == "4.00 (-0.50, +1.00)"
