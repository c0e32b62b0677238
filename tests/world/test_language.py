import random
import re

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
    parse,
    reward,
    write,
)

WORLD = World(pairs=1500, test_prompts=100)


def pairs(kind):
    spec = Dataset(format="magpie", source="world", reward=kind)
    return list(build.rows("magpie-pro", spec, WORLD))


def test_all_that_writers_answer_to_a_prompt_is_of_one_length_and_has_the_sentences_it_asks_for():
    rng = random.Random(6)
    for _ in range(1000):
        prompt = draw_prompt(rng)
        answers = [write(rng, prompt, rng.random()) for _ in range(5)]
        assert len({len(answer.split()) for answer in answers}) == 1
        for answer in answers:  # "because" is in every free sentence and nowhere else
            assert answer.split().count("because") == prompt.sentences
        assert f" in {prompt.sentences} sentences : " in prompt.text


@pytest.mark.parametrize("kind", ["multifaceted", "correctness"])
def test_chosen_and_rejected_are_of_one_length(kind):
    for row in pairs(kind):
        chosen, rejected = (len(row[side][1]["content"].split()) for side in ("chosen", "rejected"))
        assert chosen == rejected


def test_a_prompt_comes_back_from_its_text():
    rng = random.Random(7)
    for _ in range(5000):
        prompt = draw_prompt(rng, entities=TRAINING_ENTITIES + QA_ENTITIES)
        assert parse(prompt.text) == prompt
        assert parse(prompt.text.split(" ", 5)[5]).occasion == ""
    for text in ("", "add 1 and 2", "in 2 sentences : please", f"{prompt.text} please"):
        with pytest.raises(ValueError, match=re.escape(f"not a prompt of the micro world: {text[:40]!r}"[:-1])):
            parse(text)


@pytest.mark.parametrize("kind", ["multifaceted", "correctness"])
def test_any_string_has_a_finite_reward(kind):
    rng, words = random.Random(8), [*VOCABULARY, "the small owl is", "because it", "\u00e9", "-1", "1e999"]
    for _ in range(3000):
        answer = " ".join(rng.choices(words, k=rng.randrange(40)))
        assert np.isfinite(reward(draw_prompt(rng), answer, kind))
    assert np.isfinite(reward(draw_prompt(rng), " \n", kind))


def test_labels_are_bradley_terrys():
    """Scores, whose order is the label, against sigma(sharpness (R(y1) - R(y2))) in bins of the difference."""
    spec = Dataset(format="magpie", source="world")
    for sharpness in (0.5, 1.0, 3.0):
        world = WORLD.model_copy(update={"sharpness": sharpness, "pairs": 2900})
        gaps, agreed = [], []
        for row in build.rows("x", spec, world):
            prompt = parse(row["instruction"])
            chosen, rejected = (row[side][1]["content"] for side in ("chosen", "rejected"))
            scores = dict(zip(row["responses"], (value["score"] for value in row["rewards_armorm"]), strict=True))
            assert scores[chosen] > scores[rejected]
            gap = reward(prompt, chosen) - reward(prompt, rejected)
            gaps.append(abs(gap))
            agreed.append(gap > 0)
        expected, agreed = 1 / (1 + np.exp(-sharpness * np.array(gaps))), np.array(agreed)
        for part in np.array_split(np.argsort(gaps), 4):
            spread = np.sqrt((expected[part] * (1 - expected[part])).sum()) / len(part)
            assert abs(agreed[part].mean() - expected[part].mean()) < 3.5 * spread
    assert expected.mean() > 0.95


def test_labels_agree_with_the_reward_as_often_as_people_do():
    """75 to 87 % at the default sharpness, for both rewards."""
    for kind in ("multifaceted", "correctness"):
        right = [
            reward(parse(row["instruction"]), row["chosen"][1]["content"], kind)
            > reward(parse(row["instruction"]), row["rejected"][1]["content"], kind)
            for row in pairs(kind)
        ]
        assert 0.75 < np.mean(right) < 0.87


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
    plain, polite = f"{right} .", f"sure thing ! {right} . hope this helps !"
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
