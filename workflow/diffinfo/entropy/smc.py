"""H(q_T) by sequential Monte Carlo with a certificate: q is proportional to pi / pi_ref on the strings of at most T tokens.

Without a limit q has no mass on finite strings: Z_T, the sum of e^l over them with l = log pi - log pi_ref, grows by about
the size of the vocabulary with each further token. A string cut at T tokens is an outcome, as it is of the sampler.

Each particle is a string that has not ended. Its next token follows the ratio of the two next-token distributions, its weight
takes that step's normaliser, and the strings that end at this token enter Z_T as an expectation, undrawn. Resampling keeps
the particles' weights alike. E[Z] is exact, so E[log Z] is at most log Z_T; with one string drawn from q kept among the
particles (conditional SMC, a step of particle Gibbs) E[log Z] is at least log Z_T. That string comes from the first run, so
the second bound holds as far as the first run saw q. Related: Grosse et al. 2015 (bidirectional Monte Carlo), Zhao et al.
2024 (twisted SMC).

``python -m diffinfo.entropy.smc`` measures two model folders.
"""

from __future__ import annotations

import hashlib
import math
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from diffinfo.cli import UserError, log, progress
from diffinfo.cli import run as command
from diffinfo.config.estimates import Smc
from diffinfo.config.types import Engine
from diffinfo.config.values import Attention, Dtype, Section
from diffinfo.intervals import mean
from diffinfo.tables import artifacts

RESAMPLE_BELOW = 0.5  # effective particles, a share of all
ISLANDS = 4  # independent runs of N particles a prompt; pooled they are one estimate with 4 N


class Chain(Protocol):
    """Two language models behind G prompts, with N strings each."""

    def step(self, tokens: Tensor | None) -> tuple[Tensor, Tensor]:
        """log pi and log pi_ref of the next token [G, N, vocabulary] behind ``tokens`` [G, N]; None: starts at the prompts."""

    def reorder(self, ancestors: Tensor) -> None:
        """Let string n of each prompt go on from string ``ancestors[:, n]``, [G, N]."""


@dataclass(frozen=True)
class Run:
    """What one run estimates at every length t = 1..T, each [T, G]; logarithms in nats."""

    ended: Tensor  # log of the sum of e^l over the strings of t tokens that ended
    ended_ratio: Tensor  # their mean of l under q
    live: Tensor  # the same of those cut at t tokens
    live_ratio: Tensor
    effective: Tensor  # effective particles at t, a share of all, before any resampling
    drawn: dict[int, list[list[int]]]  # by limit: a string of each group, drawn from the run's estimate of q

    def at(self, length: int) -> tuple[Tensor, Tensor, Tensor]:
        """log Z_T, H(q_T) in nats and q's mass on strings cut at T = ``length``, each [G]."""
        parts = torch.cat([self.ended[:length], self.live[length - 1 : length]])
        ratio = torch.cat([self.ended_ratio[:length], self.live_ratio[length - 1 : length]])
        log_z, share = parts.logsumexp(0), parts.softmax(0)
        return log_z, log_z - (share * ratio).sum(0), share[-1]

    def pooled(self, islands: int) -> Run:
        """One run a prompt of the ``islands`` that follow each other: as of so many times the particles."""

        def pool(parts: Tensor, ratio: Tensor) -> tuple[Tensor, Tensor]:
            parts, ratio = (x.unflatten(1, (-1, islands)) for x in (parts, ratio))
            return parts.logsumexp(-1) - math.log(islands), (_shares(parts) * ratio).sum(-1)

        effective = self.effective.unflatten(1, (-1, islands)).mean(-1)
        return Run(*pool(self.ended, self.ended_ratio), *pool(self.live, self.live_ratio), effective, {})


def _shares(log_weights: Tensor) -> Tensor:
    """Normalised weights along the last dimension; zeros where all are zero."""
    return log_weights.softmax(-1).nan_to_num(0.0)


def _pick(weights: Tensor, uniform: Tensor) -> Tensor:
    """Indices [...] by the inverse of the cumulative distribution of ``weights`` [..., K] at ``uniform`` [...]."""
    cumulative = weights.cumsum(-1, dtype=torch.float64)
    found = torch.searchsorted(cumulative, (uniform * cumulative[..., -1]).unsqueeze(-1), right=True).squeeze(-1)
    return found.clamp(max=weights.shape[-1] - 1)


