import math
import re
import subprocess
import sys
from decimal import Decimal, localcontext
from types import SimpleNamespace

import pytest
import torch
from pydantic import ValidationError

from diffinfo.cli import UserError
from diffinfo.config.types import Objectives
from diffinfo.methods import PATTERN, PairLogps, loss, parse

SETTINGS = Objectives()


def pair(w, l, rw, rl, nw=3, nl=5):  # noqa: E741
    return PairLogps(*(torch.tensor([float(v)]) for v in (w, l, rw, rl, nw, nl)))


def sigma(x):
    return 1 / (1 + math.exp(-x))


def log_odds(mean):
    return mean - math.log(1 - math.exp(mean))


X = (-4.0, -9.0, -5.0, -8.0, 3, 5)


@pytest.mark.parametrize(
    ("method", "expected"),
    [
        ("dpo-b0.1", -math.log(sigma(0.1 * ((-4 + 9) - (-5 + 8))))),
        ("logpi-b0.05", -math.log(sigma(0.05 * 5))),
        ("dpop-b0.1", -math.log(sigma(0.1 * 2))),  # no penalty: log pi(y_w) is above the reference
        ("cal-dpo-b0.1", -math.log(sigma(1 - -1)) + (1 - 5) ** 2 + (-1 + 5) ** 2),
        ("slic-b6", max(0, 6 - 5) + 4),
        ("slic-b2", max(0, 2 - 5) + 4),
        ("orpo-b0.5", 4 - 0.5 * math.log(sigma(log_odds(-4 / 3) - log_odds(-9 / 5)))),
        ("simpo-b2", -math.log(sigma(2 * (-4 / 3 + 9 / 5) - 1))),
    ],
)
def test_formula(method, expected):
    assert loss(parse(method), SETTINGS, pair(*X)).item() == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize("beta", [0.1, 2.0])
def test_orpo_and_simpo_agree_with_trl(beta):
    """TRL's own loss methods on the same numbers; its ORPO counts log pi(y_w) as a token mean, so that term is ours."""
    from trl.experimental.cpo import CPOTrainer
    from trl.experimental.orpo import ORPOTrainer

    values = ([-4.0, -30.0], [-9.0, -12.0], [-5.0, -5.0], [-8.0, -8.0], [3, 9], [5, 4])
    x = PairLogps(*map(torch.tensor, values))
    mean_w, mean_l = x.w / x.tokens_w, x.l / x.tokens_l
    trainer = SimpleNamespace(
        beta=beta,
        alpha=0.0,
        loss_type="simpo",
        simpo_gamma=1.0,
        label_smoothing=0.0,
        accelerator=SimpleNamespace(device="cpu"),
    )
    ratio = ORPOTrainer.odds_ratio_loss(trainer, mean_w, mean_l)[0]
    assert torch.allclose(loss(parse(f"orpo-b{beta:g}"), SETTINGS, x), -x.w - ratio, atol=1e-6)
    theirs = CPOTrainer.cpo_loss(trainer, mean_w, mean_l)[0]
    assert torch.allclose(loss(parse(f"simpo-b{beta:g}"), SETTINGS, x), theirs, atol=1e-6)


def test_dpop_penalises_a_fall_below_the_reference_inside_sigma():
    got = loss(parse("dpop-b0.1"), SETTINGS, pair(-6, -12, -5, -8)).item()
    assert got == pytest.approx(-math.log(sigma(0.1 * ((-6 + 12) - (-5 + 8) - 50 * 1))), rel=1e-6)


@pytest.mark.parametrize("method", ["dpo-b0.1", "dpo-b0.02", "dpop-b0.1"])
def test_loss_at_the_reference_is_ln_2(method):
    at_reference = pair(-5, -8, -5, -8)
    assert loss(parse(method), SETTINGS, at_reference).item() == pytest.approx(math.log(2), abs=1e-6)


def test_dpo_pg_is_no_scalar_loss():
    with pytest.raises(ValueError, match="no scalar loss"):
        loss(parse("dpo-pg"), SETTINGS, pair(*X))


def test_hyper_parameters_are_those_of_the_configuration():
    changed = Objectives(dpop_lambda=2.0, cal_dpo_weight=0.5, slic_lambda=3.0, simpo_gamma=0.25)
    below = (-6, -12, -5, -8, 3, 5)
    for name, expected in {
        "dpop-b0.1": -math.log(sigma(0.1 * (6 - 3 - 2 * 1))),
        "cal-dpo-b0.1": -math.log(sigma(-1 - -4)) + 0.5 * ((-1 - 5) ** 2 + (-4 + 5) ** 2),
        "slic-b7": 7 - 6 + 3 * 6,
        "simpo-b2": -math.log(sigma(2 * (-6 / 3 + 12 / 5) - 0.25)),
    }.items():
        assert loss(parse(name), changed, pair(*below)).item() == pytest.approx(expected, rel=1e-6), name


