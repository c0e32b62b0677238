"""H(q_T) by sequential Monte Carlo against dynamic programming, enumeration, and the law of the conditional run."""

import math
from itertools import product

import numpy as np
import pandas as pd
import pytest
import torch

from diffinfo.chat import Chat
from diffinfo.cli import UserError
from diffinfo.config.estimates import Smc
from diffinfo.config.types import Engine
from diffinfo.entropy import smc
from diffinfo.entropy.chain import Transformers, load_pair
from diffinfo.models.folders import load_model, save_model
from diffinfo.tables import artifacts
from diffinfo.world.training import start
from stages import stage


class Bigrams:
    """Next-token distributions that depend on the last token alone, [V + 1, V]; the last row stands at the prompt."""

    def __init__(self, policy, reference, groups, particles):
        self.tables, self.shape = (policy, reference), (groups, particles)

    def step(self, tokens):
        rows = torch.full(self.shape, len(self.tables[0]) - 1) if tokens is None else tokens
        return self.tables[0][rows], self.tables[1][rows]

    def reorder(self, ancestors):
        """Nothing is remembered but the last token."""


def bigrams(vocabulary, seed, size):
    rng = np.random.default_rng(seed)
    reference = torch.from_numpy(1.5 * rng.normal(size=(vocabulary + 1, vocabulary))).log_softmax(-1)
    change = size * rng.normal(size=reference.shape) + size * rng.normal(size=vocabulary)
    return (reference + torch.from_numpy(change)).log_softmax(-1), reference


def exact(policy, reference, length, stops):
    """log Z_T and H(q_T) by dynamic programming over the last token: sums of e^l and of l e^l, in numpy."""
    ratio = (policy - reference).numpy()
    vocabulary = ratio.shape[1]
    mass, moment = np.zeros(vocabulary + 1), np.zeros(vocabulary + 1)  # of e^l and l e^l, by last token
    mass[-1], scale, ended, ended_moment = 1.0, 0.0, -math.inf, 0.0
    for _ in range(length):
        arrive = mass[:, None] * np.exp(ratio)
        weighted = (moment[:, None] + mass[:, None] * ratio) * np.exp(ratio)
        end, end_moment = arrive[:, stops].sum(), weighted[:, stops].sum()
        total = np.logaddexp(ended, np.log(end) + scale)
        share = np.exp(ended - total)
        ended_moment = share * ended_moment + (1 - share) * end_moment / end
        ended = total
        arrive[:, stops] = weighted[:, stops] = 0.0
        mass, moment = np.append(arrive.sum(0), 0.0), np.append(weighted.sum(0), 0.0)
        moment, mass, scale = moment / mass.sum(), mass / mass.sum(), scale + np.log(mass.sum())
    log_z = np.logaddexp(ended, scale)
    share = np.exp(ended - log_z)
    return log_z, log_z - share * ended_moment - (1 - share) * moment.sum()


def listed(policy, reference, length, stops):
    """l of every string of at most ``length`` tokens."""
    ratio, vocabulary = policy - reference, policy.shape[1]
    found = {}
    for size in range(1, length + 1):
        for string in product(range(vocabulary), repeat=size):
            ends = [token in stops for token in string]
            if not any(ends[:-1]) and (ends[-1] or size == length):
                found[string] = sum(float(ratio[a, b]) for a, b in zip((-1, *string), string, strict=False))
    return found


def streams(number, seed=0):
    return [np.random.default_rng((seed, i)) for i in range(number)]


def test_the_helper_of_these_tests_is_enumeration():
    policy, reference = bigrams(5, 1, 1.0)
    for stops in ([0], [1, 4]):
        ratios = torch.tensor(list(listed(policy, reference, 4, stops).values()))
        log_z = ratios.logsumexp(0)
        assert exact(policy, reference, 4, stops) == pytest.approx(
            (float(log_z), float(log_z - (ratios.softmax(0) * ratios).sum()))
        )


