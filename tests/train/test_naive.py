"""SFT and every objective against a naive loop: plain transformers, torch.optim, the formulas of docs/procedures.md, singly.

Nothing of the package is used but the stages under test: text becomes tokens by the tokenizer's own template.
"""

import math

import pytest
import torch
from safetensors.torch import load_file
from torch.nn.functional import cross_entropy, softplus
from transformers import AutoModelForCausalLM, AutoTokenizer

from diffinfo.config.types import Objectives, Preference, Sft, Training
from diffinfo.tables import artifacts
from diffinfo.train import reference
from stages import stage

ROWS, BATCH = 12, 5  # three steps an epoch, the last of them smaller
SMALL = Training(micro_batch_tokens=64)  # several passes a step
OBJECTIVES = Objectives(dpop_lambda=3.0, cal_dpo_weight=0.5, slic_lambda=0.7, simpo_gamma=0.3)
# Warm-up ends in the second epoch; some steps are clipped and others are not, or else RMSprop would hide the clipping.
SETTINGS = Preference(
    batch_size=BATCH, learning_rate=5e-4, warmup_steps=4, max_prompt_tokens=64, max_tokens=256, seed=1
)
CLIP = {"dpo": 1.8, "logpi": 2.0, "dpop": 1.14, "cal-dpo": 200, "slic": 42, "orpo": 55, "simpo": 1.5, "dpo-pg": 30}


def plain(folder):
    return AutoModelForCausalLM.from_pretrained(folder, attn_implementation="eager", dtype=torch.float32)


def order(seed, epoch):
    """The order of an epoch, which must not change from one version of the product to the next: runs are resumed."""
    return torch.randperm(ROWS, generator=torch.Generator().manual_seed(seed * 1_000_003 + epoch)).tolist()


def tokens(tokenizer, messages, response):
    """Prompt and completion; what a template writes after the end of turn belongs to neither."""
    turn = {"role": "assistant", "content": response}
    prompt = tokenizer.apply_chat_template(messages, add_generation_prompt=True, return_dict=False)
    whole = tokenizer.apply_chat_template([*messages, turn], return_dict=False)
    assert whole[: len(prompt)] == prompt
    end = tokenizer.convert_tokens_to_ids("<end_of_turn>" if "<end_of_turn>" in tokenizer.get_vocab() else "</s>")
    return prompt, whole[len(prompt) : len(whole) - whole[::-1].index(end)]


def nll(network, ids, start):
    """-log pi(ids[start:] | ids[:start]), nats."""
    return cross_entropy(
        network(torch.tensor([ids])).logits[0, start - 1 : -1], torch.tensor(ids[start:]), reduction="sum"
    )


def flat(network):
    return torch.cat([p.detach().flatten() for p in network.parameters()]).clone()


def gradient(network, value):
    return torch.cat([g.flatten() for g in torch.autograd.grad(value, list(network.parameters()))])


def step(network, optimizer, direction, limit, rate):
    """Clip the whole gradient, set the rate, step; the norm before clipping."""
    norm = direction.norm().item()
    if norm > limit:
        direction = direction * (limit / norm)
    sizes = [p.numel() for p in network.parameters()]
    for parameter, part in zip(network.parameters(), direction.split(sizes), strict=True):
        parameter.grad = part.view_as(parameter)
    optimizer.param_groups[0]["lr"] = rate
    optimizer.step()
    return norm


def close(got, expected, start):
    """Weights agree to a thousandth of what training moved them by."""
    assert (expected - start).norm() > 0.1
    assert (got - expected).norm() < 1e-3 * (expected - start).norm()


def loaded(folder, network):
    """The saved weights, in the order of ``flat``."""
    file = load_file(folder / "model.safetensors")
    return torch.cat([file[name].flatten() for name, _ in network.named_parameters()])


def per_pair(family, beta, w, l, rw, rl, nw, nl):  # noqa: E741
    """docs/procedures.md; -log sigma(x) is softplus(-x)."""
    o = OBJECTIVES
    match family:
        case "dpo":
            return softplus(-beta * ((w - l) - (rw - rl)))
        case "logpi":
            return softplus(-beta * (w - l))
        case "dpop":
            return softplus(-beta * ((w - l) - (rw - rl) - o.dpop_lambda * torch.relu(rw - w)))
        case "cal-dpo":
            hw, hl = w - rw, l - rl
            far = (hw - 1 / (2 * beta)) ** 2 + (hl + 1 / (2 * beta)) ** 2
            return softplus(-(hw - hl)) + o.cal_dpo_weight * far
        case "slic":
            return torch.relu(beta - (w - l)) - o.slic_lambda * w
        case "orpo":
            odds_w, odds_l = (torch.exp(x / n) / (1 - torch.exp(x / n)) for x, n in ((w, nw), (l, nl)))
            return -w + beta * softplus(-torch.log(odds_w / odds_l))
        case "simpo":
            return softplus(-(beta * (w / nw - l / nl) - o.simpo_gamma))
    return -w  # DPO-PG has no scalar loss; what is logged is the chosen side's


