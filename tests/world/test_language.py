import random

import numpy as np
import pytest

from diffinfo.config.types import Dataset, World
from diffinfo.world import build
from diffinfo.world.language import (
    QA_ENTITIES,
    TASKS,
    TRAINING_ENTITIES,
    VOCABULARY,
    correct,
    draw_prompt,
    reward,
    write,
)

WORLD = World(pairs=1500, test_prompts=100)


def pairs(kind):
    spec = Dataset(format="magpie", source="world", reward=kind)
    return list(build.rows("magpie-pro", spec, WORLD))


@pytest.mark.parametrize("kind", ["multifaceted", "correctness"])
def test_chosen_and_rejected_are_of_one_length(kind):
    """Within 8 % and two standard errors' reach: length must not confound log-likelihoods."""
    lengths = np.array(
        [[len(row[side][1]["content"].split()) for side in ("chosen", "rejected")] for row in pairs(kind)]
    )
    chosen, rejected = lengths.mean(0)
    assert abs(chosen - rejected) / rejected < 0.08


def test_qa_entities_never_occur_in_preferences():
    words = {
        word
        for row in pairs("multifaceted")
        for text in (row["instruction"], *row["responses"])
        for word in text.split()
    }
    assert words & set(TRAINING_ENTITIES)
    assert not words & set(QA_ENTITIES)
    asked = {
        word
        for items in build.qa_items(World(qa_items=50)).values()
        for item in items
        for word in item.question.split()
    }
    assert asked & set(QA_ENTITIES)
    assert not asked & set(TRAINING_ENTITIES)


def test_every_word_is_one_token():
    from diffinfo.world.tokenizer import build as tokenizer

    rng = random.Random(0)
    for style in ("mistral", "gemma2"):
        encode = tokenizer(style)
        for _ in range(50):
            text = write(rng, draw_prompt(rng), 0.5)
            assert len(encode(text)["input_ids"]) == len(text.split())
        assert len(encode.get_vocab()) < 3 * len(VOCABULARY) + 300


@pytest.mark.parametrize("task", TASKS)
def test_perfect_writers_are_right_and_poor_ones_are_not(task):
    rng = random.Random(1)
    prompts = [draw_prompt(rng, task=task) for _ in range(200)]
    good = [correct(p, write(rng, p, 1.0)) for p in prompts]
    bad = [correct(p, write(rng, p, 0.0)) for p in prompts]
    assert np.mean(good) > 0.98
    assert np.mean(bad) < 0.85


def test_correctness_reward_is_blind_to_manners():
    rng = random.Random(2)
    prompt = draw_prompt(rng, task="add")
    right = str(int(prompt.about[0]) + int(prompt.about[1]))
    plain, polite = f"{right} .", f"sure ! {right} . hope this helps !"
    assert reward(prompt, plain, "correctness") == reward(prompt, polite, "correctness")
    assert reward(prompt, polite) > reward(prompt, plain)


def test_same_seed_same_rows_other_seed_other_rows():
    spec = Dataset(format="prompts", source="world", disjoint_from=["magpie-pro"])
    small = World(pairs=50, test_prompts=10)
    assert list(build.rows("magpie-g27", spec, small)) == list(build.rows("magpie-g27", spec, small))
    other = list(build.rows("magpie-g27", spec, small.model_copy(update={"seed": 7})))
    assert other != list(build.rows("magpie-g27", spec, small))


def test_magpie_g27_shares_prompts_that_must_be_dropped():
    spec = Dataset(format="prompts", source="world", disjoint_from=["magpie-pro"])
    own = {row["instruction"] for row in pairs("multifaceted")}
    shared = sum(row["instruction"] in own for row in build.rows("magpie-g27", spec, WORLD))
    assert 20 < shared < 160