def test_entropy_is_that_of_dynamic_programming_at_every_length():
    """Mean over runs of N = 1,024 within 1 % at T up to 100, all T from one run; log Z as well."""
    policy, reference = bigrams(300, 3, 1.0)
    found = smc.run(Bigrams(policy, reference, 3, 1024), streams(3, 3), 1024, [100], [0, 7])
    for length in (1, 2, 10, 50, 100):
        log_z, entropy = exact(policy, reference, length, [0, 7])
        z, h, _ = found.at(length)
        assert abs(h - entropy).mean() < 0.01 * entropy
        assert float(z.mean()) == pytest.approx(log_z, abs=0.5 if length > 1 else 1e-9)


def test_sums_are_unbiased_and_those_of_pooled_runs_too():
    """E[Z] = Z for ordinary runs, E[1/Z] = 1/Z for conditional ones that keep a draw from q; resampling at any time."""
    policy, reference = bigrams(6, 4, 1.5)
    strings = listed(policy, reference, 4, [0])
    ratios = np.array(list(strings.values()))
    log_z, groups = float(np.logaddexp.reduce(ratios)), 4000
    rng = np.random.default_rng(5)
    kept = [list(strings)[i] for i in rng.choice(len(ratios), groups, p=np.exp(ratios - log_z))]
    assert {len(string) for string in kept} == {1, 2, 3, 4}
    for below in (0.0, 0.8, 1.1):
        chain = Bigrams(policy, reference, groups, 3)
        forward = smc.run(chain, streams(groups, 6), 3, [4], [0], resample_below=below)
        again = smc.run(chain, streams(groups, 7), 3, [4], [0], kept, resample_below=below)
        for run, sign in ((forward, 1), (again, -1)):
            z = np.exp(sign * (run.at(4)[0].numpy() - log_z))
            assert abs(z.mean() - 1) < 4 * z.std() / groups**0.5
        assert forward.at(4)[0].mean() < log_z < again.at(4)[0].mean()
        z = np.exp(forward.pooled(4).at(4)[0].numpy() - log_z)
        assert z.mean() == pytest.approx(np.exp(forward.at(4)[0].numpy() - log_z).mean())


def test_kept_strings_and_drawn_ones_follow_q():
    """A conditional run that keeps a draw from q draws again from q: particle Gibbs leaves q as it is."""
    policy, reference = bigrams(4, 7, 0.5)
    strings = listed(policy, reference, 3, [0])
    ratios = np.array(list(strings.values()))
    q, groups = np.exp(ratios - np.logaddexp.reduce(ratios)), 6000
    rng = np.random.default_rng(9)
    kept = [list(strings)[i] for i in rng.choice(len(ratios), groups, p=q)]
    chain = Bigrams(policy, reference, groups, 4)
    drawn = smc.run(chain, streams(groups, 10), 4, [2, 3], [0], kept, resample_below=0.9).drawn[3]
    counts = pd.Series([tuple(s) for s in drawn]).value_counts().reindex(list(strings), fill_value=0).to_numpy()
    rare = groups * q > 5
    chi2 = ((counts - groups * q) ** 2 / (groups * q))[rare].sum()
    assert chi2 < rare.sum() + 4 * (2 * rare.sum()) ** 0.5
    assert (
        np.mean([tuple(a) == tuple(b) for a, b in zip(drawn, kept, strict=True)]) > 2 * (q**2).sum()
    )  # and remembers it


class Remembering(Bigrams):
    """Keeps the strings of each group, and how they stood at each step."""

    def step(self, tokens):
        new = torch.zeros(*self.shape, 0, dtype=torch.long) if tokens is None else tokens.unsqueeze(-1)
        self.strings = new if tokens is None else torch.cat([self.strings, new], -1)
        self.seen = [] if tokens is None else self.seen
        self.seen.append(self.strings.tolist())
        return super().step(tokens)

    def reorder(self, ancestors):
        strings = self.strings  # without the last token, which comes with the next step
        self.strings = strings.gather(1, ancestors.unsqueeze(-1).expand_as(strings))


