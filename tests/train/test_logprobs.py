"""Packed sequences and the chunked head against the stock model and the naive formula."""

import random

import pytest
import torch
from transformers import AutoConfig

from diffinfo.models.attention import flex_packed_attention, packed_attention
from diffinfo.models.exactness import load_scorer
from diffinfo.models.folders import load_model
from diffinfo.models.logprobs import head_logps, packs
from diffinfo.world.training import start


def naive(hidden, weight, targets, softcap):
    logits = hidden @ weight.T
    if softcap:
        logits = softcap * torch.tanh(logits / softcap)
    return logits.log_softmax(-1).gather(1, targets[:, None])[:, 0]


@pytest.mark.parametrize("softcap", [None, 3.0])
@pytest.mark.parametrize("room", [(50, 0), (50, 200), (10**6, 10**6), (1, 10**6)])
def test_head_and_its_gradients_are_exact(softcap, room):
    generator = torch.Generator().manual_seed(1)
    hidden, weight = (
        torch.randn(shape, generator=generator, dtype=torch.float64, requires_grad=True) for shape in ((13, 6), (23, 6))
    )
    targets = torch.randint(23, (13,), generator=generator)
    upstream = torch.randn(13, generator=generator, dtype=torch.float64)
    ours, theirs = head_logps(hidden, weight, targets, softcap, room), naive(hidden, weight, targets, softcap)
    assert torch.allclose(ours, theirs, rtol=0, atol=1e-12)
    for mine, other in zip(
        torch.autograd.grad(ours, (hidden, weight), upstream),
        torch.autograd.grad(theirs, (hidden, weight), upstream),
        strict=True,
    ):
        assert torch.allclose(mine, other, rtol=0, atol=1e-12)


def test_what_is_kept_does_not_grow_with_vocabulary_times_length():
    """Every tensor that autograd keeps between the passes, and every product with the head, stays within the room."""
    kept = []

    def pack(tensor):
        kept.append(tensor.numel())
        return tensor

    sizes = {}
    for positions, vocabulary in ((64, 500), (256, 4000)):
        hidden, weight = torch.randn(positions, 8, requires_grad=True), torch.randn(vocabulary, 8, requires_grad=True)
        kept.clear()
        with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
            head_logps(hidden, weight, torch.zeros(positions, dtype=torch.long), None, (8000, 16_000)).sum().backward()
        sizes[positions] = sum(kept) - positions * 10 - vocabulary * 8  # what is kept beside inputs, targets and norms
    assert 0 < sizes[64] <= 16_000
    assert 0 <= sizes[256] <= 16_000


def test_bfloat16_weight_gradients_are_summed_in_float32():
    hidden = torch.full((4096, 2), 1.0, dtype=torch.bfloat16)
    weight = torch.zeros(2, 2, dtype=torch.bfloat16, requires_grad=True)
    head_logps(hidden, weight, torch.zeros(4096, dtype=torch.long), None, (2, 0)).sum().backward()
    assert weight.grad[0, 0].item() == 2048  # one by one in bfloat16 it would stop at 256


@pytest.mark.parametrize("window", [None, 5])
def test_packed_sequences_equal_the_stock_model_one_by_one(tiny, tmp_path, window):
    """Both architectures, attention and final soft-capping, with and without a window shorter than the sequences."""
    config = AutoConfig.from_pretrained(tiny)
    folder = tmp_path / "model"
    model = load_model(tiny, "eager")
    model.config.sliding_window = window or config.sliding_window
    model.save_pretrained(folder)
    rng = random.Random(3)
    sequences = [[rng.randrange(5, config.vocab_size) for _ in range(length)] for length in (9, 3, 17, 2)]
    starts = [4, 1, 9, 1]
    scorer = load_scorer(folder, "sdpa").eval()
    assert scorer.packed
    got = scorer(sequences, starts)
    stock = load_model(folder, "eager").eval()
    for value, sequence, start_at in zip(got, sequences, starts, strict=True):
        logp = stock(torch.tensor([sequence])).logits[0, :-1].log_softmax(-1)
        expected = logp.gather(1, torch.tensor(sequence[1:])[:, None])[start_at - 1 :].sum()
        assert value.item() == pytest.approx(expected.item(), abs=2e-5)


