"""Seeds of vLLM's requests, as its engine is given them; vLLM itself is not needed."""

import sys
from types import SimpleNamespace

from diffinfo.sample import vllm
from diffinfo.sample.engine import Decoding


def test_no_two_samples_share_a_seed(monkeypatch):
    """vLLM draws sample i of a request with its seed + i: none may be that of another prompt, or of a neighbouring seed."""
    given = []
    engine = SimpleNamespace(generate=lambda prompts, parameters: given.extend(parameters) or [])
    monkeypatch.setattr(vllm, "_llm", lambda *settings: engine)
    monkeypatch.setitem(sys.modules, "vllm", SimpleNamespace(SamplingParams=SimpleNamespace))
    for seed in (42, 43, 47):
        for first in (0, 300):
            vllm._generate("model", [[1]] * 300, [], Decoding(5, 0.9, 1.0, 8, seed), first, "float32", 1, 64)
    seeds = [request.seed + sample for request in given for sample in range(request.n)]
    assert len(set(seeds)) == len(seeds) == 3 * 600 * 5
    assert 0 <= min(seeds) <= max(seeds) < 2**63
    again, given[:] = [request.seed for request in given], []
    vllm._generate("model", [[1]] * 600, [], Decoding(5, 0.9, 1.0, 8, 42), 0, "float32", 1, 64)
    assert [request.seed for request in given] == again[:600]  # the same in parts