@pytest.fixture
def few(tmp_path, pairs_table):
    table = artifacts.read(pairs_table, "preferences").head(ROWS)
    artifacts.write(tmp_path / "few.parquet", table, "preferences")
    return tmp_path / "few.parquet", table


def test_sft(job, few, tiny):
    path, table = few
    settings = Sft(batch_size=BATCH, learning_rate=2e-3, warmup_ratio=0.6, epochs=2, seed=3)
    made = job("a", "sft", model=tiny, preferences=path, sft=settings, training=SMALL)
    made.here()

    network, tokenizer = plain(tiny), AutoTokenizer.from_pretrained(tiny)
    start, rows = flat(network), []
    optimizer = torch.optim.Adam(network.parameters())
    sequences = []
    for messages, chosen in zip(table.messages, table.chosen, strict=True):
        prompt, completion = tokens(tokenizer, messages, chosen)
        sequences.append(prompt + completion)
    for epoch in (1, 2):
        for first in range(0, ROWS, BATCH):
            batch = [sequences[i] for i in order(3, epoch)[first : first + BATCH]]
            count = sum(len(ids) - 1 for ids in batch)
            loss = sum(nll(network, ids, 1) for ids in batch) / count
            rate = 2e-3 * min(1, (len(rows) + 1) / math.ceil(0.6 * 6))
            norm = step(network, optimizer, gradient(network, loss), 1.0, rate)
            rows.append((len(rows) + 1, epoch, loss.item(), norm, rate, count))
    log = made.log()
    for column, expected in zip(
        ("step", "epoch", "loss", "grad_norm", "learning_rate", "tokens"), zip(*rows, strict=True), strict=True
    ):
        assert log[column].tolist() == pytest.approx(list(expected), rel=1e-4), column
    assert max(log.grad_norm) > 1.2  # steps are clipped, some more than others
    close(loaded(made.folder / "models", network), flat(network), start)


METHODS = ["dpo-b0.1", "logpi-b0.1", "dpop-b0.05", "cal-dpo-b0.2", "slic-b6", "orpo-b0.5", "simpo-b2", "dpo-pg"]


@pytest.mark.parametrize(("method", "style"), [*((m, "mistral") for m in METHODS), ("dpo-b0.1", "gemma2")])
def test_objective(job, few, tmp_path, tiny_mistral, method, style):
    folder = tiny_mistral
    if style == "gemma2":
        from diffinfo.world.training import start as random_model

        folder = tmp_path / style
        random_model(folder, style, hidden=32, layers=2, seed=3)
    family, beta = (method, math.nan) if method == "dpo-pg" else method.rsplit("-b", 1)
    beta, limit, table = float(beta), CLIP[family], few[1]
    settings = SETTINGS.model_copy(update={"max_grad_norm": limit})
    made = job("a", method, model=folder, preference=settings, objectives=OBJECTIVES, training=SMALL)
    network, tokenizer = plain(folder), AutoTokenizer.from_pretrained(folder)
    ids = [[tokens(tokenizer, row.messages, text) for text in (row.chosen, row.rejected)] for row in table.itertuples()]

    def logp(pair, side):
        prompt, completion = ids[pair][side]
        return -nll(network, prompt + completion, len(prompt))

    with torch.no_grad():
        reference = torch.stack([torch.stack([logp(i, 0), logp(i, 1)]) for i in range(ROWS)])
    scored = artifacts.read(made.arguments["reference"], "reference_logps").head(ROWS)
    sides = ["chosen_logp", "rejected_logp"]
    assert torch.allclose(torch.tensor(scored[sides].to_numpy()).float(), reference, atol=1e-3)
    # Another reference than the start: at a tie DPO-P's penalty has a gradient or none, by rounding.
    reference = reference + 2 * torch.randn(ROWS, 2, generator=torch.Generator().manual_seed(0))
    scored[sides] = reference.double().numpy()
    artifacts.write(tmp_path / "few_scored.parquet", scored, "reference_logps")
    made.arguments["reference"] = tmp_path / "few_scored.parquet"
    made.here()

    begin, rows, expected, after = flat(network), 0, {}, []
    optimizer = torch.optim.RMSprop(network.parameters())
    for epoch in (1, 2):
        for first in range(0, ROWS, BATCH):
            batch = order(1, epoch)[first : first + BATCH]
            w, l = (torch.stack([logp(i, side) for i in batch]) for side in (0, 1))  # noqa: E741
            rw, rl = reference[batch].unbind(1)
            nw, nl = (torch.tensor([len(ids[i][side][1]) for i in batch]) for side in (0, 1))
            loss = per_pair(family, beta, w, l, rw, rl, nw, nl).mean()
            rows += 1
            row = {
                "step": rows, "epoch": epoch, "loss": loss.item(), "logp_chosen": w.mean().item(),
                "logp_rejected": l.mean().item(), "reference_logp_chosen": rw.mean().item(),
                "reference_logp_rejected": rl.mean().item(), "margin": (w - l).mean().item(),
                "dpo_loss": softplus(-0.1 * ((w - l) - (rw - rl))).mean().item(),
                "learning_rate": 5e-4 * min(1, rows / 4),
                "tokens": sum(len(part) for i in batch for side in ids[i] for part in side),
            }  # fmt: skip
            if family == "dpo-pg":
                gw, gl = gradient(network, -w.mean()), gradient(network, -l.mean())
                dot = (gw @ gl).item()
                direction = gw - max(0.0, dot) / gl.norm() ** 2 * gl
                row |= {"dot": dot, "norm_chosen": gw.norm().item(), "norm_rejected": gl.norm().item()}
                row |= {"cosine": dot / (gw.norm() * gl.norm()).item()}
            else:
                direction = gradient(network, loss)
            row["grad_norm"] = step(network, optimizer, direction, limit, row["learning_rate"])
            for name, value in row.items():
                expected.setdefault(name, []).append(value)
        after.append(flat(network))
    log = made.log()
    for name, values in expected.items():
        assert log[name].tolist() == pytest.approx(values, rel=2e-3 if "norm" in name else 5e-4, abs=2e-4), name
    assert max(log.grad_norm) > limit > min(log.grad_norm), log.grad_norm.tolist()
    for epoch, weights in enumerate(after, start=1):
        close(loaded(made.folder / f"models/epoch-{epoch}", network), weights, begin)