@pytest.mark.parametrize("softcap", [None, 2.0])
@pytest.mark.parametrize("window", [None, 3])
@pytest.mark.parametrize("attend", [packed_attention, flex_packed_attention])
def test_packed_attention_is_the_formula(attend, softcap, window, flex_on_cpu):
    """Two sequences, two heads that share a key: one query at a time."""
    generator = torch.Generator().manual_seed(1)
    q = 3 * torch.randn(1, 2, 9, 4, generator=generator)
    k, v = (3 * torch.randn(1, 1, 9, 4, generator=generator) for _ in range(2))
    got, _ = attend(
        None, q, k, v, None, scaling=0.5, lengths=torch.tensor([5, 4]), softcap=softcap, sliding_window=window
    )
    for head in range(2):
        for place in range(9):
            first = max(0 if place < 5 else 5, place - (window or 9) + 1)
            scores = 0.5 * k[0, 0, first : place + 1] @ q[0, head, place]
            if softcap:
                scores = softcap * torch.tanh(scores / softcap)
            expected = scores.softmax(0) @ v[0, 0, first : place + 1]
            assert torch.allclose(got[0, place, head], expected, rtol=0, atol=1e-5)


@pytest.mark.parametrize("attend", [packed_attention, flex_packed_attention])
def test_an_attention_with_more_than_is_known_here_is_refused(attend, flex_on_cpu):
    """Such as the sinks of gpt-oss, which change every weight."""
    q = torch.randn(1, 2, 4, 8)
    known = {"scaling": 1.0, "lengths": torch.tensor([4])}
    assert attend(None, q, q, q, None, **known, dropout=0.0, use_cache=None)[0].shape == (1, 4, 2, 8)
    with pytest.raises(NotImplementedError, match="packed attention does not support s_aux"):
        attend(None, q, q, q, None, **known, s_aux=torch.ones(2))


def test_neighbours_in_a_pack_never_leak(tiny):
    scorer = load_scorer(tiny, "sdpa").eval()
    with torch.no_grad():
        alone = scorer([[1, 20, 30, 40, 50]], [2])
        for neighbour in ([1, 60, 61, 62], [1, 99, 98, 97]):
            assert scorer([neighbour, [1, 20, 30, 40, 50]], [1, 2])[1].item() == pytest.approx(alone.item(), abs=1e-5)


def test_scorer_gradients_are_exact(tiny):
    """Float64, both architectures: packed and chunked against the stock model's logits."""
    sequences, starts = [[1, 20, 30, 40, 50], [1, 60, 61]], [2, 1]
    ours = load_scorer(tiny, "sdpa").double()
    ours(sequences, starts).sum().backward()
    stock = load_model(tiny, "eager" if "gemma" in str(tiny) else "sdpa").double()
    total = 0
    for sequence, first in zip(sequences, starts, strict=True):
        logp = stock(torch.tensor([sequence])).logits[0, :-1].log_softmax(-1)
        total = total + logp.gather(1, torch.tensor(sequence[1:])[:, None])[first - 1 :].sum()
    total.backward()
    for (name, mine), other in zip(ours.model.named_parameters(), stock.parameters(), strict=True):
        assert torch.allclose(mine.grad, other.grad, rtol=1e-6, atol=1e-6), name


def test_gemma_soft_capping_is_not_lost(tmp_path):
    """With a cap so low that it bites; without it the value is another."""
    start(tmp_path, "gemma2", hidden=32, layers=2, seed=1)
    model = load_model(tmp_path, "eager")
    model.config.attn_logit_softcapping = 0.5
    with torch.no_grad():
        for layer in model.model.layers:
            layer.self_attn.q_proj.weight.mul_(20)
    model.save_pretrained(tmp_path)
    sequence = [2, *range(20, 60)]
    capped, free = load_scorer(tmp_path, "eager").eval(), load_scorer(tmp_path, "eager").eval()
    for layer in free.model.model.layers:
        layer.self_attn.attn_logit_softcapping = None
    logp = load_model(tmp_path, "eager").eval()(torch.tensor([sequence])).logits[0, :-1].log_softmax(-1)
    expected = logp.gather(1, torch.tensor(sequence[1:])[:, None]).sum().item()
    assert capped([sequence], [1]).item() == pytest.approx(expected, abs=1e-4)
    assert abs(free([sequence], [1]).item() - expected) > 0.1


@pytest.mark.parametrize("multiple", [1, 2, 8])
def test_packs_hold_every_item_once_within_budget(multiple):
    rng = random.Random(multiple)
    lengths = [rng.randint(20, 900) for _ in range(100)] + [5000]
    found = packs(lengths, 2048, multiple)
    assert sorted(index for pack in found for index in pack) == list(range(len(lengths)))
    assert len(found) % multiple == 0
    totals = [sum(lengths[index] for index in pack) for pack in found if len(pack) > 1]
    assert max(totals) <= 2048
    assert min(totals) > 0.8 * max(totals)  # balanced: ranks wait for the slowest


def test_sequences_over_the_budget_leave_no_pack_empty():
    assert sorted(packs([90_000, 20, 30], 2048)) == [[0], [1, 2]]
    assert sorted(packs([9000, 9000, 20], 100)) == [[0], [1], [2]]


def test_fewer_items_than_ranks_leave_empty_packs():
    assert sorted(packs([7, 5], 100, 4)) == [[], [], [0], [1]]
