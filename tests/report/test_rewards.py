"""Expected rewards against loops over prompts and scipy's paired intervals."""

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from diffinfo.report.rewards import reward_table
from diffinfo.selection import halves
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


def noisy(tree, method: str, gains: dict[int, float], seed: int, longer: float = 0.0):
    """One sample a prompt; longer answers score more, by 0.05 a token."""
    level, rng = np.random.default_rng(0).normal(0, 5, 60), np.random.default_rng(seed)
    rows = []
    for epoch, gain in gains.items():
        tokens = rng.poisson(20 + longer, 60)
        score = level + gain + 0.05 * (tokens - 20) + rng.normal(0, 1, 60)
        rows += [
            {"epoch": epoch, "prompt_id": f"p{p:02}", "sample": 0, "score": score[p], "tokens": tokens[p]}
            for p in range(60)
        ]
    path = tree.root / "reward" / RUN / method / "1-2" / "scores.parquet"
    artifacts.write(path, pd.DataFrame(rows), "scores")
    return path


def test_each_half_is_reported_at_what_the_other_half_selects(tree):
    files = {"ref": noisy(tree, "ref", {0: 0.0}, 1)}
    names = ["dpo-b0.1", "dpo-b0.02", "logpi-b0.1", "logpi-b0.02"]
    files |= {m: noisy(tree, m, {1: 0.1, 2: 0.1, 3: 0.1}, s, 8 * ("logpi" in m)) for s, m in enumerate(names, 2)}
    table = reward_table(list(files.values())).set_index("quantity")
    frames = {m: artifacts.read(path, "scores").set_index(["epoch", "prompt_id"]) for m, path in files.items()}
    half = halves(f"p{p:02}" for p in range(60))
    reported: dict[str, dict[str, tuple[str, int]]] = {"dpo": {}, "logpi": {}}
    for objective, found in reported.items():
        for side in (0, 1):
            means = {
                (m, e): np.mean([frames[m].score[e, p] - frames["ref"].score[0, p] for p in half.index if half[p] != side])
                for m in names if m.startswith(objective) for e in (1, 2, 3)
            }  # fmt: skip
            where = max(means, key=lambda key: means[key])
            row = table.loc[f"half {side + 1}"].query(f"objective == '{objective}'").iloc[0]
            own = [
                frames[where[0]].score[where[1], p] - frames["ref"].score[0, p] for p in half.index if half[p] == side
            ]
            assert (row.method, row.epoch, row.prompts) == (*where, 30)
            assert row.value == pytest.approx(np.mean(own))
            found |= {p: where for p in half.index if half[p] == side}
    assert len({where for found in reported.values() for where in found.values()}) > 2  # the halves select differently

    def difference(column):
        return {
            p: frames[reported["dpo"][p][0]].loc[(reported["dpo"][p][1], p), column]
            - frames[reported["logpi"][p][0]].loc[(reported["logpi"][p][1], p), column]
            for p in half.index
        }

    scores, tokens = difference("score"), difference("tokens")
    sides = [np.array([scores[p] for p in half.index if half[p] == side]) for side in (0, 1)]
    lead = table.loc["lead apart"]
    flipped = stats.ttest_ind(sides[0], -sides[1], equal_var=False).confidence_interval(0.95)  # the sum of both means
    expected = (np.mean([s.mean() for s in sides]), flipped.low / 2, flipped.high / 2)
    assert (lead.value, lead.low, lead.high) == pytest.approx(expected)
    assert lead.prompts == 60
    equal = table.loc["lead at equal length"]
    fit = stats.linregress([tokens[p] for p in half.index], [scores[p] for p in half.index])
    reach = stats.t.ppf(0.975, 58) * fit.intercept_stderr
    assert (equal.value, equal.low, equal.high) == pytest.approx(
        (fit.intercept, fit.intercept - reach, fit.intercept + reach)
    )
    assert equal.value > lead.value + 0.2  # log pi's answers are eight tokens longer


def test_selection_apart_is_unbiased_where_the_papers_is_not(tree):
    """Thirty policies of no gain: the best by its own prompts is ahead, selected apart it is at zero."""
    ours, papers = [], []
    for repeat in range(30):
        files = [noisy(tree, "ref", {0: 0.0}, 1000 + repeat)]
        files.append(noisy(tree, "dpo-b0.1", dict.fromkeys(range(1, 16), 0.0), 2000 + repeat))
        table = reward_table(files).set_index("quantity")
        ours.append(table.value[["half 1", "half 2"]].mean())
        papers.append(table.value["best"])
    assert np.mean(papers) > 0.2
    assert abs(np.mean(ours)) < 3 * np.std(ours) / 30**0.5


def test_one_prompt_has_nothing_to_select_by(tree):
    files = [scored(tree, "ref", [0], 1, prompts=1), scored(tree, "dpo-b0.1", [1], 2, prompts=1)]
    table = reward_table([*files, scored(tree, "logpi-b0.1", [1], 3, prompts=1)])
    assert set(table.quantity) == {"epoch", "best", "lead"}
