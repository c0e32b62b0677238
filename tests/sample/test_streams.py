"""Random numbers of their own: for every prompt and sample, and for each of two policies that are to be compared."""

import numpy as np

from diffinfo.sample.complete import draws_seed
from diffinfo.sample.engine import Decoding
from diffinfo.sample.transformers import _stream


def test_each_prompt_sample_and_seed_draws_its_own():
    one = _stream([1, 5, 9], 0, Decoding(2, 1.0, 1.0, 6, 42))
    assert np.array_equal(one, _stream([1, 5, 9], 0, Decoding(2, 0.5, 0.9, 6, 42)))
    others = [([1, 5, 8], 0, 42), ([1, 5, 9], 1, 42), ([1, 5, 9], 0, 43)]
    for prompt, sample, seed in others:
        assert not np.intersect1d(one, _stream(prompt, sample, Decoding(2, 1.0, 1.0, 6, seed))).size


def test_named_streams_are_far_from_each_other_and_from_the_seed():
    assert draws_seed(42, "") == 42
    seeds = {draws_seed(seed, stream) for seed in (42, 43) for stream in ("chosen", "rejected")}
    assert len(seeds) == 4
    assert min(abs(seed - 42) for seed in seeds) > 1000  # vLLM's samples take the seeds that follow
