"""What is drawn follows the exact distribution: temperature, nucleus, and each token given those before it."""

import sys
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from scipy.stats import chisquare

from diffinfo.models.folders import load_model, save_model
from diffinfo.sample import vllm
from diffinfo.sample.engine import Decoding
from diffinfo.sample.transformers import TransformersEngine

PROMPT = [1, 40, 50, 60]
NO_STOP = [-1]


@pytest.fixture(scope="module")
def sharp(tiny_mistral, tmp_path_factory):
    """A random model that is sure of some tokens: folder and network."""
    network = load_model(tiny_mistral, "sdpa").eval()
    with torch.no_grad():
        network.lm_head.weight *= 9
    folder = tmp_path_factory.mktemp("sharp")
    save_model(network, network.state_dict(), folder, tiny_mistral)
    return folder, network


def exact(network, ids, temperature, top_p):
    """softmax(logits / T), cut to the fewest likeliest tokens that hold top_p of it; float64."""
    with torch.no_grad():
        logits = network(torch.tensor([ids])).logits[0, -1].double().numpy()
    likely = np.exp(logits / temperature - (logits / temperature).max())
    likely /= likely.sum()
    order = np.argsort(-likely)
    kept = np.cumsum(likely[order]) - likely[order] < top_p
    likely[order[~kept]] = 0
    return likely / likely.sum()


def fits(tokens, probabilities):
    """Pearson's test of counts; neighbours in probability are pooled until five are expected."""
    counts = np.bincount(tokens, minlength=len(probabilities)).astype(float)
    assert counts[probabilities == 0].sum() == 0
    pools = [[0.0, 0.0]]
    for token in np.argsort(-probabilities):
        if pools[-1][1] >= 5:
            pools.append([0.0, 0.0])
        pools[-1][0] += counts[token]
        pools[-1][1] += len(tokens) * probabilities[token]
    if pools[-1][1] < 5:
        rest = pools.pop()
        pools[-1] = [pools[-1][0] + rest[0], pools[-1][1] + rest[1]]
    seen, wanted = np.array(pools).T
    assert len(seen) > 2
    assert chisquare(seen, wanted * seen.sum() / wanted.sum()).pvalue > 1e-3


@pytest.mark.parametrize(("temperature", "top_p"), [(1.0, 1.0), (0.5, 1.0), (2.0, 1.0), (1.0, 0.6), (0.7, 0.8)])
def test_draws_follow_temperature_and_nucleus(sharp, temperature, top_p):
    folder, network = sharp
    decoding = Decoding(3000, temperature, top_p, 2, 42)
    samples = TransformersEngine("sdpa", "float32", 100_000)(folder, [PROMPT], NO_STOP, decoding)[0]
    fits([s.token_ids[0] for s in samples], exact(network, PROMPT, temperature, top_p))
    if temperature > 1:  # too flat for a second token's counts
        return
    commonest = np.bincount([s.token_ids[0] for s in samples]).argmax()
    after = [s.token_ids[1] for s in samples if s.token_ids[0] == commonest]
    assert len(after) > 60
    fits(after, exact(network, [*PROMPT, int(commonest)], temperature, top_p))
    first, second = (np.log(exact(network, ids, 1.0, 1.0)) for ids in (PROMPT, [*PROMPT, int(commonest)]))
    for sample in samples[:200]:
        if sample.token_ids[0] == commonest:  # of the untruncated model at temperature 1, whatever was drawn from
            assert sample.logp == pytest.approx(first[commonest] + second[sample.token_ids[1]], abs=1e-4)


def test_greedy_is_the_mode(sharp):
    folder, network = sharp
    [[greedy]] = TransformersEngine("sdpa", "float32", 100)(folder, [PROMPT], NO_STOP, Decoding(1, 0.0, 1.0, 4, 42))
    ids = list(PROMPT)
    for token in greedy.token_ids:
        assert token == exact(network, ids, 1.0, 1.0).argmax()
        ids.append(token)


def test_vllm_is_told_the_same(monkeypatch):
    """Settings as vLLM gets them; seeds: test_vllm_seeds.py; the real engine: test_vllm.py."""
    told = []

    class Llm:
        def __init__(self, **settings):
            told.append(settings)

        def generate(self, prompts, parameters):
            told.append((prompts, parameters))
            reasons = ["stop", "length"]
            return [
                SimpleNamespace(
                    outputs=[
                        SimpleNamespace(token_ids=(7, i), cumulative_logprob=-1.5 - i, finish_reason=reasons[i])
                        for i in range(2)
                    ]
                )
                for _ in prompts
            ]

    monkeypatch.setitem(sys.modules, "vllm", SimpleNamespace(LLM=Llm, SamplingParams=lambda **p: p))
    vllm._llm.cache_clear()
    got = vllm._generate("m", [[1, 2], [3]], [9, 8], Decoding(2, 0.7, 0.8, 16, 42), 5, "bfloat16", 4, 100)
    vllm._llm.cache_clear()
    settings, (prompts, parameters) = told
    assert (settings["model"], settings["dtype"], settings["tensor_parallel_size"]) == ("m", "bfloat16", 4)
    assert (settings["max_model_len"], settings["logprobs_mode"]) == (100, "raw_logprobs")
    assert settings["trust_remote_code"] is False
    assert prompts == [{"prompt_token_ids": [1, 2]}, {"prompt_token_ids": [3]}]
    common = {"n": 2, "temperature": 0.7, "top_p": 0.8, "max_tokens": 16, "stop_token_ids": [9, 8]}
    assert len(parameters) == 2
    for one in parameters:
        assert one.items() >= common.items()
    assert [(s.token_ids, s.logp, s.finish_reason) for s in got[0]] == [
        ([7, 0], -1.5, "stop"),
        ([7, 1], -2.5, "length"),
    ]
    assert len(got) == 2