@pytest.mark.parametrize(
    "name",
    ["dpo", "dpo-b", "dpo-b0", "dpo-b-1", "ppo-b0.1", "dpo-pg-b0.1", "DPO-b0.1", "dpo-b0.1x", "dpo-seed1", "dpo-pg-seed",
     "dpo-b0.1-seed1-seed2", "dpo-seed1-b0.1", "dpo-pg\n", "ref", ""],
)  # fmt: skip
def test_bad_names_are_refused(name):
    with pytest.raises(UserError, match=r"not a method|beta 0"):
        parse(name)
    assert name == "dpo-b0" or not re.fullmatch(PATTERN, name)


@pytest.mark.parametrize(
    ("name", "method", "beta", "seed", "title"),
    [
        ("dpo-b0.1", "dpo", 0.1, None, "DPO β = 0.1"),
        ("cal-dpo-b0.02-seed3", "cal-dpo", 0.02, 3, "Cal-DPO β = 0.02, seed 3"),
        ("dpo-pg", "dpo-pg", None, None, "DPO-PG"),
        ("dpo-pg-seed12", "dpo-pg", None, 12, "DPO-PG, seed 12"),
        ("simpo-b2.5", "simpo", 2.5, None, "SimPO β = 2.5"),
    ],
)
def test_names_are_taken_apart_and_put_together(name, method, beta, seed, title):
    variant = parse(name)
    assert (variant.method.name, variant.beta, variant.seed) == (method, beta, seed)
    assert (str(variant), variant.title()) == (name, title)
    assert re.fullmatch(PATTERN, name)


def test_order_is_that_of_the_declarations_then_large_betas_then_seeds():
    names = [
        "dpo-b0.2",
        "dpo-b0.1-seed1",
        "dpo-b0.1-seed2",
        "logpi-b0.1",
        "dpo-pg",
        "dpop-b0.1",
        "simpo-b2",
        "simpo-b0.1",
    ]
    assert sorted(reversed(names), key=lambda name: parse(name).order()) == names


def test_every_hyper_parameter_is_a_described_key_of_objectives():
    fields = Objectives.model_fields
    assert list(fields) == ["dpop_lambda", "cal_dpo_weight", "slic_lambda", "simpo_gamma"]
    assert [(f.default, bool(f.description)) for f in fields.values()] == [(v, True) for v in (50.0, 1.0, 1.0, 1.0)]
    for wrong in ({"dpop_lambda": 0}, {"simpo_gamma": -1}, {"ipo_lambda": 1}):
        with pytest.raises(ValidationError):
            Objectives(**wrong)


def test_declarations_do_not_need_torch():
    code = "import sys, diffinfo.methods, diffinfo.config.types; sys.exit('torch' in sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)


def orpo_exactly(w, l, nw, nl, beta):  # noqa: E741
    """ORPO's loss and its slopes in w and l, with 400 digits."""
    with localcontext() as context:
        context.prec = 400
        w, l, beta = Decimal(w), Decimal(l), Decimal(beta)  # noqa: E741
        p, q = (w / nw).exp(), (l / nl).exp()
        wrong = q * (1 - p) / (p * (1 - q) + q * (1 - p))  # 1 - sigma(log odds(y_w) - log odds(y_l))
        values = -w - beta * (1 - wrong).ln(), -1 - beta * q / (p * (1 - q) + q * (1 - p)) / nw
        return [float(v) for v in (*values, beta * wrong / (1 - q) / nl)]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("l", [-9.0, -1e-3, -300.0])
@pytest.mark.parametrize("w", [-1.0, -1e-2, -3e-4, -1e-5, -3e-6, -400.0])
def test_orpo_is_exact_where_the_policy_is_sure(w, l, dtype):  # noqa: E741
    x = pair(w, l, -5, -8)
    leaves = [torch.tensor([v], dtype=dtype, requires_grad=True) for v in (w, l)]
    x = PairLogps(*leaves, x.reference_w, x.reference_l, x.tokens_w.to(dtype), x.tokens_l.to(dtype))
    value = loss(parse("orpo-b0.5"), SETTINGS, x)
    slopes = torch.autograd.grad(value.sum(), leaves)
    expected = orpo_exactly(*(float(leaf.detach()) for leaf in leaves), 3, 5, 0.5)
    got = [value.item(), *(slope.item() for slope in slopes)]
    assert got == pytest.approx(expected, rel=2e-5 if dtype == torch.float32 else 1e-10, abs=1e-30)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("l", [-9.0, -1e-3, 0.0])
@pytest.mark.parametrize("w", [0.0, 1e-8, -1e-9])
def test_orpo_has_finite_slopes_at_certainty(w, l, dtype):  # noqa: E741
    """Float32 rounds a sure policy's log-probability to 0, or above it."""
    leaves = [torch.tensor([v], dtype=dtype, requires_grad=True) for v in (w, l)]
    value = loss(parse("orpo-b0.5"), SETTINGS, PairLogps(*leaves, *([torch.tensor([1.0])] * 4)))
    slopes = torch.autograd.grad(value.sum(), leaves)
    assert all(map(math.isfinite, (value.item(), *(slope.item() for slope in slopes))))
    if l < 0:  # the limit: -1 - beta q / (1 - q)
        assert slopes[0].item() == pytest.approx(-1 - 0.5 / math.expm1(-l), rel=1e-3)
