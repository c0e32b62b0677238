"""The tables of this workflow: their columns, types and versions. ``diffinfo.tables.artifacts`` writes and reads them."""

from __future__ import annotations

from typing import Any

import pyarrow as pa

from diffinfo.measures import NUMBERS, TARGETS, UPDATES

_TEXT, _INT, _REAL, _FLAG = pa.string(), pa.int64(), pa.float64(), pa.bool_()
_IDS = pa.list_(pa.int32())
MESSAGES = pa.list_(pa.struct([("role", _TEXT), ("content", _TEXT)]))


def _schema(**columns: Any) -> pa.Schema:
    """Columns are required unless wrapped in a tuple: ``(type, "optional")`` may hold nulls."""
    return pa.schema(
        [
            pa.field(name, *((kind[0],) if isinstance(kind, tuple) else (kind,)), nullable=isinstance(kind, tuple))
            for name, kind in columns.items()
        ]
    )


def _maybe(kind: pa.DataType) -> tuple[pa.DataType, str]:
    return (kind, "optional")


def _of(kind: Any, names: str) -> dict[str, Any]:
    return dict.fromkeys(names.split(), kind)


UPDATED, TARGETED = list(UPDATES), list(TARGETS)
_CELL = _of(_TEXT, "model dataset method")

# size and direction of the update from pi_ref to pi, a row each prompt; l = log pi - log pi_ref, nats
_UPDATE: dict[str, Any] = dict(
    prompt_id=_TEXT,
    samples=_INT,  # of pi_ref, and as many of pi
    kl_reference=_REAL,  # KL(pi_ref || pi)
    kl_policy=_REAL,  # KL(pi || pi_ref)
    entropy_change=_REAL,  # H(pi) - H(pi_ref)
    covariance=_REAL,  # of l and log pi_ref, samples of pi_ref
    # sums of products about the prompt's means, samples of pi_ref: of l and of the number of tokens
    **_of(_REAL, "ratio_tokens ratio_ratio tokens_tokens"),
)

