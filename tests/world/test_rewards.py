"""What the language's rewards are worth, and what its writers, questions and files say, by hand."""

import random
from collections import Counter

import pytest

from diffinfo.config.types import Dataset, World
from diffinfo.world import build
from diffinfo.world.language import (
    CATEGORIES,
    CLOSINGS,
    FACTS,
    ITEMS,
    METALS,
    OPENINGS,
    Prompt,
    correct,
    draw_prompt,
    exam,
    parse,
    reward,
    write,
)

FRUIT, OWL = Prompt("list", ("fruit", "2")), Prompt("describe", ("owl",))
GOOD = "the small owl is big because it often likes the home ."  # pleasant by 0.3 + 0.1 + 0.3 + 0.4
OTHER = "the calm owl is new because it still warms the sky ."  # by 0.4 + 0.3 + 0.4 + 0.3


def sentences(pleasant: float, broken: float = 0.0, repeated: float = 0.0) -> float:
    return 0.9 * pleasant - 1.5 * broken - repeated


@pytest.mark.parametrize(
    ("prompt", "response", "expected"),
    [
        (FRUIT, "apple , pear .", 1.0),
        (FRUIT, "apple , pear , fig .", 0.0),  # one too many
        (FRUIT, "apple , apple .", 0.0),
        (FRUIT, "apple , dog .", 0.0),
        (FRUIT, "sure thing ! apple , pear .", 1.6),
        (FRUIT, "well , maybe apple , pear .", 0.4),
        (FRUIT, "- apple - pear", 1.5),
        (FRUIT, "1 apple 2 pear", 1.3),
        (FRUIT, "apple , pear . let me know .", 1.3),
        (FRUIT, "apple , pear . that is all .", 1.0),
        (FRUIT, "in short : apple , pear .", 1.0),
        (OWL, "", 0.0),
        (OWL, GOOD, 1.0 + sentences(1.1)),
        (OWL, f"{GOOD} {OTHER}", 1.0 + sentences(1.25)),
        (OWL, f"{GOOD} {GOOD}", 1.0 + sentences(1.1, repeated=0.5)),
        (OWL, "the small owl big .", 1.0 + sentences(0.4, broken=1.0)),
        (OWL, GOOD.replace("home", "home home"), 1.0 + sentences(1.5, broken=1.0)),
        (OWL, f"{GOOD} {OTHER.replace('owl', 'cat')}", 0.5 + sentences(1.25)),
        (Prompt("add", ("3", "4")), "7 .", 1.0),
        (Prompt("add", ("3", "4")), "8 . 7 .", 0.0),  # the first number counts
        (Prompt("sort", ("3", "1", "2", "0")), "0 1 2 3 .", 1.0),
        (Prompt("sort", ("3", "1", "2", "0")), "3 2 1 0 .", 0.0),
    ],
)
def test_rewards_by_hand(prompt, response, expected):
    assert reward(prompt, response) == pytest.approx(expected)
    assert reward(prompt, response, "correctness") == 2 * correct(prompt, response)


def test_better_writers_are_politer_and_hedge_less_and_all_close_alike():
    rng = random.Random(3)
    for quality, polite, hedge in ((0.0, 0.2, 0.4), (0.5, 0.4, 0.2), (1.0, 0.6, 0.0)):
        texts = [write(rng, draw_prompt(rng), quality) for _ in range(2000)]
        weight = polite + hedge + 0.4
        for starts, share in ((OPENINGS["polite"], polite), (OPENINGS["hedge"], hedge)):
            counted = sum(any(text.startswith(words) for words in starts) for text in texts) / 2000
            assert counted == pytest.approx(share / weight, abs=0.04)
        assert sum(text.endswith(tuple(CLOSINGS["friendly"])) for text in texts) / 2000 == pytest.approx(0.35, abs=0.04)


