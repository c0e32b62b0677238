"""What an engine is: token ids in, sampled token ids with their log-probabilities out."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Decoding:
    """How to decode. Temperature 0 is greedy. Log-probabilities never depend on temperature or top_p."""

    n: int
    temperature: float
    top_p: float
    max_tokens: int
    seed: int


@dataclass(frozen=True)
class Generated:
    """One completion; logp is the sum over its tokens under the untruncated T = 1 model, in nats."""

    token_ids: list[int]
    logp: float
    finish_reason: str  # "stop" or "length"


# (model folder, prompts as token ids, stop ids, decoding, number of the first prompt in its table) -> n completions a
# prompt, in order; they are the same whether a table's prompts are given at once or in parts
Engine = Callable[[Path, Sequence[list[int]], list[int], Decoding, int], list[list[Generated]]]
