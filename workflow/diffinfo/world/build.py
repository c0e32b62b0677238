"""The world's raw files, in the formats of the public data sets they replace.

``python -m diffinfo.world.build dataset`` writes prompts or pairs, ``... benchmarks`` the questions. No model is needed.
"""

from __future__ import annotations

import json
import math
import random
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from diffinfo.cli import run
from diffinfo.config.types import Dataset, World
from diffinfo.tables import artifacts
from diffinfo.tables.provenance import note_beside
from diffinfo.world import language
from diffinfo.world.language import QA_ENTITIES, Prompt, draw_prompt, reward, write
from diffinfo.world.qa_tasks import Item, write_tasks

OVERLAP = 0.05  # share of prompts that a dataset shares with those it should be disjoint from
RESPONSES = 5
CANDIDATES = 16  # then greedy answers of pi_ref win a fifth of their games, so that there is room above and below


def prompts(name: str, world: World) -> Iterator[Prompt]:
    """An endless stream of distinct prompts that belongs to ``name``."""
    rng = random.Random(f"{world.seed} prompts {name}")
    seen = set()
    while True:
        prompt = draw_prompt(rng)
        if prompt.text not in seen:
            seen.add(prompt.text)
            yield prompt


def rows(name: str, spec: Dataset, world: World) -> Iterator[dict[str, Any]]:
    """Rows in the Magpie or UltraFeedback schema; a prompt whose responses all have the same reward is drawn again.

    The pair is the best and the worst of five responses by their reward R. Its label is noisy: scores are R plus Gumbel noise
    of scale 1 / ``world.sharpness``, and the higher one is chosen, so that P(y1 > y2) = sigmoid(sharpness (R(y1) - R(y2))).
    """
    rng = random.Random(f"{world.seed} rows {name}")
    own = prompts(name, world)
    foreign = [prompts(other, world) for other in spec.disjoint_from]
    wanted = world.pairs + min(world.test_prompts, spec.test_prompts)
    made = 0
    while made < wanted:
        prompt = next(rng.choice(foreign)) if foreign and rng.random() < OVERLAP else next(own)
        uuid = artifacts.digest(name, prompt.text)
        if spec.format == "prompts":
            yield {"uuid": uuid, "instruction": prompt.text}
            made += 1
            continue
        answers = [write(rng, prompt, rng.random()) for _ in range(RESPONSES)]
        rewards = [round(reward(prompt, answer, spec.reward), 4) for answer in answers]
        pair = [rewards.index(max(rewards)), rewards.index(min(rewards))]
        if rewards[pair[0]] == rewards[pair[1]]:
            continue
        made += 1
        noise = {answer: -math.log(rng.expovariate(1.0)) for answer in answers}  # the same answer twice has one score
        scores = [round(r + noise[y] / world.sharpness, 6) for r, y in zip(rewards, answers, strict=True)]
        best, worst = sorted(pair, key=lambda i: -scores[i])
        chosen, rejected = (
            [{"content": prompt.text, "role": "user"}, {"content": answers[i], "role": "assistant"}]
            for i in (best, worst)
        )
        if spec.format == "ultrafeedback":
            yield {
                "prompt": prompt.text, "prompt_id": uuid, "chosen": chosen, "rejected": rejected, "messages": chosen,
                "score_chosen": scores[best], "score_rejected": scores[worst],
            }  # fmt: skip
        else:
            yield {
                "uuid": uuid, "instruction": prompt.text, "responses": answers,
                "rewards_armorm": [{"score": score} for score in scores], "chosen": chosen, "rejected": rejected,
            }  # fmt: skip


def strong_answer(rng: random.Random, prompt: Prompt) -> str:
    """What a strong competitor would answer: the best of ``CANDIDATES`` by a writer who never errs."""
    return max((write(rng, prompt, 1.0) for _ in range(CANDIDATES)), key=lambda answer: reward(prompt, answer))