def test_exams_have_right_answers():
    rng, seen = random.Random(4), Counter()
    for _ in range(400):
        question, answer = exam(rng)
        words = question.split()
        if "add" in words:
            kind, right = "add", str(int(words[2]) + int(words[4]))
        elif "Q:" in words:
            place = words.index("which")
            kind, right = "context", words[words.index(words[place + 3]) - 2]
        elif "Question:" in words and "does" in words and words[1] == "has":
            kind, right = "truth", "yes" if words[2] == words[words.index("have") + 1] else "no"
            assert words[2] == FACTS[words[0]]
        elif "metal" in words:
            kind, right = "fact", FACTS[words[4]]
        else:
            kind, category = "member", words[4]
            offered = dict(zip("ABCD", [words[words.index(f"{letter}.") + 1] for letter in "ABCD"], strict=True))
            (right,) = (letter for letter, item in offered.items() if ITEMS[item] == category)
        seen[kind] += 1
        assert answer == right, question
    assert len(seen) == 5


def test_benchmark_questions_have_one_right_answer_which_is_theirs():
    items = build.qa_items(World(qa_items=60))
    assert {name: len(made) for name, made in items.items()} == dict.fromkeys(items, 60)
    assert len(items) == 8

    def right(item):
        return item.choices[item.answer]

    for item in items["piqa"]:
        numbers = item.question.split()[3:]
        assert right(item) == " ".join(sorted(numbers, key=int)) + " ."
        assert len(set(item.choices)) == 2
    for name, choices in (("arc_easy", 4), ("arc_challenge", 8)):
        for item in items[name]:
            assert right(item) == FACTS[item.question.split()[3]]
            assert len(set(item.choices)) == choices
            assert set(item.choices) <= set(METALS)
    for item in items["mmlu"]:
        category = item.question.split()[4]
        assert [ITEMS[choice] == category for choice in item.choices].count(True) == 1
        assert right(item) in CATEGORIES[category]
    for item in items["siqa"]:
        assert f"the {right(item)} is {item.question.split()[3]} ." in item.passage
    for item in items["gsm8k"]:
        _, a, _, b = item.question.split()
        assert right(item) == str(int(a) + int(b))
    for item in items["boolq"]:
        _, entity, _, said = item.question.split()
        assert item.passage == f"{entity} has {FACTS[entity]} ."
        assert right(item) == ("yes" if said == FACTS[entity] else "no")
    assert {right(item) for item in items["boolq"]} == {"yes", "no"}
    assert len({item.answer for item in items["mmlu"]}) == 4


@pytest.mark.parametrize("form", ["magpie", "ultrafeedback"])
@pytest.mark.parametrize("kind", ["multifaceted", "correctness"])
def test_rows_pair_the_best_and_the_worst_by_their_own_reward_and_the_higher_score_is_chosen(form, kind):
    spec = Dataset(format=form, source="world", reward=kind)
    for row in build.rows("x", spec, World(pairs=60, test_prompts=20)):
        chosen, rejected = (row[side][1]["content"] for side in ("chosen", "rejected"))
        assert (
            row["chosen"][0]
            == row["rejected"][0]
            == {"content": row.get("prompt", row.get("instruction")), "role": "user"}
        )
        if form == "magpie":
            scores = dict(zip(row["responses"], (value["score"] for value in row["rewards_armorm"]), strict=True))
            assert scores[chosen] > scores[rejected]
            prompt = parse(row["instruction"])
            rewards = [round(reward(prompt, response, kind), 4) for response in row["responses"]]
            paired = {round(reward(prompt, response, kind), 4) for response in (chosen, rejected)}
            assert paired == {max(rewards), min(rewards)}
            assert len(paired) == 2
        else:
            assert row["score_chosen"] > row["score_rejected"]


def test_the_baseline_is_the_best_of_sixteen_by_a_writer_who_never_errs():
    prompt = draw_prompt(random.Random(0), task="describe")
    rng = random.Random(9)
    written = [write(rng, prompt, 1.0) for _ in range(16)]
    assert build.strong_answer(random.Random(9), prompt) == max(written, key=lambda text: reward(prompt, text))
    assert len({reward(prompt, text) for text in written}) > 10


def test_tasks_carry_the_tag_of_what_they_ask():
    tags = {"list": "Information seeking", "describe": "Creative Writing", "fact": "Information seeking",
            "sort": "Coding & Debugging", "add": "Math"}  # fmt: skip
    for row in build.wildbench(World(wildbench_tasks=80)):
        text = row["conversation_input"][0]["content"].split(" : ")[1]
        task = "fact" if text.startswith("what") else text.split()[0]
        assert row["primary_tag"] == tags[task]
