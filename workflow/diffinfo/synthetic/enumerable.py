"""Small worlds of prompts and responses whose policies are tiny language models with exact probabilities.

In each world a random teacher writes responses, and pi_ref is a transformer fitted to them. Two policies start from
pi_ref, as in Section 4: ``dpo`` learns a random reward from preferences between samples of pi_ref, and ``best-of-4`` is
fitted to the best of four such samples, which reinforces pi_ref. All worlds are trained at once, as one ensemble.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Generator, Tensor
from torch.nn.functional import logsigmoid, one_hot

from diffinfo.synthetic.ensemble import (
    END,
    LENGTH,
    PROMPT,
    SYMBOLS,
    WORDS,
    Rmsprop,
    Weights,
    chain,
    conditionals,
    copies,
    decode,
    initial,
    log_probability,
)

POLICIES = ("dpo", "best-of-4")
BETA = 0.5  # of the dpo policy


@dataclass(frozen=True)
class Teacher:
    """Random scores of one world: what its texts and its reward are made of."""

    by_symbol: Tensor  # (PROMPT, SYMBOLS, WORDS + 1): of a token under each symbol of the prompt
    by_previous: Tensor  # (WORDS + 1, WORDS + 1): of a token after another, the last row at the start
    liked: Tensor  # (SYMBOLS, WORDS + 1): reward of a token under the prompt's first symbol

    @staticmethod
    def random(generator: Generator) -> Teacher:
        """A teacher drawn from a generator."""
        return Teacher(
            torch.randn(PROMPT, SYMBOLS, WORDS + 1, generator=generator),
            1.5 * torch.randn(WORDS + 1, WORDS + 1, generator=generator),
            torch.randn(SYMBOLS, WORDS + 1, generator=generator),
        )

    def write(self, prompts: Tensor, generator: Generator) -> Tensor:
        """Responses (B, LENGTH) to prompts (B, PROMPT)."""
        base = torch.stack([self.by_symbol[i, prompts[:, i]] for i in range(PROMPT)]).sum(0)
        previous = torch.full((len(prompts),), WORDS)
        done = torch.zeros(len(prompts), dtype=torch.bool)
        tokens = []
        for place in range(LENGTH):
            scores = base + self.by_previous[previous]
            scores[:, END] += place - 2.0  # longer texts end sooner
            token = torch.multinomial(scores.softmax(-1), 1, generator=generator).squeeze(-1).masked_fill(done, 0)
            done |= token == END
            previous = token.clamp_max(WORDS)
            tokens.append(token)
        return torch.stack(tokens, 1)

    def reward(self, prompts: Tensor, responses: Tensor) -> Tensor:
        """Sum of the scores of a response's tokens, prompts (..., PROMPT) and responses (..., LENGTH) -> (...)."""
        ended = (responses == END).cumsum(-1) - (responses == END).long()
        kept = one_hot(responses, WORDS + 1) * (ended == 0).unsqueeze(-1)
        return (kept * self.liked[prompts[..., 0]].unsqueeze(-2)).sum((-2, -1))


@dataclass(frozen=True)
class Worlds:
    """W worlds: teachers, weights of pi_ref (W members) and of each policy (W members), and the prompts."""

    teachers: list[Teacher]
    reference: Weights
    policies: dict[str, Weights]
    train_prompts: Tensor  # (N, PROMPT), of all worlds
    test_prompts: Tensor  # (M, PROMPT), disjoint from them

    def exact(self, weights: Weights) -> Tensor:
        """log pi(y | x) of every response to every test prompt, (W, M, 3906)."""
        return torch.stack([chain(conditionals(weights, prompt)) for prompt in self.test_prompts], 1)

    def token_ratio(self, weights: Weights) -> Tensor:
        """log g(y | x), (W, M, 3906): every next token is drawn from the DID of the two next-token distributions."""
        both = ((conditionals(weights, p) - conditionals(self.reference, p)).log_softmax(-1) for p in self.test_prompts)
        return torch.stack([chain(each) for each in both], 1)


