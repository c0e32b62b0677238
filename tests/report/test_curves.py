"""Curves of training logs: quantities, running means and their bands, step by step."""

import numpy as np
import pandas as pd
import pytest

from diffinfo.report import curves
from diffinfo.tables import artifacts


def log(tree, steps: int, epochs: int = 2) -> tuple[list, pd.DataFrame]:
    """Noise in every column."""
    path = tree.log("micro-mistral/magpie-pro/dpo-b0.1", -5, -9, span=f"1-{epochs}", steps=steps)
    frame, rng = artifacts.read(path, "train_log"), np.random.default_rng(5)
    for column in ("logp_chosen", "logp_rejected", "reference_logp_chosen", "reference_logp_rejected", "dpo_loss"):
        frame[column] = rng.normal(size=len(frame))
    artifacts.write(path, frame, "train_log")
    return [path], frame


def test_quantities_are_changes_against_the_same_batchs_reference(tree):
    paths, frame = log(tree, 8)
    chosen = frame.logp_chosen - frame.reference_logp_chosen
    rejected = frame.logp_rejected - frame.reference_logp_rejected
    expected = {
        "chosen": chosen, "rejected": rejected, "margin": chosen - rejected, "dpo_loss": frame.dpo_loss,
        "logp_chosen": frame.logp_chosen, "logp_rejected": frame.logp_rejected,
    }  # fmt: skip
    found = curves.read(paths, tuple(expected))
    for quantity, values in expected.items():
        assert found[found.quantity == quantity].value.tolist() == pytest.approx(values.tolist()), quantity


@pytest.mark.parametrize(("steps", "window"), [(16, 4), (5, 2), (480, 100)])
def test_running_means_are_over_a_quarter_of_an_epoch_and_a_hundred_steps_at_most(tree, steps, window):
    paths, frame = log(tree, steps)
    found = curves.read(paths, ("dpo_loss",))
    for place in (window - 1, window, len(frame) - 1):
        last = frame.dpo_loss[place - window + 1 : place + 1]
        row = found.iloc[place]
        assert (row["mean"], row.n) == pytest.approx((last.mean(), window))
        assert row.low < row["mean"] < row.high
    assert found["mean"].iloc[0] == found.low.iloc[0] == frame.dpo_loss[0]  # one value has no scatter


def test_the_last_epoch_alone(tree):
    paths, frame = log(tree, 8, epochs=3)
    found = curves.last_epoch(curves.read(paths, ("dpo_loss",)))
    assert found.tolist() == frame.dpo_loss[frame.epoch == 3].tolist()
