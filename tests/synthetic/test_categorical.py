import pandas as pd
import pytest
import torch

from diffinfo.cli import UserError
from diffinfo.synthetic.categorical import GRID, Recipe, batches, describe, experiment, main, policies, train
from diffinfo.synthetic.losses import LOSSES
from diffinfo.tables import artifacts

TAUS = [0.25, 4.0]


def test_the_grid_is_that_of_the_paper():
    assert {name: len(settings) for name, settings in GRID.items()} == {
        "slic": 16, "orpo": 4, "simpo": 12, "cal-dpo": 5, "dpo": 1, "logpi": 1,
    }  # fmt: skip
    assert describe(GRID["slic"][3]) == "beta=0.1 lambda=10"
    values = {
        name: {key: sorted({setting[key] for setting in settings}) for key in settings[0]}
        for name, settings in GRID.items()
    }
    assert values == {  # J.1
        "slic": {"beta": [0.1, 0.5, 1.0, 2.0], "lambda": [0.1, 0.5, 1.0, 10.0]},
        "orpo": {"beta": [0.1, 0.5, 1.0, 2.0]},
        "simpo": {"beta": [2.0, 2.5], "gamma": [0.3, 0.5, 1.0, 1.2, 1.4, 1.6]},
        "cal-dpo": {"beta": [0.001, 0.002, 0.003, 0.01, 0.1]},
        "dpo": {"beta": [1.0]},
        "logpi": {"beta": [1.0]},
    }


def test_the_recipe_is_that_of_the_paper():
    assert vars(Recipe()) == {
        "classes": 32, "batch": 512, "learning_rate": 1e-3, "max_norm": 1.0, "decay": 0.99, "epsilon": 1e-8,
    }  # fmt: skip


def test_seeds_draw_policies_and_batches_of_their_own():
    world, recipe = policies([42, 7], [2.0], 8), Recipe(classes=8)
    assert not torch.allclose(world.reference[0], world.reference[1])
    same = world._replace(**{name: part[:1].repeat(2, 1) for name, part in world._asdict().items()})
    one, two = next(batches(same, [42, 7], recipe, 1))
    assert not torch.equal(one, two)


def test_batches_are_shares_with_the_right_means():
    world, recipe = policies([42, 7], TAUS, 8), Recipe(classes=8)
    steps = torch.stack(list(batches(world, [42, 7], recipe, 200)))
    assert steps.shape == (200, 4, 8, 8)
    assert torch.allclose(steps.sum((-2, -1)), torch.ones(200, 4))
    assert torch.equal(steps * 512, (steps * 512).round())
    expected = world.pairs()
    error = (expected * (1 - expected) / (200 * 512)).sqrt()
    assert ((steps.mean(0) - expected).abs() < 5 * error + 1e-6).all()


def test_a_seed_draws_the_same_whoever_runs_beside_it():
    alone, together = policies([7], TAUS, 8), policies([42, 7], TAUS, 8)
    recipe = Recipe(classes=8)
    one = torch.stack(list(batches(alone, [7], recipe, 70)))
    two = torch.stack(list(batches(together, [42, 7], recipe, 70)))
    assert torch.equal(one, two[:, 2:])
    longer = torch.stack(list(batches(alone, [7], recipe, 130)))
    assert torch.equal(one, longer[:70])


def test_one_program_does_what_a_loop_with_autograd_and_torch_does():
    grid = {name: settings[-1:] for name, settings in GRID.items()}
    world, recipe = policies([42], TAUS, 8), Recipe(classes=8)
    data = list(batches(world, [42], recipe, 30))
    *_, together = train(world, iter(data), grid, recipe)
    for group in range(len(TAUS)):
        for index, (name, settings) in enumerate(grid.items()):
            theta = world.reference[group].clone().requires_grad_()
            optimiser = torch.optim.RMSprop([theta], lr=1e-3)
            hyper = {key: torch.tensor([value]) for key, value in settings[0].items()}
            for pairs in data:
                optimiser.zero_grad()
                LOSSES[name](theta, world.reference[group], pairs[group], hyper).sum().backward()
                torch.nn.utils.clip_grad_norm_([theta], 1.0)
                optimiser.step()
            assert torch.allclose(together[group, index], theta.detach(), atol=1e-4), name


def test_clipping_is_per_policy():
    world, recipe = policies([42], [4.0], 8), Recipe(classes=8)
    data = list(batches(world, [42], recipe, 5))
    grid = {"cal-dpo": GRID["cal-dpo"][:1], "dpo": GRID["dpo"]}  # Cal-DPO's gradients are some thousand times DPO's
    *_, both = train(world, iter(data), grid, recipe)
    *_, alone = train(world, iter(data), {"dpo": GRID["dpo"]}, recipe)
    assert torch.equal(both[:, 1], alone[:, 0])


def test_dpo_alone_reaches_the_target_and_logpi_the_did():
    grid = {name: GRID[name] for name in ("simpo", "dpo", "logpi")}
    frame = experiment([42], [2.0], 4000, 200, grid)
    last = frame[frame.step == 4000].groupby("objective")[["js_target", "js_did"]].min()
    assert last.js_target["dpo"] < 5e-4 < 1e-2 < min(last.js_target["simpo"], last.js_target["logpi"])
    assert last.js_did["logpi"] < 2e-2 < last.js_did["dpo"]
    start = frame[frame.step == 0]
    assert start.js_target.nunique() == 1  # all start at pi_ref


def test_distances_are_measured_in_float64():
    start = experiment([42], [0.5], 1, 1, {"logpi": GRID["logpi"]}).query("step == 0")
    assert start.js_did.item() < 1e-12  # at tau = 0.5 the DID is pi_ref


def test_the_table_holds_every_run_at_every_recorded_step(tmp_path):
    main(tmp_path / "objectives.parquet", steps=7, seeds=[1, 2], taus=[0.5, 2.0], record_every=3)
    table = artifacts.read(tmp_path / "objectives.parquet", "objectives")
    assert len(table) == 39 * 2 * 2 * 4
    assert sorted(table.step.unique()) == [0, 3, 6, 7]
    assert not table.duplicated(["objective", "hyperparameters", "tau", "seed", "step"]).any()
    for seed, tau in ((2, 2.0), (1, 2.0), (2, 0.5)):
        one = experiment([seed], [tau], 7, 3)
        both = table.merge(one, on=["objective", "hyperparameters", "tau", "seed", "step"], suffixes=("", "_alone"))
        assert len(both) == 39 * 4
        for column in ("js_target", "js_did"):
            alone = both[f"{column}_alone"]
            pd.testing.assert_series_equal(both[column], alone, check_names=False, rtol=1e-4, atol=1e-8)


@pytest.mark.parametrize("wrong", [{"steps": 0}, {"record_every": 0}, {"taus": [0.0]}])
def test_wrong_options_are_refused(tmp_path, wrong):
    with pytest.raises(UserError):
        main(tmp_path / "objectives.parquet", **wrong)