def stack(*ensembles: Weights) -> Weights:
    """One ensemble of all members."""
    return {name: torch.cat([weights[name] for weights in ensembles]) for name in ensembles[0]}


def draw(prompts: Tensor, shape: tuple[int, ...], generator: Generator) -> Tensor:
    """Prompts drawn with replacement, (*shape, PROMPT)."""
    return prompts[torch.randint(len(prompts), shape, generator=generator)]


def dpo_loss(weights: Weights, base: Tensor | float, prompts: Tensor, pairs: Tensor, beta: float) -> Tensor:
    """-log sigma(beta (Delta - Delta_ref)), averaged over B pairs and summed over members.

    Args:
        weights: an ensemble of E members.
        base: log pi_ref of the responses, (E, 2B); 0 makes it the loss of r = beta log pi.
        prompts: (E, B, PROMPT), or fewer of which each has several pairs, as in ``next_token``.
        pairs: B chosen responses, then B rejected ones, (E, 2B, LENGTH).
        beta: the strength of the reward.
    """
    ratio = log_probability(weights, prompts, pairs) - base
    chosen, rejected = ratio.chunk(2, dim=1)
    return -logsigmoid(beta * (chosen - rejected)).mean(1).sum()


def build(seeds: list[int], test_prompts: int = 32, batch: int = 64, fit_steps: int = 250, steps: int = 100) -> Worlds:
    """Train pi_ref and the policies of one world per seed (some seconds for all)."""
    generator = torch.Generator().manual_seed(seeds[0])
    teachers = [Teacher.random(torch.Generator().manual_seed(seed)) for seed in seeds]
    every = torch.cartesian_prod(*[torch.arange(SYMBOLS)] * PROMPT)
    every = every[torch.randperm(len(every), generator=generator)]
    held_out, train, w = every[:test_prompts], every[test_prompts:], len(seeds)

    trained = copies(initial(1, generator), [0] * w)
    optimiser = Rmsprop(trained)
    for step in range(fit_steps):
        prompts = draw(train, (w, 2 * batch), generator)
        texts = torch.stack([t.write(p, generator) for t, p in zip(teachers, prompts, strict=True)])
        loss = -log_probability(trained, prompts, texts).mean(1).sum()
        optimiser.step(loss, 5e-3 * min(1.0, 2 * (1 - step / fit_steps)))
    reference = {name: value.detach() for name, value in trained.items()}

    dpo, best_of = (copies(reference, list(range(w))) for _ in POLICIES)
    optimisers = Rmsprop(dpo), Rmsprop(best_of)
    for _ in range(steps):
        prompts = draw(train, (w, batch), generator)
        four = prompts.repeat(1, 4, 1)
        samples = decode(reference, four, generator).view(w, 4, batch, LENGTH)
        rewards = torch.stack(
            [t.reward(*x) for t, *x in zip(teachers, four.view(w, 4, batch, -1), samples, strict=True)]
        )
        pick = rewards.argmax(1)[:, None, :, None].expand(-1, 1, -1, LENGTH)
        first = (rewards[:, 0] - rewards[:, 1]).sigmoid() > torch.rand(w, batch, generator=generator)
        one, two = samples[:, 0], samples[:, 1]
        pairs = torch.cat([torch.where(first[..., None], one, two), torch.where(first[..., None], two, one)], 1)
        base = log_probability(reference, prompts, pairs)
        optimisers[0].step(dpo_loss(dpo, base, prompts, pairs, BETA), 1e-3)
        best = samples.gather(1, pick).squeeze(1)
        optimisers[1].step(-log_probability(best_of, prompts, best).mean(1).sum(), 1e-3)
    policies = {
        name: {key: value.detach() for key, value in weights.items()}
        for name, weights in zip(POLICIES, (dpo, best_of), strict=True)
    }
    return Worlds(teachers, reference, policies, train, held_out)