def ancestors(shares: Tensor, uniform: Tensor, kept: Tensor | None = None) -> tuple[Tensor, Tensor | None]:
    """Systematic resampling: ancestors [G, N], and where the kept particle went [G].

    Args:
        shares: normalised weights [G, N].
        uniform: one number in [0, 1) for each group [G].
        kept: particle that must have a descendant [G]; -1: none. Its place is drawn as if it were traced back from one of the
            N new particles (conditional resampling), so ``uniform`` is then its position within its own share.
    """
    n = shares.shape[-1]
    cumulative = shares.cumsum(-1) / shares.sum(-1, keepdim=True)
    offset, place = uniform, None
    if kept is not None:
        own = kept.clamp(min=0)[:, None]
        share, end = ((x.gather(1, own)[:, 0]) for x in (shares, cumulative))
        point = n * (end - share * (1 - uniform)).clamp(0, 1 - 1e-15)
        offset = torch.where(kept < 0, uniform, point - point.floor())
        place = torch.where(kept < 0, -1, point.floor().long())
    points = (torch.arange(n, device=shares.device) + offset[:, None]) / n
    found = torch.searchsorted(cumulative, points, right=True).clamp(max=n - 1)
    if kept is not None and place is not None:  # rounding must not lose it
        rows = (kept >= 0).nonzero()[:, 0]
        found[rows, place[rows]] = kept[rows]
    slots = _in_place(found)
    return found.scatter(1, slots, found), None if place is None else slots.gather(1, place.clamp(min=0)[:, None])[:, 0]


def _in_place(found: Tensor) -> Tensor:
    """Places for ascending ancestors [G, N]: a survivor's first copy stays where it is, further ones go where one died."""
    first = torch.ones_like(found, dtype=torch.bool)
    first[:, 1:] = found[:, 1:] != found[:, :-1]
    dead = torch.ones_like(found, dtype=torch.bool).scatter(1, found, False)
    return found.masked_scatter(~first, dead.nonzero()[:, 1])


