import torch

from diffinfo.synthetic import population
from diffinfo.synthetic.categorical import GRID, hyper_tensors, policies
from diffinfo.synthetic.distributions import js
from diffinfo.synthetic.losses import LOSSES
from diffinfo.synthetic.population import experiment, minimise, optimum


def test_a_quadratic_is_minimised_exactly():
    goal = torch.tensor([[1.0, -2.0, 1.0], [0.0, 3.0, -3.0]], dtype=torch.float64)
    theta, slope = minimise(lambda t: ((t - goal) ** 2).sum(-1) / 2, lambda t: t - goal, torch.zeros_like(goal))
    assert torch.allclose(theta, goal, atol=1e-10)
    assert slope.max() < 1e-10


def test_dpo_reaches_the_target_logpi_the_did_and_no_other_objective_either():
    frame = experiment([42], [2.0], classes=8)
    nearest = frame.groupby("objective")[["js_target", "js_did"]].min()
    assert nearest.js_target["dpo"] < 1e-13
    assert nearest.js_did["logpi"] < 1e-13
    assert nearest.js_target.drop("dpo").min() > 1e-4
    assert frame.gradient.max() < 1e-9


def test_an_optimum_cannot_be_improved():
    world = policies([3], [0.5], 8, torch.float64)
    generator = torch.Generator().manual_seed(0)
    for name, settings in GRID.items():
        hyper = hyper_tensors(settings, torch.float64)
        logp, _ = optimum(name, world.reference[0], world.pairs()[0], hyper)
        best = LOSSES[name](logp, world.reference[0], world.pairs()[0], hyper)
        for size in (1e-2, 1.0):
            near = logp + size * torch.randn(*logp.shape, generator=generator, dtype=torch.float64)
            assert (LOSSES[name](near, world.reference[0], world.pairs()[0], hyper) >= best - 1e-5).all(), name


def test_the_search_begins_at_the_reference_as_training_does(monkeypatch):
    world, begun = policies([3], [2.0], 8, torch.float64), []

    def watched(loss, gradient, start, tolerance):
        begun.append(start)
        return minimise(loss, gradient, start, tolerance)

    monkeypatch.setattr(population, "minimise", watched)
    for name, settings in GRID.items():
        optimum(name, world.reference[0], world.pairs()[0], hyper_tensors(settings, torch.float64))
        assert torch.equal(begun[0], world.reference[0].expand(len(settings), -1)), name
        begun.clear()


def test_a_wrong_rejected_distribution_moves_dpos_optimum():
    world = policies([3], [2.0], 8, torch.float64)
    wrong = world._replace(rejected=world.rejected.flip(-1))
    logp, _ = optimum("dpo", world.reference[0], wrong.pairs()[0], hyper_tensors(GRID["dpo"], torch.float64))
    assert js(world.target[0], logp[0]) > 1e-2
