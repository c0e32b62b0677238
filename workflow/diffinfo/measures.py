"""The measures: each is declared once, with the tables it leaves of a cell and the numbers that are read from them.

A declaration in ``MEASURES`` makes a measure everywhere but in the rules that compute it: the configuration takes its name,
``rule all`` and the plan its tables of every cell, and ``results/tables/grid`` its numbers.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import pandas as pd

from diffinfo.intervals import Z95, Estimate, correlation, mean, share, slope, student

LOG = "<results>/train/{run}/{span}/train_log.parquet"
HELDOUT = "<results>/train/{run}/{span}/heldout.parquet"
SCORES = "<results>/reward/{run}/{span}/scores.parquet"
ENTROPY = "<results>/entropy/{run}/epoch-{epoch}.parquet"
PROXY = "<results>/did/{run}/epoch-{epoch}"
PROXY_SAMPLED = "<results>/did_sampled/{run}/epoch-{epoch}"
SMC = "<results>/smc/{run}/epoch-{epoch}.parquet"
UPDATE = "<results>/update/{run}/epoch-{epoch}.parquet"
TARGET = "<results>/target/{run}/epoch-{epoch}.parquet"
PATH = "<results>/path/{run}/{span}.parquet"  # the same of every epoch, on fewer prompts
WINRATES = "<results>/arena_hard/{run}/final/winrates.parquet"
WILDBENCH = "<results>/wildbench/{run}/judgments.parquet"
QA = "<results>/qa/{run}/{span}.parquet"
QA_ITEMS = "<results>/qa/{run}/{span}.items.parquet"  # beside it: read by the claims, not by the grid table
SELECTING = "<results>/arena_hard/{run}/{span}/judgments.parquet"  # by the judge that selects the epoch
JUDGED = "<results>/arena_hard/{run}/final/judgments.parquet"  # beside the win rates
APART = "<results>/arena_hard/{run}/final/apart.parquet"  # the same with epochs selected by other questions


@dataclass(frozen=True)
class Number:
    """A number of the grid table."""

    title: str
    unit: str
    over: str  # what its n counts, and its interval is over
    digits: int


@dataclass(frozen=True)
class Result:
    """A table that a measure leaves of a cell."""

    # <results>: Config.results; {run}: model/dataset/method; {span}: the epochs of a job, such as 1-5; {epoch}: the last one
    path: str
    kind: str  # of table, see diffinfo.tables.schemas
    numbers: dict[str, Number]  # by their columns in the grid table
    read: Callable[
        [pd.DataFrame, pd.DataFrame | None], dict[str, Estimate]
    ]  # from rows of one epoch, with a column ``beta`` of the method's, and those of pi_ref
    of_reference: bool = False  # whether there is one of pi_ref too, as method "ref", span 0-0, epoch 0

    @property
    def stage(self) -> str:
        """The folder of results/ that it is in."""
        return self.path.split("/{run}")[0].rpartition("/")[2]


def _changes(rows: pd.DataFrame) -> tuple[pd.Series[float], pd.Series[float]]:
    """Of log pi(y_w) and of log pi(y_l), against pi_ref."""
    return rows.logp_chosen - rows.reference_logp_chosen, rows.logp_rejected - rows.reference_logp_rejected


def _log(rows: pd.DataFrame, _: pd.DataFrame | None) -> dict[str, Estimate]:
    """Means over the batches of an epoch; changes are against the same batch under pi_ref."""
    chosen, rejected = _changes(rows)
    values = {"loss": rows.loss, "logp_chosen": chosen, "logp_rejected": rejected, "margin": chosen - rejected}
    return {name: mean(found.dropna()) for name, found in values.items()}


def _heldout(rows: pd.DataFrame, _: pd.DataFrame | None) -> dict[str, Estimate]:
    """Means over the held-out pairs; the loss at the method's own beta, at 0.1 where it has none, as in Figure 9."""
    chosen, rejected = _changes(rows)
    loss = np.logaddexp(0, -rows.beta.astype(float).fillna(0.1) * (chosen - rejected))
    return {
        "heldout_logp_chosen": mean(chosen),
        "heldout_logp_rejected": mean(rejected),
        "heldout_dpo_loss": mean(loss),
    }


