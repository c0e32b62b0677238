"""Who trains on what: the teacher on better writers and from another seed, the reward model on sharpened rewards."""

import itertools

import pytest
import torch
from transformers import AutoModelForSequenceClassification

from diffinfo.chat import Chat
from diffinfo.config.types import World
from diffinfo.world import training

WORLD = World(hidden=48, layers=3, corpus=70, base_steps=11, teacher_steps=13, reward_steps=40, seed=5)


@pytest.mark.parametrize(
    ("teacher", "quality", "steps", "seed"), [(False, (0.0, 0.7), 11, 5), (True, (0.5, 1.0), 13, 6)]
)
def test_the_teacher_reads_better_writers(monkeypatch, tmp_path, teacher, quality, steps, seed):
    told = {}
    monkeypatch.setattr(training, "pretrain", lambda out, style, **settings: told.update(settings, style=style))
    training.main(architecture="mistral", teacher=teacher, world=WORLD, out=tmp_path / "model")
    assert told == {
        "style": "mistral", "hidden": 48, "layers": 3, "texts": 70, "steps": steps, "quality": quality, "seed": seed,
    }  # fmt: skip


def test_rewards_are_sharpened_to_log_odds(monkeypatch, tmp_path, tiny_mistral):
    """A reward of about one everywhere: the model learns 3, whatever it is shown."""
    near_one = itertools.cycle((0.95, 1.05))
    monkeypatch.setattr(training, "BATCH", 8)
    monkeypatch.setattr(training, "reward", lambda prompt, answer: next(near_one))
    training.train_reward(tmp_path / "reward", tiny_mistral, WORLD)
    model, chat = (
        AutoModelForSequenceClassification.from_pretrained(tmp_path / "reward", num_labels=1).eval(),
        Chat(tiny_mistral),
    )
    talk = [{"role": "user", "content": "add 1 and 2"}, {"role": "assistant", "content": "3 ."}]
    with torch.no_grad():
        assert model(torch.tensor([chat.conversation_ids(talk)])).logits.item() == pytest.approx(3.0, abs=0.5)


def test_a_second_reward_model_differs_by_its_name_alone(monkeypatch, tmp_path, tiny_mistral):
    """Its head, its data and its number of steps are its own: it must not share the first one's errors."""
    seen, steps = [], []
    monkeypatch.setattr(training, "BATCH", 4)
    monkeypatch.setattr(training, "reward", lambda prompt, answer: seen.append((prompt.text, answer)) or len(seen) % 2)
    monkeypatch.setattr(training, "progress", lambda work, what: steps.append(len(work)) or work)
    world = WORLD.model_copy(update={"reward_steps": 1, "judge_steps": 2})
    heads, data = [], []
    for at, name in enumerate(("", "judge", "judge", "other")):
        seen.clear()
        training.main(architecture="reward", backbone=tiny_mistral, world=world, name=name, out=tmp_path / f"{at}")
        model = AutoModelForSequenceClassification.from_pretrained(tmp_path / f"{at}", num_labels=1)
        heads.append(model.score.weight.detach())
        data.append(list(seen))
    assert steps == [1, 2, 2, 2]
    assert data[1] == data[2]
    assert torch.equal(heads[1], heads[2])
    for one, two in ((0, 1), (1, 3), (0, 3)):
        assert not set(data[one][:4]) & set(data[two][:4])
        assert (heads[one] - heads[two]).abs().max() > 0.01  # from the start: far more than two steps move
