"""The engine for GPUs: vLLM, fed token ids, one model a process."""

from __future__ import annotations

import hashlib
import multiprocessing
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from functools import cache
from pathlib import Path
from typing import Any

from diffinfo.sample.engine import Decoding, Generated


class VllmEngine:
    """Generates with vLLM.

    Args:
        dtype: precision of weights and computation.
        tensor_parallel: GPUs that share one model.
        max_model_len: longest prompt and completion together.
    """

    def __init__(self, dtype: str, tensor_parallel: int, max_model_len: int) -> None:
        self.dtype, self.tensor_parallel, self.max_model_len = dtype, tensor_parallel, max_model_len
        self._loaded: tuple[Path, ProcessPoolExecutor] | None = None

    def __call__(
        self, model: Path, prompts: Sequence[list[int]], stop_ids: list[int], decoding: Decoding, first: int = 0
    ) -> list[list[Generated]]:
        """See ``engine.Engine``. A model is loaded once, for all parts of its table, in a process of its own, whose end
        frees the GPU's memory for the next epoch's model.
        """
        if self._loaded and self._loaded[0] != model:
            self._loaded[1].shutdown()
            self._loaded = None
        if not self._loaded:
            self._loaded = model, ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn"))
        arguments = (
            str(model), list(prompts), stop_ids, decoding, first, self.dtype, self.tensor_parallel, self.max_model_len,
        )  # fmt: skip
        return self._loaded[1].submit(_generate, *arguments).result()


@cache
def _llm(model: str, dtype: str, tensor_parallel: int, max_model_len: int, seed: int) -> Any:
    from vllm import LLM

    return LLM(
        model=model,
        dtype=dtype,
        tensor_parallel_size=tensor_parallel,
        max_model_len=max_model_len,
        seed=seed,
        trust_remote_code=False,
        logprobs_mode="raw_logprobs",  # of the model's own distribution, before temperature and top_p
    )


def _request_seed(seed: int, number: int) -> int:
    """Seed of a prompt's request. Its sample i draws with this + i, so that seeds of any two requests must lie far apart."""
    return int.from_bytes(hashlib.sha256(f"{seed} {number}".encode()).digest()[:7], "little")


def _generate(
    model: str,
    prompts: list[list[int]],
    stop_ids: list[int],
    decoding: Decoding,
    first: int,
    dtype: str,
    tensor_parallel: int,
    max_model_len: int,
) -> list[list[Generated]]:
    from vllm import SamplingParams

    engine = _llm(model, dtype, tensor_parallel, max_model_len, decoding.seed)
    parameters = [
        SamplingParams(
            n=decoding.n,
            temperature=decoding.temperature,
            top_p=decoding.top_p,
            max_tokens=decoding.max_tokens,
            seed=_request_seed(decoding.seed, first + index),
            stop_token_ids=stop_ids,
            logprobs=0,
            detokenize=False,
        )
        for index in range(len(prompts))
    ]
    requests = engine.generate([{"prompt_token_ids": ids} for ids in prompts], parameters)
    return [
        [
            Generated(
                list(output.token_ids),
                float(output.cumulative_logprob),
                "stop" if output.finish_reason == "stop" else "length",
            )
            for output in request.outputs
        ]
        for request in requests
    ]