def _reward(rows: pd.DataFrame, reference: pd.DataFrame | None) -> dict[str, Estimate]:
    """Means over prompts, whose samples are averaged first: E[R(y)], and E[R(y) - R(y_ref)] paired by prompt."""
    own = rows.groupby("prompt_id").score.mean()
    if reference is None:
        return {"reward": mean(own)}
    gain = own - reference.groupby("prompt_id").score.mean()
    return {"reward": mean(own), "reward_gain": mean(gain.dropna())}


def _of_entropy(column: str, accuracy: str = "") -> Callable[[pd.DataFrame, pd.DataFrame | None], dict[str, Estimate]]:
    """The entropy as ``column``, of a proxy with its beta'-accuracy as ``accuracy``, where it has one."""

    def read(rows: pd.DataFrame, _: pd.DataFrame | None) -> dict[str, Estimate]:
        (row,) = rows.itertuples()
        half = float(student(row.prompts)) * row.stderr
        found = {column: Estimate("", row.entropy, row.entropy - half, row.entropy + half, row.prompts)}
        if pd.notna(row.beta_accuracy):
            found[accuracy] = share("", row.beta_accuracy * row.prompts, row.prompts)
        return found

    return read


def _win_rate(rows: pd.DataFrame, _: pd.DataFrame | None) -> dict[str, Estimate]:
    (row,) = rows.itertuples()
    return {
        "win_rate": Estimate("", row.win_rate, row.low, row.high, row.games),
        "win_rate_controlled": Estimate("", row.controlled, row.controlled_low, row.controlled_high, row.games),
    }


def _wildbench(rows: pd.DataFrame, _: pd.DataFrame | None) -> dict[str, Estimate]:
    return {"wildbench_score": mean(rows.score.dropna())}


def _accuracy(rows: pd.DataFrame, _: pd.DataFrame | None) -> dict[str, Estimate]:
    """Mean accuracy of the benchmarks, each by the metric it is ranked by, its first; their errors are independent."""
    ranked = rows.drop_duplicates("benchmark")
    value, half = ranked.value.mean(), Z95 * (ranked.stderr**2).sum(skipna=False) ** 0.5 / len(ranked)
    return {"qa_accuracy": Estimate("", value, value - half, value + half, int(ranked.n.sum()))}


def _smc(rows: pd.DataFrame, _: pd.DataFrame | None) -> dict[str, Estimate]:
    """At the longest limit T."""
    last = rows[rows.length == rows.length.max()]
    return {"smc_entropy": mean(last.entropy), "smc_certified": share("", last.certified.sum(), len(last))}


def update(rows: pd.DataFrame, _: pd.DataFrame | None = None) -> dict[str, Estimate]:
    """Means over prompts, and the correlation of log pi/pi_ref with length within prompts."""
    found = {name: mean(rows[name]) for name in ("kl_reference", "kl_policy", "entropy_change", "covariance")}
    return found | {"length_correlation": correlation(rows.ratio_tokens, rows.ratio_ratio, rows.tokens_tokens)}


def target(rows: pd.DataFrame, _: pd.DataFrame | None = None) -> dict[str, Estimate]:
    """Slope and correlation of log pi/pi_ref and s R / beta within prompts, and means over prompts."""
    found = {f"target_{name}": mean(rows[name]) for name in ("reward_gain", "nearer", "distance")}
    found["target_correlation"] = correlation(rows.ratio_target, rows.ratio_ratio, rows.target_target)
    return {"target_slope": slope(rows.ratio_target, rows.target_target)} | found