# name: (version, schema). Raise the version whenever columns or their meaning change.
SCHEMAS: dict[str, tuple[int, pa.Schema]] = {
    # data -----------------------------------------------------------------------------------------------------
    "prompts": (1, _schema(prompt_id=_TEXT, messages=MESSAGES, source=_TEXT)),
    "instructions": (1, _schema(uuid=_TEXT, instruction=_TEXT)),  # written by a model (``sample.magpie``)
    "quarantine": (1, _schema(source=_TEXT, row=_INT, prompt_id=_maybe(_TEXT), reason=_TEXT, excerpt=_TEXT)),
    # one sampled or decoded response; logp is the sum over completion tokens of the untruncated T=1 model, in nats
    "completions": (
        1,
        _schema(
            benchmark=_TEXT,  # "" outside the benchmarks
            epoch=_INT,  # of the policy that wrote it; 0 for a policy without epochs (reference, teacher)
            prompt_id=_TEXT,
            sample=_INT,
            messages=MESSAGES,
            prompt_token_ids=_IDS,
            completion=_TEXT,
            token_ids=_IDS,  # the end-of-turn token included when finish_reason is "stop"
            logp=_REAL,
            finish_reason=_TEXT,  # "stop" or "length"
        ),
    ),
    "scores": (1, _schema(epoch=_INT, prompt_id=_TEXT, sample=_INT, score=_REAL, tokens=_INT)),
    "preferences": (
        1,
        _schema(
            prompt_id=_TEXT,
            messages=MESSAGES,
            chosen=_TEXT,
            rejected=_TEXT,
            chosen_score=_maybe(_REAL),
            rejected_score=_maybe(_REAL),
            chosen_truncated=_FLAG,
            rejected_truncated=_FLAG,
        ),
    ),
    # of datasets with ``rejected``: candidates for y_l, and the share of them that is effective under Equation 1's weights
    "resampled": (1, _schema(prompt_id=_TEXT, candidates=_INT, effective=_REAL)),
    # training -------------------------------------------------------------------------------------------------
    # log-probabilities in nats, summed over completion tokens
    "reference_logps": (
        1,
        _schema(
            prompt_id=_TEXT,
            prompt_ids=_IDS,
            chosen_ids=_IDS,
            rejected_ids=_IDS,
            chosen_logp=_maybe(_REAL),  # null where only methods without a reference read it (the DID proxy)
            rejected_logp=_maybe(_REAL),
        ),
    ),
    "train_log": (
        1,
        _schema(
            step=_INT,
            epoch=_INT,
            loss=_REAL,
            dpo_loss=_maybe(_REAL),  # at beta = 0.1 whatever the method (Figure 9)
            **_of(_maybe(_REAL), "logp_chosen logp_rejected reference_logp_chosen reference_logp_rejected margin"),
            grad_norm=_REAL,
            dot=_maybe(_REAL),  # DPO-PG: g_w . g_l
            norm_chosen=_maybe(_REAL),
            norm_rejected=_maybe(_REAL),
            cosine=_maybe(_REAL),
            learning_rate=_REAL,
            tokens=_INT,
        ),
    ),
    # pairs that are never trained on, scored after each epoch: sums over completion tokens, nats
    "heldout": (
        1,
        _schema(
            epoch=_INT,
            prompt_id=_TEXT,
            **_of(_REAL, "logp_chosen logp_rejected reference_logp_chosen reference_logp_rejected"),
        ),
    ),
    # of the machine, not of the run: kept apart, for train_log's bytes must not depend on the clock
    "train_speed": (
        1,
        _schema(
            step=_INT,
            seconds=_REAL,
            tokens_per_second=_REAL,
            tflops=_REAL,  # model FLOPs, see diffinfo.train.speed.flops
            mfu=_maybe(_REAL),  # share of the cards' dense bfloat16 peak; null where that is not known
            data_wait=_REAL,  # share of the step before its data was there
            padding_share=_REAL,  # tokens that trained nothing
            peak_memory_mb=_REAL,  # of rank 0, of its GPU where it has one
        ),
    ),
    # measurements ---------------------------------------------------------------------------------------------
    "entropy": (
        1,
        _schema(
            entropy=_REAL,  # nats
            stderr=_REAL,  # over prompts
            prompts=_INT,
            samples=_INT,
            truncated=_REAL,  # share cut by max_tokens (biases the entropy down)
            mean_tokens=_REAL,
            beta_accuracy=_maybe(_REAL),  # K.1; only for DID proxies
        ),
    ),
    # H(q_T) of the DID by sequential Monte Carlo, a row each prompt and limit T; logarithms in nats
    "smc": (
        1,
        _schema(
            prompt_id=_TEXT,
            length=_INT,  # T: strings of at most T tokens, those cut there included
            entropy=_REAL,  # of all runs pooled: 4 N particles
            entropy_n=_REAL,  # mean of the runs: N particles
            **_of(_REAL, "log_z log_z_n"),
            log_z_upper=_REAL,  # mean of the conditional runs
            **_of(_REAL, "low high"),  # of log Z_T: the certificate
            effective=_REAL,  # fewest effective particles up to T, a share of all, mean of the runs
            cut=_REAL,  # q's mass on strings that T cuts
            forwards=_INT,  # tokens passed through either model
            uniform=_REAL,  # ln of the number of strings: the largest entropy that there is
            certified=_FLAG,  # whether high - low is at most smc.gap times uniform
        ),
    ),
    "update": (1, _schema(**_UPDATE)),
    "path": (1, _schema(epoch=_INT, **_UPDATE)),  # the same of every epoch of a span
    # what it was made from, a row each sample of pi and of pi_ref; nats
    "update_samples": (
        1,
        _schema(by_policy=_FLAG, prompt_id=_TEXT, sample=_INT, **_of(_REAL, "policy reference"), tokens=_INT),
    ),
    # distance from pi* ∝ pi_ref e^{s R / beta}, a row each prompt; nats
    "target": (
        1,
        _schema(
            prompt_id=_TEXT,
            samples=_INT,  # of pi_ref, and as many of pi
            log_z=_REAL,  # of pi_ref e^{s R / beta}, from both models' samples; too low in expectation
            effective=_REAL,  # effective samples of that estimate, a share of all
            reward_gain=_REAL,  # E_pi R - E_pi_ref R, the language's own reward
            nearer=_REAL,  # KL(pi_ref || pi*) - KL(pi || pi*)
            distance=_REAL,  # KL(pi || pi*), too low in expectation
            # sums of products about the prompt's means, samples of pi_ref: of l and of s R / beta
            **_of(_REAL, "ratio_target ratio_ratio target_target"),
        ),
    ),
    "judgments": (
        3,
        _schema(
            benchmark=_TEXT,
            epoch=_INT,
            prompt_id=_TEXT,
            game=_INT,  # Arena-Hard and WB-Reward: 1 = baseline is A, 2 = answer is A; WildBench: 1
            judge=_TEXT,
            apart=_FLAG,  # whether other questions than this one selected its epoch
            verdict=_maybe(_TEXT),  # label of Arena-Hard or WB-Reward, null when the judge gave none or two
            score=_maybe(_REAL),  # WildBench 1..10, WB-Reward -1..1
            tokens=_INT,  # length of the judged answer, without the end-of-turn token
            chars=_INT,  # the same in characters, stripped: WildBench's length rule
            truncated=_FLAG,
            reply=_TEXT,
            unjudged=_maybe(_TEXT),  # why there is no verdict or score
            # what the reply cost, where that is known: tokens read, those of them cached, and tokens written
            **_of(_maybe(_INT), "read cached written"),
            dollars=_maybe(_REAL),
        ),
    ),
    # Arena-Hard questions with the baseline's answer; WildBench tasks with their checklist
    "benchmark": (
        1,
        _schema(
            benchmark=_TEXT,
            prompt_id=_TEXT,
            messages=MESSAGES,
            tag=_TEXT,  # Arena-Hard: cluster; WildBench: primary tag and secondary ones, joined by "; "
            checklist=pa.list_(_TEXT),
            baseline=_maybe(_TEXT),  # WildBench: the reference answer, which no endpoint sees
        ),
    ),
    "winrates": (
        2,
        _schema(
            epoch=_INT,
            **_of(_REAL, "win_rate low high"),
            # ours: at equal lengths, see bench.length
            **_of(_REAL, "controlled controlled_low controlled_high"),
            **_of(_INT, "games unscored"),
            **_of(_REAL, "mean_tokens baseline_mean_tokens"),
        ),
    ),
    "qa": (
        1,
        _schema(epoch=_INT, benchmark=_TEXT, task=_TEXT, metric=_TEXT, value=_REAL, stderr=_maybe(_REAL), n=_INT),
    ),
    # item: lm-eval's task, number and digest of the question, the same for all models; value: of the ranked metric
    "qa_items": (1, _schema(epoch=_INT, benchmark=_TEXT, item=_TEXT, value=_REAL)),
    # the laboratory -------------------------------------------------------------------------------------------
    "objectives": (
        1,
        _schema(objective=_TEXT, hyperparameters=_TEXT, tau=_REAL, seed=_INT, step=_INT, js_target=_REAL, js_did=_REAL),
    ),
    "population": (
        1,
        _schema(
            objective=_TEXT,
            hyperparameters=_TEXT,
            tau=_REAL,
            seed=_INT,
            js_target=_REAL,
            js_did=_REAL,
            gradient=_REAL,  # largest entry at the optimum: how exactly it was found
            # training with the same hyper-parameters, only in the report's table
            js_minimum=_maybe(_REAL),
            minimum_step=_maybe(_INT),
            js_final=_maybe(_REAL),
        ),
    ),
    "theorems": (
        1,
        _schema(
            statement=_TEXT,
            quantity=_TEXT,
            value=_REAL,
            tolerance=_REAL,
            holds=_FLAG,
            broken=_maybe(_TEXT),  # how the statement's condition is broken on purpose
            broken_value=_maybe(_REAL),  # the quantity then
        ),
    ),
    # H(q_T) of bigram models, nats; "smc" has an interval for log Z_T
    "lengths": (
        1,
        _schema(
            estimator=_TEXT,
            seed=_INT,
            length=_INT,
            **_of(_REAL, "size exact estimate log_z uniform"),
            **_of(_maybe(_REAL), "low high"),
        ),
    ),
    "did_proxy": (
        2,
        _schema(
            estimator=_TEXT,
            decode=_TEXT,
            pairs=_INT,
            steps=_INT,
            seed=_INT,
            exact=_REAL,
            estimate=_REAL,
            beta_accuracy=_maybe(_REAL),
            policy=_TEXT,
            cost=_INT,  # sequences passed forward through a model; a backward pass counts as two
            tied=_maybe(_REAL),  # share of training pairs whose two responses are the same
            policy_entropy=_REAL,  # exact H(pi)
            reference_entropy=_REAL,  # exact H(pi_ref)
            effective=_maybe(_REAL),  # exact: draws from q that one weighted sample is worth
        ),
    ),
    # pairs = 0: the population optimum, as if there were infinitely many
    "rejected_sampling": (1, _schema(rejected=_TEXT, pairs=_INT, seed=_INT, js_target=_REAL, kl_target=_REAL)),
}