def test_pairs_and_conversations_at_the_limits_stay_and_longer_ones_go(job, few, tiny_mistral, tmp_path):
    path, table = few
    tokenizer = AutoTokenizer.from_pretrained(tiny_mistral)
    lengths = {"prompt": [], "sft": [], "pair": []}
    for row in table.itertuples():
        prompt, chosen = tokens(tokenizer, row.messages, row.chosen)
        rejected = tokens(tokenizer, row.messages, row.rejected)[1]
        lengths["prompt"].append(len(prompt))
        lengths["sft"].append(len(prompt + chosen))
        lengths["pair"].append(len(prompt) + max(len(chosen), len(rejected)))
    few_tokens, many = sorted(lengths["pair"])[6], 1000

    def scored(prompt_limit, limit):
        stage(reference.main,
            model=tiny_mistral, preferences=path, micro_batch_tokens=512, attention="sdpa", dtype="float32",
            max_prompt_tokens=prompt_limit, max_tokens=limit, out=tmp_path / "r.parquet",
        )  # fmt: skip
        return artifacts.read(tmp_path / "r.parquet", "reference_logps").prompt_id.tolist()

    fits = [name for name, length in zip(table.prompt_id, lengths["pair"], strict=True) if length <= few_tokens]
    assert 1 < len(fits) < ROWS
    assert scored(many, few_tokens) == fits
    short = sorted(set(lengths["prompt"]))[-2]  # many prompts are equally long
    fits = [name for name, length in zip(table.prompt_id, lengths["prompt"], strict=True) if length <= short]
    assert 1 < len(fits) < ROWS
    assert scored(short, many) == fits
    limit = sorted(lengths["sft"])[6]
    made = job("a", "sft", preferences=path, max_tokens=limit, epochs=1)
    made.here()
    fits = sum(length <= limit for length in lengths["sft"])
    assert artifacts.provenance(made.folder / "log.parquet")["left_out"] == ROWS - fits
    assert made.log().tokens.sum() == sum(length - 1 for length in lengths["sft"] if length <= limit)


def test_rate_rises_and_falls_in_straight_lines(tiny_mistral):
    """The world's own models are trained with a rate that falls to zero."""
    from diffinfo.train.trainer import Trainer

    common = {"attention": "sdpa", "dtype": "float32", "max_grad_norm": 1.0, "training": SMALL}
    trainer = Trainer(
        tiny_mistral, optimizer=torch.optim.Adam, learning_rate=0.1, warmup_steps=4, decay_until=20, **common
    )
    rates = []
    for trainer.step in (0, 1, 4, 10, 20, 25):
        rates.append(trainer.rate())
    assert rates == pytest.approx([0, 0.1 / 4 * 19 / 20, 0.1 * 16 / 20, 0.1 * 10 / 20, 0, 0])
    trainer.decay_until, trainer.warmup_steps, trainer.step = None, 0, 1
    assert trainer.rate() == 0.1


def test_order_of_epochs():
    """Every row once an epoch; another epoch and another seed have another order."""
    from diffinfo.train.trainer import epoch_order

    orders = [epoch_order(ROWS, seed, epoch) for seed in (0, 1) for epoch in (1, 2, 3)]
    assert all(sorted(one) == list(range(ROWS)) for one in orders)
    assert len({tuple(one) for one in orders}) == 6
    assert orders[3:] == [order(1, epoch) for epoch in (1, 2, 3)]