def test_a_kept_string_is_there_until_it_ends_and_drawn_ones_are_particles():
    policy, reference = bigrams(5, 4, 1.5)
    strings = listed(policy, reference, 4, [0])
    rng = np.random.default_rng(5)
    kept = [list(strings)[i] for i in rng.choice(len(strings), 800)]  # unlikely ones too
    chain = Remembering(policy, reference, 800, 3)
    for retained in (kept, None):
        drawn = smc.run(chain, streams(800, 6), 3, [4], [0], retained, resample_below=0.95).drawn[4]
        assert {len(string) for string in drawn} >= {2, 3, 4}
        for group, string in enumerate(drawn):
            if 0 in string:
                assert string[:-1] in chain.seen[len(string) - 1][group]
            else:
                assert string[:3] in chain.seen[3][group]
        for group, string in enumerate(retained or []):
            lasting = [token for token in string if token]
            for t in range(1, min(len(lasting), 3) + 1):
                assert lasting[:t] in chain.seen[t][group]


def test_systematic_resampling_keeps_shares_and_survivors_in_their_place():
    rng = np.random.default_rng(1)
    shares = torch.from_numpy(rng.dirichlet(np.full(9, 0.4), size=20000))
    shares[:, 3] = 0.0
    shares = shares / shares.sum(1, keepdim=True)
    found, none = smc.ancestors(shares, torch.from_numpy(rng.random(20000)))
    counts = torch.zeros_like(shares).scatter_add(1, found, torch.ones_like(shares))
    assert none is None
    assert ((counts - 9 * shares).abs() < 1 + 1e-9).all()
    assert counts.mean(0).numpy() == pytest.approx((9 * shares).mean(0).numpy(), abs=0.03)
    own = found.gather(1, torch.arange(9).expand_as(found)) == torch.arange(9)
    assert (own == (counts > 0)).all()
    kept = torch.multinomial(shares, 1)[:, 0]
    again, place = smc.ancestors(shares, torch.from_numpy(rng.random(20000)), kept)
    assert (again.gather(1, place[:, None])[:, 0] == kept).all()
    # kept ~ shares and a conditional resampling are an ordinary resampling with one particle picked evenly
    counts = torch.zeros_like(shares).scatter_add(1, again, torch.ones_like(shares))
    assert counts.mean(0).numpy() == pytest.approx((9 * shares).mean(0).numpy(), abs=0.03)
    assert ((counts - 9 * shares).abs() < 1 + 1e-9).all()


def test_the_certificate_covers_log_z():
    """Its interval contains the exact log Z in at least 95 % of runs, with N so small that the two ends differ."""
    inside, widths, gaps = [], [], []
    for seed in range(20):
        policy, reference = bigrams(30, seed, 0.8)
        chain = Bigrams(policy, reference, 20 * smc.ISLANDS, 32)
        table = smc.certify(chain, streams(20 * smc.ISLANDS, seed), 32, [5, 25], [0])
        assert table.groupby("length").size().tolist() == [20, 20]
        for length, rows in table.groupby("length"):
            log_z, _ = exact(policy, reference, length, [0])
            inside += ((rows.low <= log_z) & (log_z <= rows.high)).tolist()
            widths += (rows.high - rows.low).tolist()
            gaps += (rows.log_z_upper - rows.log_z_n).tolist()
    assert len(inside) == 800
    assert np.mean(inside) >= 0.95
    assert np.median(widths) < 3
    assert np.mean(gaps) > 0


class Prompts(Bigrams):
    """Each group begins with a distribution of its own: a prompt."""

    def __init__(self, policy, reference, starts, particles):
        super().__init__(policy, reference, len(starts[0]), particles)
        self.starts = starts

    def step(self, tokens):
        if tokens is None:
            return tuple(start[:, None].expand(-1, self.shape[1], -1) for start in self.starts)
        return super().step(tokens)


