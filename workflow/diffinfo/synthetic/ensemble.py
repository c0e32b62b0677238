"""Many tiny autoregressive transformers as one: every weight carries a leading dimension E, one slice per member.

One pre-norm block (causal attention and an MLP) over a prompt of ``PROMPT`` symbols and a response of at most
``LENGTH`` tokens. A response ends with the token ``END``, or is cut at ``LENGTH``: that makes 3,906 responses, few
enough to list with their exact probabilities. Training E members costs a fraction of E trainings, and they stay
independent.
"""

from __future__ import annotations

import torch
from torch import Generator, Tensor
from torch.nn.functional import gelu, scaled_dot_product_attention

SYMBOLS, PROMPT = 12, 3  # a prompt is one of 12^3
WORDS, LENGTH = 5, 5  # a response is at most five of five words
END = WORDS
WIDTH, HEADS = 24, 2
PAD = 0  # after END; never scored

Weights = dict[str, Tensor]


def initial(members: int, generator: Generator) -> Weights:
    """Random weights, the same for all of ``members`` members."""
    shapes = {
        "token": (WORDS + 1 + SYMBOLS, WIDTH),
        "place": (PROMPT + LENGTH, WIDTH),
        "attend": (WIDTH, 3 * WIDTH),
        "mix": (WIDTH, WIDTH),
        "up": (WIDTH, 2 * WIDTH),
        "down": (2 * WIDTH, WIDTH),
        "head": (WIDTH, WORDS + 1),
    }
    scale = {"token": 0.5, "place": 0.2}
    return {
        name: (torch.randn(shape, generator=generator) * scale.get(name, shape[0] ** -0.5)).repeat(members, 1, 1)
        for name, shape in shapes.items()
    }


def copies(weights: Weights, indices: list[int]) -> Weights:
    """An ensemble whose members are copies of the given members, ready to be trained."""
    return {name: value.detach()[indices].clone().requires_grad_() for name, value in weights.items()}


class Rmsprop:
    """torch.optim.RMSprop's rule for an ensemble, element by element, so that members stay independent.

    Written out because importing ``torch.optim``'s machinery takes longer than many of these trainings.
    """

    def __init__(self, weights: Weights, decay: float = 0.99, epsilon: float = 1e-8) -> None:
        self.weights, self.decay, self.epsilon = list(weights.values()), decay, epsilon
        self.squares = [torch.zeros_like(weight) for weight in self.weights]

    def step(self, loss: Tensor, learning_rate: float) -> None:
        """Descend the gradient of a loss that is a sum over members."""
        grads = torch.autograd.grad(loss, self.weights)
        for weight, square, grad in zip(self.weights, self.squares, grads, strict=True):
            square.mul_(self.decay).addcmul_(grad, grad, value=1 - self.decay)
            weight.data.addcdiv_(grad, square.sqrt().add_(self.epsilon), value=-learning_rate)


def _norm(x: Tensor) -> Tensor:
    return x * torch.rsqrt(x.square().mean(-1, keepdim=True) + 1e-6)


def next_token(weights: Weights, prompts: Tensor, responses: Tensor) -> Tensor:
    """Log-probabilities of every next token after the prompt and after each response token.

    A prompt passes once for all of its R responses, which see it and themselves.

    Args:
        weights: an ensemble of E members.
        prompts: symbols, (E, B, PROMPT) int64.
        responses: tokens, (E, R B, T) int64 with T <= LENGTH; prompt b has the rows b, B + b, 2 B + b, ...

    Returns:
        (E, R B, T + 1, WORDS + 1).
    """
    members, batch, _ = prompts.shape
    shared, length = responses.shape[1] // batch, responses.shape[2]
    rows = responses.view(members, shared, batch, length).transpose(1, 2).flatten(2)
    tokens = torch.cat([prompts + WORDS + 1, rows], -1)
    place = torch.cat([torch.arange(PROMPT), torch.arange(PROMPT, PROMPT + length).repeat(shared)])
    owner = torch.cat([torch.full((PROMPT,), -1), torch.arange(shared).repeat_interleave(length)])
    seen = (place <= place[:, None]) & ((owner < 0) | (owner == owner[:, None]))
    offset = torch.arange(members).view(-1, 1, 1) * weights["token"].shape[1]
    x = (weights["token"].flatten(0, 1)[tokens + offset] + weights["place"][:, None, place]).flatten(1, 2)
    qkv = torch.bmm(_norm(x), weights["attend"]).view(members * batch, len(place), 3, HEADS, -1)
    q, k, v = qkv.permute(2, 0, 3, 1, 4)
    last = slice(PROMPT - 1, None)  # one layer: what stands before only serves as key and value
    read = scaled_dot_product_attention(q[:, :, last], k, v, attn_mask=seen[last])
    x = x.view(members, batch, -1, WIDTH)[:, :, last].flatten(1, 2)
    x = x + torch.bmm(read.transpose(1, 2).reshape(members, -1, WIDTH), weights["mix"])
    x = x + torch.bmm(gelu(torch.bmm(_norm(x), weights["up"])), weights["down"])
    logp = torch.bmm(_norm(x), weights["head"]).log_softmax(-1).view(members, batch, -1, WORDS + 1)
    first = logp[:, :, :1].expand(-1, -1, shared, -1).unsqueeze(3)
    rest = logp[:, :, 1:].unflatten(2, (shared, length))
    return torch.cat([first, rest], 3).transpose(1, 2).flatten(1, 2)