TRAINING = Result(  # what every training leaves, whatever a row measures
    LOG, "train_log",
    {
        "loss": Number("loss", "nats, the method's own", "batches of the epoch", 4),
        "logp_chosen": Number("Δ log π(y_w)", "nats, above π_ref", "batches of the epoch", 2),
        "logp_rejected": Number("Δ log π(y_l)", "nats, above π_ref", "batches of the epoch", 2),
        "margin": Number("margin", "nats: Δ log π(y_w) − Δ log π(y_l)", "batches of the epoch", 2),
    },
    _log,
)  # fmt: skip
HELD_OUT = Result(  # the same of pairs that are never trained on, where preference.held_out asks for some
    HELDOUT, "heldout",
    {
        "heldout_logp_chosen": Number("Δ log π(y_w) held out", "nats, above π_ref", "held-out pairs", 2),
        "heldout_logp_rejected": Number("Δ log π(y_l) held out", "nats, above π_ref", "held-out pairs", 2),
        "heldout_dpo_loss": Number("DPO loss held out", "nats, at the method's β, else 0.1", "held-out pairs", 4),
    },
    _heldout,
)  # fmt: skip
UPDATES: dict[str, Number] = {
    "kl_reference": Number("KL(π_ref‖π)", "nats", "prompts", 3),
    "kl_policy": Number("KL(π‖π_ref)", "nats", "prompts", 3),
    "entropy_change": Number("H(π) − H(π_ref)", "nats, paired by prompt", "prompts", 2),
    "covariance": Number("Cov(ℓ, log π_ref)", "nats², within prompts, under π_ref", "prompts", 2),
    "length_correlation": Number("corr(ℓ, tokens)", "within prompts, under π_ref", "prompts", 2),
}
TARGETS: dict[str, Number] = {
    "target_slope": Number("slope of ℓ on sR/β", "1 at π*, within prompts, under π_ref", "prompts", 3),
    "target_correlation": Number("corr(ℓ, R)", "1 at π*, within prompts, under π_ref", "prompts", 2),
    "target_reward_gain": Number("true E[R(y) − R(y_ref)]", "reward, paired by prompt", "prompts", 3),
    "target_nearer": Number("KL(π_ref‖π*) − KL(π‖π*)", "nats, positive: nearer to π* than π_ref", "prompts", 2),
    "target_distance": Number("KL(π‖π*) at least", "nats, too low in expectation", "prompts", 2),
}
MEASURES: dict[str, tuple[Result, ...]] = {
    "expected_reward": (
        Result(
            SCORES, "scores",
            {
                "reward": Number("E[R(y)]", "reward", "held-out prompts", 3),
                "reward_gain": Number("E[R(y) − R(y_ref)]", "reward, paired by prompt", "held-out prompts", 3),
            },
            _reward, of_reference=True,
        ),
    ),
    "entropy": (
        Result(
            ENTROPY, "entropy", {"entropy": Number("H(π)", "nats", "prompts", 2)}, _of_entropy("entropy"),
            of_reference=True,
        ),
    ),
    "did": (
        Result(
            f"{PROXY}/entropy.parquet", "entropy",
            {
                "did_entropy": Number("H(DID)", "nats", "prompts", 2),
                "beta_accuracy": Number("β′-accuracy", "share", "prompts", 3),
            },
            _of_entropy("did_entropy", "beta_accuracy"),
        ),
    ),
    "did_sampled": (
        Result(
            f"{PROXY_SAMPLED}/entropy.parquet", "entropy",
            {
                "did_sampled_entropy": Number("H(DID), sampled pairs", "nats", "prompts", 2),
                "did_sampled_accuracy": Number("β′-accuracy, sampled pairs", "share", "prompts", 3),
            },
            _of_entropy("did_sampled_entropy", "did_sampled_accuracy"),
        ),
    ),
    "smc": (
        Result(
            SMC, "smc",
            {
                "smc_entropy": Number("H(q_T)", "nats, at the longest T", "prompts", 1),
                "smc_certified": Number("H(q_T) certified", "share", "prompts", 2),
            },
            _smc,
        ),
    ),
    "update": (  # of the last epoch the grid takes what comes last
        Result(PATH, "path", UPDATES, update), Result(UPDATE, "update", UPDATES, update)
    ),
    "target": (
        Result(
            TARGET, "target", TARGETS, target,
        ),
    ),
    "benchmarks": (
        Result(
            WINRATES, "winrates",
            {
                "win_rate": Number("Arena-Hard", "% won, at the best epoch", "games", 1),
                "win_rate_controlled": Number("Arena-Hard at equal lengths (ours)", "% won, at the best epoch", "games", 1),
            },
            _win_rate,
        ),
        Result(
            WILDBENCH, "judgments",
            {"wildbench_score": Number("WildBench", "score of 1 to 10, at the best epoch", "tasks", 2)}, _wildbench,
        ),
    ),
    "qa": (
        Result(
            QA, "qa", {"qa_accuracy": Number("QA", "mean accuracy of the benchmarks", "questions", 4)}, _accuracy
        ),
    ),
}  # fmt: skip
RESULTS = {  # by their folder of results/ and their kind
    (result.stage, result.kind): result for found in [(TRAINING, HELD_OUT), *MEASURES.values()] for result in found
}
NUMBERS = {name: number for result in RESULTS.values() for name, number in result.numbers.items()}
