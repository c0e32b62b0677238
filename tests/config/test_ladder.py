"""The presets between the micro world and the paper's: smol and one-gpu."""

from __future__ import annotations

import re
from pathlib import Path

from diffinfo.config.reading import load

ROOT = Path(__file__).resolve().parents[2]
MICRO = ROOT / "config.yaml"
LADDER = [ROOT / "workflow/presets/smol.yaml", ROOT / "workflow/presets/one-gpu.yaml"]


def test_the_lower_steps_have_a_place_of_their_own_and_share_the_laboratory() -> None:
    for preset in LADDER:
        config = load(preset)
        assert config.results == f"results/runs/{preset.stem}"
        assert config.synthetic == load(MICRO).synthetic
    assert load(ROOT / "workflow/presets/paper.yaml").results == "results/runs/paper"


def test_the_lower_steps_are_open_and_free_and_their_placebo_has_what_decides() -> None:
    """No judge is paid for; a to e (and g to i where they are measured) find permuted labels at one beta."""
    for preset in LADDER:
        config = load(preset)
        assert {judge.kind for judge in config.judges.values()} == {"reward-model"}
        rows = {(row.dataset, name): set(row.measures) for row in config.grid for name in config.methods(row)}
        for name, placebos in config.placebos.items():
            for placebo in placebos:
                for (dataset, method), measures in rows.items():
                    if dataset == placebo:
                        assert measures == rows[name, method]
                assert {"dpo-b0.1", "logpi-b0.1"} <= {method for dataset, method in rows if dataset == placebo}


def test_what_the_lower_steps_read_is_a_commit_where_one_is_known() -> None:
    open_ends = {"skywork-reward-0.6b", "magpie-pro"}  # their commits are on no public page that was found
    for preset in LADDER:
        config = load(preset)
        read = {**config.models, **{name: dataset for name, dataset in config.datasets.items() if dataset.source}}
        for name, source in read.items():
            assert source.revision is not None
            assert (re.fullmatch("[0-9a-f]{40}", source.revision) is None) == (name in open_ends), name