def log_probability(weights: Weights, prompts: Tensor, responses: Tensor) -> Tensor:
    """log pi(y | x) in nats, (E, R B), END included where there is one; responses (E, R B, LENGTH) as in ``next_token``."""
    logp = next_token(weights, prompts, responses[..., :-1]).gather(-1, responses.unsqueeze(-1)).squeeze(-1)
    ended = (responses == END).cumsum(-1) - (responses == END).long()  # 1 after END
    return (logp * (ended == 0)).sum(-1)


@torch.no_grad()
def decode(weights: Weights, prompts: Tensor, generator: Generator, greedy: Tensor | None = None) -> Tensor:
    """Responses (E, B, LENGTH) sampled at temperature 1, or greedy for the members where ``greedy`` (E,) is true.

    Members at the same place of the batch share their uniform numbers.
    """
    responses = torch.empty(*prompts.shape[:2], 0, dtype=torch.int64)
    done = torch.zeros(prompts.shape[:2], dtype=torch.bool)
    for _ in range(LENGTH):
        logp = next_token(weights, prompts, responses)[:, :, -1]
        uniform = torch.rand(1, prompts.shape[1], 1, generator=generator)
        token = (logp.exp().cumsum(-1) < uniform).sum(-1).clamp_max(END)
        if greedy is not None:
            token = torch.where(greedy.unsqueeze(-1), logp.argmax(-1), token)
        token = token.masked_fill(done, PAD)
        done |= token == END
        responses = torch.cat([responses, token.unsqueeze(-1)], -1)
    return responses


def all_responses() -> Tensor:
    """Every response, (3906, LENGTH), by length: those that END after 0, 1, ... words, then those that were cut."""
    rows = []
    for words in range(LENGTH + 1):
        texts = torch.cartesian_prod(*[torch.arange(WORDS)] * words).view(-1, words) if words else torch.empty(1, 0)
        tail = torch.full((len(texts), LENGTH - words), PAD)
        if words < LENGTH:
            tail[:, 0] = END
        rows.append(torch.cat([texts.long(), tail], 1))
    return torch.cat(rows)


def row_of(responses: Tensor) -> Tensor:
    """Rows of ``all_responses()`` that hold the given responses, (..., LENGTH) -> (...)."""
    words = torch.where((responses == END).any(-1), (responses == END).int().argmax(-1), LENGTH)
    number = torch.zeros_like(words)
    for place in range(LENGTH):
        number = torch.where(place < words, number * WORDS + responses[..., place], number)
    return number + (WORDS**words - 1) // (WORDS - 1)


@torch.no_grad()
def conditionals(weights: Weights, prompt: Tensor) -> Tensor:
    """log pi(next token | prompt, words so far) for all 5^4 runs of four words, (E, 625, LENGTH, WORDS + 1) float64."""
    members = weights["token"].shape[0]
    contexts = torch.cartesian_prod(*[torch.arange(WORDS)] * (LENGTH - 1))
    asked = prompt.expand(members, len(contexts), PROMPT)
    return next_token(weights, asked, contexts.expand(members, -1, -1)).double()


def chain(logp: Tensor) -> Tensor:
    """Log-probabilities of ``all_responses()``, (E, 3906), from next-token ones as ``conditionals`` gives them."""
    before, parts = torch.zeros(len(logp), 1, dtype=logp.dtype), []
    for words in range(LENGTH):
        here = before.unsqueeze(-1) + logp[:, :: WORDS ** (LENGTH - 1 - words), words]  # one row per prefix
        parts.append(here[..., END])
        before = here[..., :WORDS].flatten(1)
    return torch.cat([*parts, before], 1)