def test_a_row_of_the_certificate_says_what_the_runs_gave():
    policy, reference = bigrams(10, 1, 1.0)
    row = smc.certify(Bigrams(policy, reference, 4, 16), streams(4), 16, [6], [0]).iloc[0]
    found = smc.run(Bigrams(policy, reference, 4, 16), streams(4), 16, [6], [0])
    z, h, _ = found.at(6)
    assert (row.log_z_n, row.entropy_n) == pytest.approx((float(z.mean()), float(h.mean())))
    assert row.log_z == pytest.approx(float(z.logsumexp(0)) - math.log(4))
    half = 3.182446 * z.std().item() / 2  # Student's, three degrees of freedom
    assert row.low == pytest.approx(z.mean().item() - half, abs=1e-5)
    assert row.forwards == 2 * 2 * 4 * 16 * 6
    assert row.effective == pytest.approx(float(found.effective.mean(1).min()))
    assert 0 < row.cut < 1


def test_a_floor_leaves_tokens_out():
    policy, reference = bigrams(6, 3, 1.0)
    floor = math.log(0.1)
    cut = torch.where(reference < floor, -math.inf, policy)
    strings = [v for v in listed(cut, reference, 3, [0]).values() if v > -math.inf]
    ratios = torch.tensor(strings)
    log_z, h, _ = smc.run(Bigrams(policy, reference, 1, 20000), streams(1), 20000, [3], [0], floor=floor).at(3)
    assert len(strings) < 150
    assert float(log_z) == pytest.approx(float(ratios.logsumexp(0)), abs=0.03)
    assert float(h) == pytest.approx(float(ratios.logsumexp(0) - (ratios.softmax(0) * ratios).sum()), abs=0.03)


@pytest.fixture(scope="module", params=["mistral", "gemma2"])
def folders(request, tmp_path_factory):
    """Two random models that are sure of themselves, so that their ratio is far from flat."""
    folder = tmp_path_factory.mktemp(request.param)
    for seed, name in enumerate(("policy", "reference")):
        start(folder / "random", request.param, hidden=32, layers=2, seed=seed)
        network = load_model(folder / "random", "eager")
        with torch.no_grad():
            network.get_output_embeddings().weight.mul_(6)
        save_model(network, network.state_dict(), folder / name, folder / "random")
    return folder / "policy", folder / "reference"


def every_two(folders, prompt, stops):
    """l of every string of at most two tokens, by each model's own forward pass without a cache."""
    with torch.no_grad():
        networks = [load_model(folder, "eager").eval() for folder in folders]
        size = networks[0].config.vocab_size
        rows = [[prompt], [[*prompt, token] for token in range(size)]]
        one, two = (
            [network(torch.tensor(ids)).logits[:, -1].double().log_softmax(-1) for network in networks] for ids in rows
        )
    first, second = (one[0] - one[1])[0], two[0] - two[1]
    go = [token for token in range(size) if token not in stops]
    return torch.cat([first[stops], (first[go, None] + second[go]).flatten()])


def test_two_tokens_of_transformers_are_enumeration(folders):
    """Prompts of two lengths in one batch, two stop tokens; Gemma-2 with soft-capping."""
    stops, prompts = [2, 11], [[1, 5, 9, 7], [1, 8]]
    pair = load_pair(*folders, "eager", "float32", 10)
    chain = Transformers(pair, [prompt for prompt in prompts for _ in range(8)], 256)
    z, h, _ = smc.run(chain, streams(16), 256, [2], stops).at(2)
    for prompt, each_z, each_h in zip(prompts, z.view(2, 8), h.view(2, 8), strict=True):
        ratios = every_two(folders, prompt, stops)
        log_z, entropy = float(ratios.logsumexp(0)), float(ratios.logsumexp(0) - (ratios.softmax(0) * ratios).sum())
        assert entropy < 0.75 * 2 * math.log(len(ratios)) / 2
        assert float(each_z.mean()) == pytest.approx(log_z, abs=4 * float(each_z.std()) / 8**0.5)
        assert float(each_h.mean()) == pytest.approx(entropy, abs=4 * float(each_h.std()) / 8**0.5)


