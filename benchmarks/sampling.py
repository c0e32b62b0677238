"""Tokens a second of the transformers engine on real prompts: ``sampling.py MODEL QUESTIONS.jsonl``.

The engine with prompts of different lengths together, with equal lengths only, and transformers' own ``generate`` on the same
batches, padded on the left, in turn. QUESTIONS are arena-hard-auto's, a seeded sample of them.
"""

import argparse
import json
import statistics
import time
from pathlib import Path
from unittest.mock import patch

import numpy as np
import torch

import diffinfo.sample.transformers as engine
from diffinfo.chat import Chat
from diffinfo.models.decoding import batches
from diffinfo.models.folders import load_model, use_cpu_well
from diffinfo.sample.engine import Decoding


def ours(folder: Path, prompts: list[list[int]], stops: list[int], decoding: Decoding, tokens: int) -> list[list[int]]:
    """As the workflow samples."""
    found = engine.TransformersEngine("sdpa", "float32", tokens)(folder, prompts, stops, decoding)
    return [sample.token_ids for samples in found for sample in samples]


def equal(*given: object) -> list[list[int]]:
    """The same without padding."""
    with patch.object(engine, "pads_exactly", lambda folder: False):
        return ours(*given)  # type: ignore[arg-type]


@torch.inference_mode()
def stock(folder: Path, prompts: list[list[int]], stops: list[int], decoding: Decoding, tokens: int) -> list[list[int]]:
    """transformers' generate."""
    network = load_model(folder, "sdpa").eval()
    found: dict[int, list[list[int]]] = {}
    for batch in batches([len(prompt) for prompt in prompts], decoding.max_tokens, tokens // decoding.n, padded=True):
        width = max(len(prompts[row]) for row in batch)
        ids = torch.tensor([[0] * (width - len(prompts[row])) + prompts[row] for row in batch])
        seen = torch.tensor([[0] * (width - len(prompts[row])) + [1] * len(prompts[row]) for row in batch])
        how = {"do_sample": True, "temperature": decoding.temperature, "top_k": 0} if decoding.temperature else {}
        said = network.generate(
            ids, attention_mask=seen, max_new_tokens=decoding.max_tokens, num_return_sequences=decoding.n,
            eos_token_id=stops, pad_token_id=0, **({"do_sample": False} | how),
        )[:, width:].tolist()  # fmt: skip
        for number, row in enumerate(batch):
            found[row] = [cut(ids, stops) for ids in said[number * decoding.n : (number + 1) * decoding.n]]
    return [tokens for row in range(len(prompts)) for tokens in found[row]]


def cut(tokens: list[int], stops: list[int]) -> list[int]:
    """Tokens up to the first stop."""
    end = next((place for place, token in enumerate(tokens) if token in stops), len(tokens) - 1)
    return tokens[: end + 1]


def main() -> None:
    """Measure."""
    parser = argparse.ArgumentParser()
    parser.add_argument("model", type=Path)
    parser.add_argument("questions", type=Path)
    parser.add_argument("--prompts", type=int, default=64)
    parser.add_argument("--max-tokens", type=int, default=64)
    parser.add_argument("--batch-tokens", type=int, default=8192)
    parser.add_argument("--rounds", type=int, default=3)
    a = parser.parse_args()
    use_cpu_well()
    chat = Chat(a.model)
    asked = [json.loads(line)["prompt"] for line in a.questions.read_text(encoding="utf-8").splitlines()]
    ids = [chat.prompt_ids([{"role": "user", "content": text}]) for text in asked]
    ids = [prompt for prompt in ids if len(prompt) <= 1024]
    chosen = np.random.default_rng(0).choice(len(ids), a.prompts, replace=False)
    prompts = [ids[number] for number in chosen]
    lengths = sorted(map(len, prompts))
    print(f"{len(prompts)} prompts of {lengths[0]} to {lengths[-1]} tokens, half below {lengths[len(prompts) // 2]}")
    for n, temperature in ((1, 0.0), (5, 1.0)):
        decoding = Decoding(n, temperature, 1.0, a.max_tokens, 42)
        speeds: dict[str, list[float]] = {}
        drawn = {}
        for _ in range(a.rounds):
            for work in (equal, ours, stock):
                begun = time.perf_counter()
                said = drawn[work.__name__] = work(a.model, prompts, chat.stop_ids, decoding, a.batch_tokens)
                speeds.setdefault(work.__name__, []).append(sum(map(len, said)) / (time.perf_counter() - begun))
        for name, found in speeds.items():
            ratios = [mine / other for mine, other in zip(speeds["ours"], found, strict=True)]
            same = np.mean([x == y for x, y in zip(drawn["ours"], drawn[name], strict=True)])
            print(
                f"n = {n}  {name:6} {statistics.median(found):7.1f} tokens/s   ours / {name}: "
                f"{statistics.median(ratios):.2f} ({min(ratios):.2f} to {max(ratios):.2f})   same completions: {same:.1%}",
                flush=True,
            )


if __name__ == "__main__":
    main()