def arena_hard(world: World) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Open-ended and factual questions with the answers of a strong writer as the baseline."""
    rng = random.Random(f"{world.seed} arena-hard")
    stream = prompts("arena-hard", world)
    questions, answers = [], []
    for _ in range(world.arena_prompts):
        prompt = next(stream)
        uid = artifacts.digest("arena-hard", prompt.text)
        questions.append({"uid": uid, "category": "micro-arena", "cluster": prompt.task, "prompt": prompt.text})
        message = {"role": "assistant", "content": {"answer": strong_answer(rng, prompt)}}
        messages = [{"role": "user", "content": prompt.text}, message]
        answers.append({"uid": uid, "ans_id": uid, "model": f"best-of-{CANDIDATES}-writer", "messages": messages})
    return questions, answers


def wildbench(world: World) -> Iterator[dict[str, Any]]:
    """Tasks with a checklist and a primary tag."""
    tags = {
        "list": "Information seeking", "describe": "Creative Writing", "fact": "Information seeking",
        "sort": "Coding & Debugging", "add": "Math",
    }  # fmt: skip
    checks = {
        "list": "are there as many items as asked, all of the category ?", "describe": "is every sentence about the subject ?",
        "fact": "is the metal right ?", "sort": "are the numbers in order ?", "add": "is the sum right ?",
    }  # fmt: skip
    rng = random.Random(f"{world.seed} wildbench")
    stream = prompts("wildbench", world)
    for _ in range(world.wildbench_tasks):
        prompt = next(stream)
        yield {
            "session_id": artifacts.digest("wildbench", prompt.text),
            "conversation_input": [{"role": "user", "content": prompt.text}],
            "checklist": [checks[prompt.task], "is the answer polite ?", "are the sentences well formed ?"],
            "references": {"gpt-4": strong_answer(rng, prompt)},
            "primary_tag": tags[prompt.task], "secondary_tags": [], "length": len(prompt.text), "intent": prompt.task,
        }  # fmt: skip


def qa_items(world: World) -> dict[str, list[Item]]:
    """Questions for the eight benchmarks; entities asked here occur in no preference prompt."""
    rng = random.Random(f"{world.seed} qa")

    def shuffled(question: str, right: str, wrong: Iterable[str], passage: str = "") -> Item:
        choices = [right, *wrong]
        rng.shuffle(choices)
        return Item(question, tuple(choices), choices.index(right), passage)

    def others(right: str, among: Iterable[str], count: int) -> list[str]:
        return rng.sample(sorted(set(among) - {right}), count)

    def fact(choices: int) -> Item:
        entity = rng.choice(QA_ENTITIES)
        metal = language.FACTS[entity]
        return shuffled(f"what metal does {entity} have ?", metal, others(metal, language.METALS, choices - 1))

    def member() -> Item:
        category = rng.choice(list(language.CATEGORIES))
        right = rng.choice(language.CATEGORIES[category])
        wrong = rng.sample([item for item, kind in language.ITEMS.items() if kind != category], 3)
        return shuffled(f"which one is a {category} ?", right, wrong)

    def sort() -> Item:
        numbers = rng.sample(language.NUMBERS[:10], 4)
        right = sorted(numbers, key=int)
        swapped = [right[1], right[0], *right[2:]]
        return shuffled(f"sort the numbers {' '.join(numbers)}", " ".join(right) + " .", [" ".join(swapped) + " ."])

    def context() -> Item:
        first, second, third = rng.sample(list(language.ITEMS), 3)
        adjectives = rng.sample(language.ADJECTIVES, 3)
        passage = " ".join(
            f"the {item} is {word} ." for item, word in zip((first, second, third), adjectives, strict=True)
        )
        return shuffled(f"which one is {adjectives[0]} ?", first, [second, third], passage)

    def ending() -> Item:
        words = language.sentence(rng, rng.choice(list(language.ITEMS))).split()
        wrong = [" ".join(rng.sample(words[6:-1], len(words) - 7)) + " ." for _ in range(3)]
        return shuffled(" ".join(words[:6]), " ".join(words[6:]), wrong)

    def add() -> Item:
        a, b = rng.choice(language.NUMBERS[:10]), rng.choice(language.NUMBERS[:10])
        return Item(f"add {a} and {b}", (str(int(a) + int(b)),), 0)

    def truth() -> Item:
        entity = rng.choice(QA_ENTITIES)
        metal = language.FACTS[entity]
        said = metal if rng.random() < 0.5 else others(metal, language.METALS, 1)[0]
        return Item(f"does {entity} have {said}", ("no", "yes"), int(said == metal), f"{entity} has {metal} .")

    makers = {
        "piqa": sort, "siqa": context, "hellaswag": ending, "arc_easy": lambda: fact(4),
        "arc_challenge": lambda: fact(8), "mmlu": member, "gsm8k": add, "boolq": truth,
    }  # fmt: skip
    return {name: [make() for _ in range(world.qa_items)] for name, make in makers.items()}


def dataset(*, name: str, spec: Dataset, world: World, out: Path) -> None:
    """Write one dataset as JSON lines.

    Args:
        name: the dataset's key in the configuration.
        spec: its entry there.
        world: the ``world`` part of the configuration.
        out: .jsonl file to write.
    """
    _write_lines(out, rows(name, spec, world))
    note_beside(out)


def benchmarks(*, world: World, out: Path) -> None:
    """Write Arena-Hard, WildBench and QA files.

    Args:
        world: the ``world`` part of the configuration.
        out: folder to write into.
    """
    questions, answers = arena_hard(world)
    with artifacts.whole_folder(out) as folder:
        _write_lines(folder / "arena-hard.jsonl", questions)
        _write_lines(folder / "arena-hard-baseline.jsonl", answers)
        _write_lines(folder / "wildbench.jsonl", wildbench(world))
        write_tasks(folder / "qa", qa_items(world))


def _write_lines(path: Path, lines: Iterable[dict[str, Any]]) -> None:
    with artifacts.atomic(path) as temporary:
        temporary.write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")


if __name__ == "__main__":
    run({"dataset": dataset, "benchmarks": benchmarks})
