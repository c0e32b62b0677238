"""Mean reciprocal ranks with their errors, against loops over methods and draws."""

import numpy as np
import pandas as pd
import pytest

from diffinfo.report.mrr import mrr_table
from diffinfo.tables import artifacts

RUN = "micro-mistral/magpie-pro"
METHODS = ["dpo-b0.1", "dpo-b0.02", "dpo-pg"]


def measured(tree, epochs: int = 2) -> list:
    """Accuracies of three methods near each other, with errors that mix up their ranks."""
    rng, paths = np.random.default_rng(4), []
    for method in METHODS:
        path = tree.qa(f"{RUN}/{method}", [0.5] * epochs, 0.03)
        frame = artifacts.read(path, "qa")
        frame["value"] = np.where(
            frame.value > 0, rng.uniform(0.45, 0.55, len(frame)), 0.9
        )  # strict match is not ranked
        artifacts.write(path, frame, "qa")
        paths.append(path)
    return paths


def by_hand(paths) -> dict[str, dict[tuple[str, int], float]]:
    """{benchmark: {(method, epoch): accuracy}} of the metric that is ranked."""
    found: dict[str, dict[tuple[str, int], float]] = {}
    for method, path in zip(METHODS, paths, strict=True):
        for row in artifacts.read(path, "qa").itertuples():
            if "strict" not in row.metric:
                found.setdefault(row.benchmark, {})[method, row.epoch] = row.value
    return found


def ranks(values: dict[str, dict[tuple[str, int], float]], epochs: list[int]) -> dict[tuple[str, int], float]:
    """Mean of 1 / rank over benchmarks; no two accuracies here are equal."""
    return {
        (method, epoch): float(np.mean([
            1 / (1 + sum(row[other, epoch] > row[method, epoch] for other in METHODS)) for row in values.values()
        ]))
        for method in METHODS for epoch in epochs
    }  # fmt: skip


def lead(found: dict[tuple[str, int], float], epochs: list[int]) -> float:
    return float(np.mean([found["dpo-pg", e] - (found["dpo-b0.1", e] + found["dpo-b0.02", e]) / 2 for e in epochs]))


def test_ranks_and_their_intervals_are_those_of_400_draws(tree):
    paths, epochs = measured(tree), [1, 2]
    values = by_hand(paths)
    names = sorted((method, benchmark) for method in METHODS for benchmark in values)
    drawn = []
    for deviates in np.random.default_rng(42).standard_normal((400, len(names))):
        error = dict(zip(names, 0.03 * deviates, strict=True))  # the same questions at every epoch: the same error
        drawn.append(
            ranks({b: {(m, e): v + error[m, b] for (m, e), v in row.items()} for b, row in values.items()}, epochs)
        )
    table = mrr_table(paths)
    exact = ranks(values, epochs)
    for row in table[table.quantity == "mrr"].itertuples():
        low, high = np.quantile([draw[row.method, row.epoch] for draw in drawn], [0.025, 0.975])
        assert (row.value, row.low, row.high) == pytest.approx((exact[row.method, row.epoch], low, high))
    row = table[table.quantity == "lead"].iloc[0]
    low, high = np.quantile([lead(draw, epochs) for draw in drawn], [0.025, 0.975])
    assert (row.value, row.low, row.high) == pytest.approx((lead(exact, epochs), low, high))
    assert (row.benchmarks, row.questions) == (8, 400)
    assert list(dict.fromkeys(table.method)) == ["dpo-b0.1", "dpo-b0.02", "dpo-pg"]  # large betas first


def test_an_epoch_that_a_method_lacks_is_left_out(tree):
    paths = measured(tree)
    short = artifacts.read(paths[0], "qa")
    artifacts.write(paths[0], short[short.epoch == 1], "qa")
    table = mrr_table(paths)
    assert set(table[table.quantity == "mrr"].epoch) == {1}
    assert table[table.quantity == "lead"].value.iloc[0] == pytest.approx(lead(ranks(by_hand(paths), [1]), [1]))


def test_without_a_rival_there_is_no_rank(tree):
    assert mrr_table(measured(tree)[:1]).empty
    assert isinstance(mrr_table([]), pd.DataFrame)


def test_a_further_method_is_ranked_among_dpo_and_dpo_pg_alone(tree, monkeypatch):
    """Their own ranks stay, and a second further method does not move the first one's."""
    paths = measured(tree)
    alone = mrr_table(paths)
    more = []
    for method, value in (("simpo-b2.5", 0.51), ("logpi-b0.1", 0.4)):
        path = tree.qa(f"{RUN}/{method}", [value] * 2, 0.03)
        frame = artifacts.read(path, "qa")
        frame["value"] = value + np.arange(len(frame)) / 1e4
        artifacts.write(path, frame, "qa")
        more.append(path)
    table = mrr_table([more[0], *paths, more[1]])
    old = table[table.method.isin(METHODS)].reset_index(drop=True)
    pd.testing.assert_frame_equal(old, alone)
    own = table[table.method == "simpo-b2.5"].set_index("epoch").value
    monkeypatch.setattr(f"{__name__}.METHODS", [*METHODS, "simpo-b2.5"])
    exact = ranks(by_hand([*paths, more[0]]), [1, 2])
    assert own.to_dict() == pytest.approx({epoch: exact["simpo-b2.5", epoch] for epoch in (1, 2)})
    assert set(mrr_table(more).method) == {"simpo-b2.5", "logpi-b0.1"}  # without DPO and DPO-PG: among each other