def test_caches_follow_their_strings(folders):
    """After any exchange of strings the next token's log-probabilities are those of whole strings, read anew."""
    prompts, rng = [[1, 5, 9, 7], [1, 8]], torch.Generator().manual_seed(1)
    pair = load_pair(*folders, "eager", "float32", 60)
    chain = Transformers(pair, prompts, 3)
    strings = torch.zeros(2, 3, 0, dtype=torch.long)
    tokens = None
    for _ in range(40):
        got = chain.step(tokens)
        tokens = torch.randint(12, 800, (2, 3), generator=rng)
        strings = torch.cat([strings, tokens.unsqueeze(-1)], -1)
        chosen = torch.randint(3, (2, 3), generator=rng)
        chain.reorder(chosen)
        strings = strings.gather(1, chosen.unsqueeze(-1).expand_as(strings))
        tokens = tokens.gather(1, chosen)
    got = chain.step(tokens)
    for network, found in zip(pair, got, strict=True):
        for group, prompt in enumerate(prompts):
            ids = torch.tensor([prompt + string for string in strings[group].tolist()])
            with torch.no_grad():
                expected = network(ids).logits[:, -1].log_softmax(-1)
            assert torch.allclose(found[group], expected, atol=2e-4)


def test_the_stage_measures_prompts_that_the_proxy_has_not_seen(tmp_path, folders):
    rows = [
        {"prompt_id": f"p{i}", "messages": [{"role": "user", "content": "add 2 " * (i + 1)}], "source": "t"}
        for i in range(9)
    ]
    artifacts.write(tmp_path / "prompts.parquet", pd.DataFrame(rows), "prompts")
    settings = Smc(prompts=3, particles=8, lengths=[2, 5], seed=3)
    common = {
        "prompts": tmp_path / "prompts.parquet",
        "attention": "eager",
        "dtype": "float32",
        "max_prompt_tokens": 90,
    }
    tables = []
    for tokens in (10**6, 1):  # all prompts at once, and one at a time
        stage(smc.main, policy=folders[0], reference=folders[1], smc=settings, engine=Engine(batch_tokens=tokens), skip=4,
                 out=tmp_path / "s.parquet", **common)  # fmt: skip
        tables.append(artifacts.read(tmp_path / "s.parquet", "smc"))
        gap = float(((tables[0].high - tables[0].low) / tables[0].uniform).median())
        settings = settings.model_copy(update={"gap": gap})
    one, two = (table.sort_values(["prompt_id", "length"], ignore_index=True) for table in tables)
    drop = {"columns": "certified"}
    pd.testing.assert_frame_equal(
        one.drop(**drop), two.drop(**drop), atol=1e-3
    )  # what a prompt gets does not depend on its neighbours
    order = np.random.default_rng(3).permutation(9)
    assert set(one.prompt_id) == {f"p{i}" for i in order[4:7]}
    assert one.length.tolist() == [2, 5] * 3
    stops = len(Chat(folders[1]).stop_ids)
    size = load_model(folders[0], "eager").config.vocab_size - stops
    number = {T: sum(stops * size**t for t in range(T)) + size**T for T in (2, 5)}
    assert one.uniform.tolist() == pytest.approx([math.log(number[t]) for t in one.length])
    assert two.certified.tolist() == (two.high - two.low <= gap * two.uniform).tolist()
    assert two.certified.nunique() == 2
    with pytest.raises(UserError, match="no prompt has at most 2 tokens"):
        stage(smc.main, policy=folders[0], reference=folders[1], smc=settings, engine=Engine(), skip=0,
                 out=tmp_path / "s.parquet", **{**common, "max_prompt_tokens": 2})  # fmt: skip


def test_models_of_two_vocabularies_have_no_ratio(tmp_path):
    for name in ("mistral", "gemma2"):
        start(tmp_path / name, name, hidden=32, layers=1, seed=1)
    with pytest.raises(UserError, match="840: a ratio needs one vocabulary"):
        load_pair(tmp_path / "mistral", tmp_path / "gemma2", "eager", "float32", 10)