# The report. low and high: 95 % intervals; cells the paper printed and this grid lacks have nulls in our columns.
_LOG = _schema(**_CELL, **_of(_TEXT, "quantity"), **_of(_INT, "step epoch n"), **_of(_REAL, "value mean low high"))
_MRR = _schema(
    **_CELL, **_of(_TEXT, "quantity"), **_of(_INT, "epoch benchmarks questions"), **_of(_REAL, "value low high")
)
SCHEMAS |= {
    # a row each cell, epoch and seed (none: pi_ref, or the mean over several ``seeds``); the columns of diffinfo.measures, each
    # with its interval, its n, and in the mean's row the standard deviation between seeds
    "grid": (1, _schema(
        **_CELL, epoch=_INT, seed=_maybe(_INT), seeds=_INT,
        **{f"{name}{suffix}": _maybe(_INT if suffix == "_n" else _REAL)
           for name in NUMBERS for suffix in ("", "_low", "_high", "_n", "_sd")},
    )),
    "costs": (1, _schema(  # null: nobody was paid, or the endpoint does not say
        **_CELL, **_of(_TEXT, "judge benchmark"), **_of(_INT, "judgments unjudged"),
        **_of(_maybe(_INT), "read cached written"), dollars=_maybe(_REAL),
    )),
    "categories": (1, pa.schema([*SCHEMAS["winrates"][1], *_schema(category=_TEXT)])),
    "arena_hard_v2": (1, pa.schema([*_schema(**_CELL, category=_TEXT), *SCHEMAS["winrates"][1]])),
    # WB-Reward in per cent; baseline "all baselines": the mean over them of tasks that are judged against each
    "wb_reward": (1, _schema(
        **_CELL, **_of(_TEXT, "baseline"), **_of(_INT, "epoch tasks unjudged"), **_of(_REAL, "reward low high"),
        weighted=_maybe(_REAL), **_of(_maybe(_INT), "much_better better tie worse much_worse"),
    )),
    # of several ``seeds``: their means, and sd between them
    "table1": (2, _schema(
        **_CELL, **_of(_maybe(_INT), "epoch prompts seeds"), entropy_sd=_maybe(_REAL),
        **_of(_maybe(_REAL), "beta entropy low high reference reference_low reference_high truncated mean_tokens"),
        **_of(_maybe(_REAL), "paper_entropy paper_reference"),
    )),
    "table2": (3, _schema(
        **_CELL, **_of(_maybe(_INT), "epoch prompts seeds"), **_of(_FLAG, "dagger sampled_dagger paper_dagger"),
        **_of(_maybe(_REAL), "did_entropy_sd sampled_did_entropy_sd"),
        **_of(_maybe(_REAL), "sampled_did_entropy sampled_low sampled_high sampled_beta_accuracy"),  # ours: sampled pairs
        **_of(_maybe(_REAL), "did_entropy low high beta_accuracy truncated mean_tokens win_rate elo"),
        **_of(_maybe(_REAL), "paper_did_entropy paper_win_rate paper_elo"),
        **_of(_maybe(_REAL), "kl_reference kl_reference_low kl_reference_high"),
        **_of(_maybe(_REAL), "entropy_change entropy_change_low entropy_change_high"),
    )),
    # win_rate: as the paper selects the epoch; win_rate_apart: each half at the epoch that the other selects, the first and
    # the last of these epochs
    "table3": (3, _schema(
        **_CELL, **_of(_maybe(_REAL), "win_rate_sd elo_sd score_sd win_rate_apart_sd"),
        **_of(_maybe(_INT), "apart_first apart_last"),
        **_of(_maybe(_REAL), "win_rate_apart win_rate_apart_low win_rate_apart_high"),
        **_of(_maybe(_INT), "seeds best_epoch games unscored battles tasks paper_best_epoch"),
        **_of(_maybe(_REAL), "win_rate win_rate_low win_rate_high mean_tokens baseline_mean_tokens"),
        **_of(_maybe(_REAL), "elo elo_low elo_high score score_low score_high wildbench_tokens"),
        **_of(_maybe(_REAL), "paper_win_rate paper_win_rate_low paper_win_rate_high"),
        **_of(_maybe(_REAL), "paper_elo paper_elo_low paper_elo_high"),
    )),
    # one row per step: value is that batch's mean, mean a running one over n steps
    **dict.fromkeys(("figure2", "figure5", "figure8", "figure9", "figure10", "figure11", "figure13"), (1, _LOG)),
    # quantity "mrr", or "lead": DPO-PG's over the mean of DPO's, over all epochs (epoch 0)
    **dict.fromkeys(("figure3", "figure12"), (1, _MRR)),
    # reward above pi_ref; quantity: see ``report.rewards.reward_table``
    "figure6": (2, _schema(
        **_CELL, **_of(_TEXT, "objective quantity"), **_of(_INT, "epoch prompts"), **_of(_REAL, "value low high"),
    )),
    # means over ``prompts``, with 95 % intervals; log_z is the pooled runs' mean, low and high those of its entropy
    "did_smc": (1, _schema(
        **_CELL, **_of(_INT, "epoch length prompts"), **_of(_REAL, "entropy low high entropy_n uniform certified"),
        **_of(_REAL, "log_z log_z_n log_z_upper width effective cut"), forwards=_INT,
    )),
    "updates": (1, _schema(
        **_CELL, **_of(_INT, "epoch prompts"),
        **{f"{name}{end}": _maybe(_REAL) for name in UPDATED for end in ("", "_low", "_high")},
    )),
    # method minus other at equal KL(pi_ref || pi); first and most: KL of a path's first measured point, and its largest
    "matched": (1, _schema(
        **_of(_TEXT, "measure model dataset method other"), **_of(_REAL, "first most other_first other_most"),
        **_of(_maybe(_REAL), "kl value low high"), n=_maybe(_INT),
    )),
    "targets": (1, _schema(
        **_CELL, **_of(_INT, "epoch prompts"), **_of(_REAL, "beta effective"),
        **{f"{name}{end}": _maybe(_REAL) for name in TARGETED for end in ("", "_low", "_high")},
    )),
    # seeds pooled; gap: R(y_w) - R(y_l); behind: nats by which the ideal pairs' policy is nearer to pi*, by the same prompts
    "rejected": (1, _schema(
        **_CELL, rejected=_TEXT, **_of(_INT, "epoch seeds pairs candidates prompts"), effective=_REAL,
        **{f"{name}{end}": _maybe(_REAL) for name in ["gap", *TARGETED, "behind"] for end in ("", "_low", "_high")},
    )),
    # of the cell nearest to the other side; beyond: of the differences from permuted labels the nearest to it, which is
    # compared (true labels) less placebo; p and holm: of the verdict; seed_verdicts: from each seed alone
    "claims": (3, _schema(
        **_of(_TEXT, "claim statement source prediction model dataset evidence verdict holm seed_verdicts"),
        **_of(_maybe(_REAL), "value low high compared placebo placebo_low placebo_high beyond beyond_low beyond_high p"),
        **_of(_maybe(_INT), "n seeds placebo_draws"),
    )),
    "spent": (1, _schema(**_of(_TEXT, "rule model hardware"), jobs=_INT, **_of(_REAL, "hours gpu_hours dollars"))),
}  # fmt: skip