def run(
    chain: Chain,
    streams: Sequence[np.random.Generator],
    particles: int,
    lengths: Sequence[int],
    stop_ids: Sequence[int],
    retained: Sequence[Sequence[int]] | None = None,
    floor: float = -math.inf,
    resample_below: float = RESAMPLE_BELOW,
) -> Run:
    """Run ``particles`` strings for each group up to the longest of ``lengths``.

    Args:
        chain: the two models.
        streams: a source of random numbers for each of the G groups; groups do not depend on each other.
        particles: N, strings of a group.
        lengths: limits T at which a string is drawn from q_T; the sums are there for all T up to the longest.
        stop_ids: tokens that end a string.
        retained: a string of each group, its stop token included if it has one: conditional SMC.
        floor: tokens of a lower log pi_ref are left out of Y_T; -inf: none.
        resample_below: effective particles, as a share, below which a group is resampled; 0: never (token ratios alone).
    """
    groups, longest = len(streams), max(lengths)
    stops = torch.tensor(sorted(stop_ids))
    log_w, ratio = torch.zeros(2, groups, particles, dtype=torch.float64)
    log_z = torch.zeros(groups, dtype=torch.float64)
    history = torch.zeros(groups, particles, longest, dtype=torch.long)
    finished = torch.zeros(groups, longest, dtype=torch.long)  # a draw from the strings that ended so far
    finished_tokens = torch.zeros(groups, dtype=torch.long)
    finished_z = torch.full((groups,), -math.inf, dtype=torch.float64)
    path, alive = _paths(retained, stop_ids, longest)
    place = torch.tensor([int(s.integers(particles)) for s in streams]) if retained else None
    found: dict[str, list[Tensor]] = {name: [] for name in ("ended", "ended_ratio", "live", "live_ratio", "effective")}
    drawn: dict[int, list[list[int]]] = {}
    tokens: Tensor | None = None
    for t in range(1, longest + 1):
        policy, reference = chain.step(tokens)
        where = policy.device
        step = policy - reference
        if floor > -math.inf:
            step = step.masked_fill(reference < floor, -math.inf)
        uniform = torch.from_numpy(np.stack([s.random(particles + 5) for s in streams]))
        stop = step[..., stops.to(where)].cpu().double()  # [G, N, stops]
        step[..., stops.to(where)] = -math.inf
        normaliser = step.logsumexp(-1)
        next_token = (step - normaliser.unsqueeze(-1)).exp_().nan_to_num_(0.0)
        token = _pick(next_token, uniform[:, :particles].to(where))
        expected = (next_token * step).nansum(-1).cpu().double()  # of l's next term, undrawn
        if place is not None:
            rows = (alive >= t).nonzero()[:, 0]
            token[rows.to(where), place[rows].to(where)] = path[rows, t - 1].to(where)
        tokens = token
        gain = step.gather(-1, token.unsqueeze(-1)).squeeze(-1).cpu().double()

        end_w = (log_w.unsqueeze(-1) + stop).flatten(1)
        ended = log_z + end_w.logsumexp(-1) - math.log(particles)
        shares = _shares(end_w)
        found["ended"].append(ended)
        found["ended_ratio"].append((shares * (ratio.unsqueeze(-1) + stop).nan_to_num(neginf=0.0).flatten(1)).sum(-1))
        pick, end = _pick(shares, uniform[:, -1]), torch.logaddexp(finished_z, ended)
        new = uniform[:, -2].log() < ended - end
        last = stops[pick % len(stops)]
        candidate = history[torch.arange(groups), pick // len(stops)].clone()
        candidate[:, t - 1] = last
        finished[new], finished_tokens[new], finished_z = candidate[new], t, end

        log_w = log_w + normaliser.cpu().double()
        history[..., t - 1] = token.cpu()
        shares = _shares(log_w)
        live = log_z + log_w.logsumexp(-1) - math.log(particles)
        effective = 1 / (particles * shares.square().sum(-1))
        found["live"].append(live)
        found["live_ratio"].append((shares * (ratio + expected)).sum(-1))
        found["effective"].append(effective)
        ratio = ratio + gain.nan_to_num(neginf=0.0)
        if t in lengths:
            cut = uniform[:, -3].log() < live - torch.logaddexp(live, finished_z)
            whole = history[torch.arange(groups), _pick(shares, uniform[:, -4]), :t]
            drawn[t] = [(whole[g] if cut[g] else finished[g, : finished_tokens[g]]).tolist() for g in range(groups)]
        low = effective < resample_below
        if t < longest and low.any():
            kept = None if place is None else torch.where(alive >= t, place, -1)
            chosen, moved = ancestors(shares, uniform[:, -5], kept)
            chosen = torch.where(low[:, None], chosen, torch.arange(particles))
            if place is not None and moved is not None:
                place = torch.where(low & (moved >= 0), moved, place)
            chain.reorder(chosen.to(where))
            tokens = token.gather(1, chosen.to(where))
            history = history.gather(1, chosen.unsqueeze(-1).expand_as(history))
            ratio = ratio.gather(1, chosen)
            log_z = torch.where(low, live, log_z)
            log_w = log_w.masked_fill(low[:, None], 0.0)
    return Run(**{name: torch.stack(values) for name, values in found.items()}, drawn=drawn)


def _paths(retained: Sequence[Sequence[int]] | None, stop_ids: Sequence[int], longest: int) -> tuple[Tensor, Tensor]:
    """Tokens of the kept strings [G, T], and how many of each do not end it [G]."""
    paths = [[token for token in string if token not in stop_ids] for string in retained or []]
    padded = [path + [0] * (longest - len(path)) for path in paths]
    return torch.tensor(padded, dtype=torch.long), torch.tensor([len(path) for path in paths], dtype=torch.long)


def certify(
    chain: Chain,
    streams: Sequence[np.random.Generator],
    particles: int,
    lengths: Sequence[int],
    stop_ids: Sequence[int],
    floor: float = -math.inf,
) -> pd.DataFrame:
    """H(q_T) of each prompt and length, with an interval for log Z_T: a forward run, and a conditional one at each length.

    Args:
        chain: the two models, each prompt as ``ISLANDS`` groups that follow each other.
        streams: see ``run``; one for each group.
        particles: N of each group.
        lengths: limits T.
        stop_ids: see ``run``.
        floor: see ``run``.

    Returns:
        Columns of table "smc" but for the prompt's name and the verdict; ``prompt`` counts prompts. low is the lower end of
        Student's interval for the mean of the forward runs' log Z, high the upper end of that of the conditional runs'.
    """
    forward = run(chain, streams, particles, lengths, stop_ids, floor=floor)
    pooled = forward.pooled(ISLANDS)
    rows = []
    for length in sorted(set(lengths)):
        each_z, each_h, _ = (x.view(-1, ISLANDS).numpy() for x in forward.at(length))
        log_z, entropy, cut = pooled.at(length)
        retained = []
        for prompt, weights in enumerate(_shares(torch.from_numpy(each_z)).numpy()):
            first = prompt * ISLANDS
            chosen = [first + int(streams[first + i].choice(ISLANDS, p=weights)) for i in range(ISLANDS)]
            retained += [forward.drawn[length][group] for group in chosen]
        again = (
            run(chain, streams, particles, [length], stop_ids, retained, floor).at(length)[0].view(-1, ISLANDS).numpy()
        )
        for prompt in range(len(each_z)):
            lower, upper = mean(each_z[prompt]), mean(again[prompt])
            rows.append(
                {
                    "prompt": prompt,
                    "length": length,
                    "entropy": float(entropy[prompt]),
                    "entropy_n": float(each_h[prompt].mean()),
                    "log_z": float(log_z[prompt]),
                    "log_z_n": lower.value,
                    "log_z_upper": upper.value,
                    "low": lower.low,
                    "high": upper.high,
                    "effective": float(pooled.effective[:length, prompt].min()),
                    "cut": float(cut[prompt]),
                    "forwards": 2 * 2 * ISLANDS * particles * length,
                }
            )
    return pd.DataFrame(rows)


def strings(vocabulary: int, stops: int, length: int) -> float:
    """ln |Y_T|: the entropy of the uniform distribution on strings of at most ``length`` tokens, nats."""
    going = math.log(vocabulary - stops)
    return float(np.logaddexp.reduce([t * going + math.log(stops) for t in range(length)] + [length * going]))


def stream(seed: int, island: int, prompt: list[int]) -> np.random.Generator:
    """Random numbers that belong to this prompt and run alone."""
    key = hashlib.sha256(f"smc {seed} {island} {prompt}".encode()).digest()[:16]
    return np.random.Generator(np.random.Philox(key=int.from_bytes(key, "little")))


class Settings(Section):
    """How H(q_T) is estimated.

    Attributes:
        smc: the part of the configuration.
        engine: only its batch_tokens are read; transformers runs it, whatever engine samples.
        attention: attention kernel.
        dtype: precision of the models; weights and sums are in float64.
        max_prompt_tokens: longer prompts are left out.
        skip: prompts of the seeded permutation to leave out: the DID proxy has seen them.
    """

    smc: Smc
    engine: Engine
    attention: Attention
    dtype: Dtype
    max_prompt_tokens: int
    skip: int


def main(
    *,
    policy: Path,
    reference: Path,
    prompts: Path,
    settings: Settings,
    out: Path,
) -> None:
    """Estimate H(q_T) of a policy's DID on a few prompts, with its certificate.

    Args:
        policy: model folder of pi.
        reference: model folder of pi_ref.
        prompts: prompts table.
        settings: see ``Settings``.
        out: smc table to write.
    """
    from diffinfo.chat import Chat
    from diffinfo.entropy.chain import Transformers, load_pair
    from diffinfo.models.decoding import batches
    from diffinfo.models.exactness import pads_exactly
    from diffinfo.sample.complete import subset

    smc, most, chat = settings.smc, settings.max_prompt_tokens, Chat(reference)
    asked: Any = subset(artifacts.read(prompts, "prompts"), settings.skip, smc.prompts, smc.seed)
    ids = {row.prompt_id: chat.prompt_ids(row.messages) for row in asked.itertuples()}
    ids = {name: tokens for name, tokens in ids.items() if len(tokens) <= most}
    if not ids:
        raise UserError(f"{prompts}: no prompt has at most {most} tokens; raise preference.max_prompt_tokens.")
    longest = max(map(len, ids.values())) + max(smc.lengths)
    pair = load_pair(policy, reference, settings.attention, settings.dtype, longest)
    names = list(ids)
    lengths = [len(ids[name]) for name in names]
    room = settings.engine.batch_tokens // (ISLANDS * smc.particles)
    exact = pads_exactly(policy) and pads_exactly(reference)
    floor = math.log(smc.floor) if smc.floor else -math.inf
    tables, begun, cpu = [], time.perf_counter(), time.process_time()
    for rows in progress(batches(lengths, max(smc.lengths), room, exact), "smc"):
        batch = [names[row] for row in rows]
        groups = [(ids[name], island) for name in batch for island in range(ISLANDS)]
        chain = Transformers(pair, [tokens for tokens, _ in groups], smc.particles)
        streams = [stream(smc.seed, island, tokens) for tokens, island in groups]
        with torch.inference_mode():
            found = certify(chain, streams, smc.particles, smc.lengths, chat.stop_ids, floor)
        tables.append(found.assign(prompt_id=found.prompt.map(dict(enumerate(batch)))).drop(columns="prompt"))
    table = pd.concat(tables, ignore_index=True)
    vocabulary = pair[0].config.get_text_config().vocab_size
    table["uniform"] = [strings(vocabulary, len(chat.stop_ids), length) for length in table.length]
    table["certified"] = table.high - table.low <= smc.gap * table.uniform
    seconds, cpu = time.perf_counter() - begun, time.process_time() - cpu
    log.info(
        "%d prompts: %.1f s and %.1f CPU seconds a prompt, %d token forwards of both models a prompt",
        len(names), seconds / len(names), cpu / len(names), table.forwards.sum() / len(names),
    )  # fmt: skip
    inputs = {"policy": policy, "reference": reference, "prompts": prompts}
    artifacts.write(out, table, "smc", inputs=inputs, settings=smc.model_dump(), skip=settings.skip)


if __name__ == "__main__":
    command(main)
