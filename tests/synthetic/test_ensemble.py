import pytest
import torch

from diffinfo.synthetic.ensemble import (
    END,
    LENGTH,
    PROMPT,
    SYMBOLS,
    WORDS,
    Rmsprop,
    all_responses,
    chain,
    conditionals,
    copies,
    decode,
    initial,
    log_probability,
    next_token,
    row_of,
)


@pytest.fixture(scope="module")
def weights():
    generator = torch.Generator().manual_seed(1)
    made = initial(2, generator)
    return {name: value + 0.2 * torch.randn(value.shape, generator=generator) for name, value in made.items()}


@pytest.fixture(scope="module")
def prompts():
    return torch.randint(SYMBOLS, (4, PROMPT), generator=torch.Generator().manual_seed(2))


def test_responses_are_listed_once_and_found_again():
    listed = all_responses()
    assert len(listed) == sum(WORDS**n for n in range(LENGTH + 1)) == 3906
    assert torch.equal(row_of(listed), torch.arange(3906))


def test_the_listed_probabilities_sum_to_one_and_are_those_of_the_sequences(weights, prompts):
    exact = torch.stack([chain(conditionals(weights, prompt)) for prompt in prompts], 1)
    assert torch.allclose(exact.exp().sum(-1), torch.ones(2, 4, dtype=torch.float64), atol=1e-6)
    some = torch.arange(0, 3906, 97)
    responses = all_responses()[some].expand(2, -1, -1)
    logp = log_probability(weights, prompts[2].expand(2, len(some), PROMPT), responses)
    assert torch.allclose(logp.double(), exact[:, 2, some], atol=1e-4)


def test_sampling_follows_the_listed_probabilities_and_greedy_takes_the_likeliest_next_token(weights, prompts):
    asked = prompts[:1].expand(2, 20_000, PROMPT)
    samples = decode(weights, asked, torch.Generator().manual_seed(3))
    exact = chain(conditionals(weights, prompts[0])).exp()
    for member in range(2):
        counts = torch.bincount(row_of(samples[member]), minlength=3906).double()
        often = exact[member] * 20_000 > 20
        deviation = (counts / 20_000 - exact[member]).abs() / (exact[member] / 20_000).sqrt()
        assert often.sum() > 20
        assert deviation[often].max() < 5
    greedy = decode(weights, asked[:, :1], torch.Generator(), torch.tensor([True, True]))
    first = next_token(weights, asked[:, :1], greedy[..., :0])[:, 0, 0].argmax(-1)
    assert torch.equal(greedy[:, 0, 0], first)


def test_a_later_token_never_changes_an_earlier_prediction(weights, prompts):
    one = torch.tensor([1, 2, 3, 4]).expand(2, 4, 4)
    two = torch.tensor([1, 2, 0, 0]).expand(2, 4, 4)
    asked = prompts.expand(2, -1, -1)
    assert torch.allclose(
        next_token(weights, asked, one)[:, :, :3], next_token(weights, asked, two)[:, :, :3], atol=1e-6
    )
    assert not torch.allclose(next_token(weights, asked, one)[:, :, 3:], next_token(weights, asked, two)[:, :, 3:])


def test_responses_that_share_a_prompt_score_as_each_alone(weights, prompts):
    responses = all_responses()[7::330].expand(2, 12, LENGTH)  # three of each prompt
    shared = log_probability(weights, prompts.expand(2, -1, -1), responses)
    for row in range(12):
        alone = log_probability(weights, prompts[row % 4].expand(2, 1, PROMPT), responses[:, row : row + 1])
        assert torch.allclose(shared[:, row : row + 1], alone, atol=1e-5)


def test_what_follows_the_end_is_not_scored(weights, prompts):
    ended = torch.tensor([[1, END, 0, 0, 0], [1, END, 3, END, 2]])
    logp = log_probability(weights, prompts[:1].expand(2, 2, PROMPT), ended.expand(2, -1, -1))
    assert torch.allclose(logp[:, 0], logp[:, 1], atol=1e-5)


def test_members_train_as_if_alone_and_as_torch_would(weights, prompts):
    responses = all_responses()[[5, 900, 2000, 3000]]

    def loss(policy):
        size = policy["token"].shape[0]
        return -log_probability(policy, prompts.expand(size, -1, -1), responses.expand(size, -1, -1)).mean(1).sum()

    both, alone = copies(weights, [0, 1]), copies(weights, [1])
    plain = copies(weights, [1])
    optimisers = Rmsprop(both), Rmsprop(alone)
    torchs = torch.optim.RMSprop(plain.values(), lr=1e-3)
    for _ in range(5):
        optimisers[0].step(loss(both), 1e-3)
        optimisers[1].step(loss(alone), 1e-3)
        torchs.zero_grad()
        loss(plain).backward()
        torchs.step()
    for name in both:
        used = weights[name][1].abs().sum() > 0
        assert used
        assert torch.allclose(both[name][1], alone[name][0], atol=2e-4), name
        assert torch.allclose(alone[name][0], plain[name][0], atol=2e-4), name
    assert not torch.allclose(alone["head"], weights["head"][1:])


def test_nothing_follows_the_end(weights, prompts):
    samples = (
        decode(weights, prompts[:1].expand(2, 500, PROMPT), torch.Generator().manual_seed(3)).flatten(0, 1).tolist()
    )
    ended = [row for row in samples if END in row]
    assert len(ended) > 100
    assert all(not any(row[row.index(END) + 1 :]) for row in ended)
