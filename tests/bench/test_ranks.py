"""Mean reciprocal ranks by hand."""

import pandas as pd
import pytest

from diffinfo.bench import qa


def test_ranks_by_hand() -> None:
    scores = {
        ("piqa", 1): (0.9, 0.5, 0.1),
        ("siqa", 1): (0.2, 0.4, 0.4),
        ("piqa", 2): (0.1, 0.2, 0.3),
        ("siqa", 2): (0.1, 0.2, 0.3),
    }
    rows = [(m, epoch, b, v) for (b, epoch), row in scores.items() for m, v in zip("abc", row, strict=True)]
    table = pd.DataFrame(rows, columns=["method", "epoch", "benchmark", "value"])
    got = {(row.method, row.epoch): row.mrr for row in qa.mean_reciprocal_rank(table).itertuples()}
    assert got == pytest.approx(
        {
            ("a", 1): (1 + 1 / 3) / 2,
            ("b", 1): (1 / 2 + 1 / 1.5) / 2,  # tied for the first place on siqa
            ("c", 1): (1 / 3 + 1 / 1.5) / 2,
            ("a", 2): 1 / 3,
            ("b", 2): 1 / 2,
            ("c", 2): 1.0,
        }
    )


@pytest.mark.parametrize("fault", ["missing", "null", "twice", "whole benchmark of an epoch"])
def test_ranks_over_an_incomplete_table_are_refused(fault: str) -> None:
    rows = [(m, e, b, 0.5) for m in "ab" for e in (1, 2) for b in ("piqa", "siqa")]
    table = pd.DataFrame(rows, columns=["method", "epoch", "benchmark", "value"])
    if fault == "missing":
        table = table.iloc[1:]
    elif fault == "null":
        table.loc[0, "value"] = None
    elif fault == "twice":
        table = pd.concat([table, table.iloc[:1]])
    else:
        table = table[~((table.epoch == 2) & (table.benchmark == "siqa"))]
    with pytest.raises(ValueError):  # noqa: PT011
        qa.mean_reciprocal_rank(table)
