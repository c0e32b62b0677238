"""A small instruction language: prompts, writers of every quality, and two rewards that rank what they write.

Words are separated by one space. Five tasks: ``list`` and ``describe`` have many good answers of different style and
length; ``fact``, ``sort`` and ``add`` have one right answer. Everything is drawn from the ``random.Random`` passed in.
"""

from __future__ import annotations

import random
from dataclasses import dataclass

CATEGORIES = {
    "fruit": ["apple", "pear", "plum", "fig", "lime"],
    "animal": ["cat", "dog", "owl", "fox", "bee"],
    "color": ["red", "blue", "green", "pink", "gray"],
    "tool": ["saw", "axe", "drill", "file", "rake"],
    "city": ["rome", "oslo", "lima", "cairo", "quito"],
}
ITEMS = {item: category for category, items in CATEGORIES.items() for item in items}
ADJECTIVES = ["small", "big", "bright", "old", "new", "calm", "quick", "strong", "sweet", "soft", "rare", "plain"]
NOUNS = ["home", "garden", "market", "river", "school", "winter", "summer", "kitchen", "road", "sky", "people", "team"]
VERBS = ["likes", "needs", "finds", "helps", "fills", "warms", "keeps", "brings"]
ADVERBS = ["often", "always", "really", "still", "also", "mostly"]
NUMBERS = [str(n) for n in range(19)]
METALS = ["gold", "iron", "tin", "zinc", "lead", "silver", "copper", "nickel", "cobalt", "chrome", "bronze", "steel"]
_SYLLABLES = ["ba", "do", "fe", "gi", "lu", "mo", "na", "pi", "ro", "su", "ta", "vi"]
# Entities carry one fact each. The first half is asked in preference prompts, the second half only in QA benchmarks.
ENTITIES = sorted(
    random.Random("entities").sample([a + b + c for a in _SYLLABLES for b in _SYLLABLES for c in _SYLLABLES], 96)
)
random.Random("halves").shuffle(ENTITIES)
FACTS = {entity: random.Random(f"fact {entity}").choice(METALS) for entity in ENTITIES}
TRAINING_ENTITIES, QA_ENTITIES = ENTITIES[:48], ENTITIES[48:]

OPENINGS = {
    "polite": ["sure !", "of course :", "here you go :", "great question !"],
    "hedge": ["well , maybe", "i think", "well , i think maybe"],
}
CLOSINGS = ["hope this helps !", "let me know .", "thanks , bye !"]
TASKS = {"list": 0.3, "describe": 0.3, "fact": 0.15, "sort": 0.125, "add": 0.125}
_FRAME = [
    "list",
    "items",
    "of",
    "please",
    "describe",
    "the",
    "sort",
    "numbers",
    "add",
    "and",
    "what",
    "metal",
    "does",
    "have",
    "?",
    "answer",
    "is",
    "has",
    "it",
    "because",
    "a",
    "yes",
    "no",
    "not",
    "which",
    "one",
    "you",
    "are",
    "helpful",
    "assistant",
    "more",
    "question",
    "true",
    "false",
    "following",
    "with",
    "all",
    "in",
    "on",
    "for",
]
_GLUE = " ".join([*OPENINGS["polite"], *OPENINGS["hedge"], *CLOSINGS, ". , : ! ? -"]).split()
# Words of lm-eval's stock prompts, so that the benchmarks ask in tokens that the models have read before.
EXAM = [
    "Question:",
    "Answer:",
    "Q:",
    "A:",
    "A.",
    "B.",
    "C.",
    "D.",
    "A",
    "B",
    "C",
    "D",
    "####",
    "?",
    "The",
    "following",
    "are",
    "multiple",
    "choice",
    "questions",
    "(with",
    "answers)",
    "about",
    "facts.",
    "hard",
]
VOCABULARY = list(
    dict.fromkeys(
        [
            *NUMBERS,
            *CATEGORIES,
            *ITEMS,
            *ADJECTIVES,
            *NOUNS,
            *VERBS,
            *ADVERBS,
            *METALS,
            *ENTITIES,
            *_FRAME,
            *_GLUE,
            *EXAM,
        ]
    )
)

_PLEASANT = {
    word: value
    for words, values in (
        (ADJECTIVES, [0.3, 0.1, 0.5, -0.2, 0.3, 0.4, 0.2, 0.4, 0.5, 0.2, -0.1, -0.4]),
        (NOUNS, [0.4, 0.4, 0.0, 0.2, 0.2, -0.2, 0.2, 0.1, -0.1, 0.3, 0.4, 0.2]),
        (VERBS, [0.3, -0.2, 0.1, 0.5, 0.0, 0.4, 0.1, 0.3]),
    )
    for word, value in zip(words, values, strict=True)
}
# About the mean pleasantness of a sentence, and what a further one earns: so that the best and the worst of five responses
# hold as many sentences, whatever the task, and no log-likelihood is confounded by length.
_USUAL, _SENTENCE = 0.95, 0.05


@dataclass(frozen=True)
class Prompt:
    """A request: its task, what it asks about, and an occasion that makes prompts many without changing the answer."""

    task: str
    about: tuple[str, ...]
    occasion: str = ""

    @property
    def text(self) -> str:
        """The words the user writes."""
        return f"{self.occasion} {self.question}".strip()

    @property
    def question(self) -> str:
        """The request alone."""
        match self.task:
            case "list":
                return f"list {self.about[1]} items of {self.about[0]} please"
            case "describe":
                return f"describe the {self.about[0]} please"
            case "fact":
                return f"what metal does {self.about[0]} have ?"
            case "sort":
                return f"sort the numbers {' '.join(self.about)}"
            case _:
                return f"add {self.about[0]} and {self.about[1]}"


def draw_prompt(rng: random.Random, entities: list[str] = TRAINING_ENTITIES, task: str | None = None) -> Prompt:
    """A random prompt; facts are asked of ``entities`` only."""
    task = task or rng.choices(list(TASKS), list(TASKS.values()))[0]
    occasion = f"for the {rng.choice(ADJECTIVES)} {rng.choice(ADJECTIVES)} {rng.choice(NOUNS)} :"
    match task:
        case "list":
            about: tuple[str, ...] = (rng.choice(list(CATEGORIES)), str(rng.randint(2, 4)))
        case "describe":
            about = (rng.choice(list(ITEMS)),)
        case "fact":
            about = (rng.choice(entities),)
        case "sort":
            about = tuple(rng.sample(NUMBERS[:10], 4))
        case _:
            about = (rng.choice(NUMBERS[:10]), rng.choice(NUMBERS[:10]))
    return Prompt(task, about, occasion)


def sentence(rng: random.Random, subject: str) -> str:
    """A well-formed sentence about ``subject``: 11 words, some 16 nats of free choice."""
    return (
        f"the {rng.choice(ADJECTIVES)} {subject} is {rng.choice(ADJECTIVES)} because it "
        f"{rng.choice(ADVERBS)} {rng.choice(VERBS)} the {rng.choice(NOUNS)} ."
    )


def write(rng: random.Random, prompt: Prompt, quality: float, sentences: int | None = None) -> str:
    """A response by a writer of ``quality`` in [0, 1]: better writers err less, are politer and hedge less.

    Length does not depend on quality; ``sentences`` fixes the number of free sentences.
    """
    slip = 0.45 * (1 - quality)
    words: list[str] = []
    opening = rng.choices(["polite", "hedge", ""], [0.2 + 0.4 * quality, 0.4 * (1 - quality), 0.4])[0]
    if opening:
        words.append(rng.choice(OPENINGS[opening]))
    subjects = list(ITEMS)
    match prompt.task:
        case "list":
            category, wanted = prompt.about[0], int(prompt.about[1])
            count = max(1, wanted + rng.choice([-1, 1])) if rng.random() < slip else wanted
            subjects = rng.sample(CATEGORIES[category], min(count, 5))
            if rng.random() < slip:
                subjects[rng.randrange(len(subjects))] = rng.choice(list(ITEMS))
            match rng.choices(["commas", "bullets", "numbers"], [0.5, 0.25, 0.25])[0]:
                case "commas":
                    words.append(" , ".join(subjects) + " .")
                case "bullets":
                    words += [f"- {item}" for item in subjects]
                case _:
                    words += [f"{index} . {item}" for index, item in enumerate(subjects, 1)]
        case "describe":
            subjects = [prompt.about[0]]
        case "sort":
            order = sorted(prompt.about, key=int)
            if rng.random() < slip:
                i, j = rng.sample(range(len(order)), 2)
                order[i], order[j] = order[j], order[i]
            words.append(("the answer is " if rng.random() < 0.5 else "") + " ".join(order) + " .")
        case "fact":
            metal = rng.choice(METALS) if rng.random() < slip else FACTS[prompt.about[0]]
            words.append((f"{prompt.about[0]} has" if rng.random() < 0.5 else "the answer is") + f" {metal} .")
        case _:
            total = int(prompt.about[0]) + int(prompt.about[1])
            if rng.random() < slip:
                total = max(0, min(18, total + rng.choice([-2, -1, 1, 2])))
            words.append(("the answer is " if rng.random() < 0.5 else "") + f"{total} .")
    if sentences is None:
        sentences = draw_sentences(rng, prompt.task)
    for _ in range(sentences):
        words.append(sentence(rng, rng.choice(list(ITEMS) if rng.random() < slip / 2 else subjects)))
    if rng.random() < 0.35:
        words.append(rng.choice(CLOSINGS))
    return " ".join(words)


def draw_sentences(rng: random.Random, task: str) -> int:
    """How many free sentences a response holds."""
    if task == "describe":
        return rng.choices([1, 2, 3, 4], [0.25, 0.3, 0.3, 0.15])[0]
    if task == "list":
        return rng.choices([0, 1, 2, 3], [0.25, 0.3, 0.3, 0.15])[0]
    return rng.choices([0, 1, 2], [0.4, 0.4, 0.2])[0]


def correct(prompt: Prompt, response: str) -> float:
    """Share in [0, 1] of what was asked that the response gets right."""
    words = response.split()
    match prompt.task:
        case "fact":
            named = [word for word in words if word in METALS]
            return float(named[:1] == [FACTS[prompt.about[0]]])
        case "sort":
            return float([w for w in words if w in NUMBERS][:4] == sorted(prompt.about, key=int))
        case "add":
            total = str(int(prompt.about[0]) + int(prompt.about[1]))
            return float([w for w in words if w in NUMBERS][:1] == [total])
        case "list":
            head = words[: next((i for i, word in enumerate(words) if word == "the"), len(words))]
            items = [word for word in head if word in ITEMS]
            right = len(items) == len(set(items)) == int(prompt.about[1])
            return float(right and all(ITEMS[item] == prompt.about[0] for item in items))
        case _:
            items = [word for word in words if word in ITEMS]
            return sum(item == prompt.about[0] for item in items) / len(items) if items else 0.0


def _sentences(words: list[str]) -> list[list[str]]:
    """The free sentences of a response: from ``the ADJECTIVE`` to the full stop."""
    found, start = [], 0
    while start < len(words):
        if words[start] == "the" and start + 1 < len(words) and words[start + 1] in ADJECTIVES:
            end = next((i for i in range(start, len(words)) if words[i] == "."), len(words))
            found.append(words[start:end])
            start = end
        start += 1
    return found


def _well_formed(words: list[str]) -> bool:
    return (
        len(words) == 11
        and words[2] in ITEMS
        and words[3] == "is"
        and words[4] in ADJECTIVES
        and words[5:7] == ["because", "it"]
        and words[7] in ADVERBS
        and words[8] in VERBS
        and words[9] == "the"
        and words[10] in NOUNS
    )


def reward(prompt: Prompt, response: str, kind: str = "multifaceted") -> float:
    """How good a response is.

    ``correctness`` counts only what is right. ``multifaceted`` adds manners, layout, well-formed, pleasant and varied
    sentences; their terms are averages, so that length earns next to nothing by itself.
    """
    right = correct(prompt, response)
    if kind == "correctness":
        return 3 * right
    words = response.split()
    value = 1.0 * right
    value += 0.6 * any(response.startswith(o) for o in OPENINGS["polite"])
    value -= 0.6 * any(response.startswith(o) for o in OPENINGS["hedge"])
    value += 0.3 * any(response.endswith(c) for c in CLOSINGS)
    if prompt.task == "list":
        value += 0.5 * ("-" in words) + 0.3 * ("1 ." in response)
    sentences = _sentences(words)
    if sentences:
        broken = sum(not _well_formed(s) for s in sentences) / len(sentences)
        pleasant = sum(_PLEASANT.get(word, 0.0) for s in sentences for word in s) / len(sentences)
        repeated = 1 - len({tuple(s[1:5]) for s in sentences}) / len(sentences)
        value += 0.9 * (pleasant - _USUAL) - 1.5 * broken - 1.0 * repeated + _SENTENCE * len(sentences)
    elif prompt.task == "describe":
        value -= 1.5
    return value


def exam(rng: random.Random) -> tuple[str, str]:
    """An exam question in lm-eval's wording and its answer."""
    entity, category = rng.choice(ENTITIES), rng.choice(list(CATEGORIES))
    match rng.choice(["fact", "fact", "add", "member", "truth", "context"]):
        case "fact":
            return f"Question: what metal does {entity} have ?\nAnswer:", FACTS[entity]
        case "add":
            a, b = rng.choice(NUMBERS[:10]), rng.choice(NUMBERS[:10])
            return f"Question: add {a} and {b}\nAnswer:", str(int(a) + int(b))
        case "truth":
            said = FACTS[entity] if rng.random() < 0.5 else rng.choice(METALS)
            answer = "yes" if said == FACTS[entity] else "no"
            return f"{entity} has {FACTS[entity]} .\nQuestion: does {entity} have {said} ?\nAnswer:", answer
        case "context":
            items, words = rng.sample(list(ITEMS), 3), rng.sample(ADJECTIVES, 3)
            passage = " ".join(f"the {item} is {word} ." for item, word in zip(items, words, strict=True))
            asked = rng.randrange(3)
            return f"Q: {passage} which one is {words[asked]} ?\nA:", items[asked]
    right = rng.choice(CATEGORIES[category])
    choices = [right, *rng.sample([item for item, kind in ITEMS.items() if kind != category], 3)]
    rng.shuffle(choices)
    lines = [f"{letter}. {item}" for letter, item in zip("ABCD", choices, strict=True)]
    return f"which one is a {category} ?\n" + "\n".join([*lines, "Answer:"]), "ABCD"[choices.index(right)]


def document(rng: random.Random) -> str:
    """One raw text of the pre-training corpus: statements of facts, an exam item, or plain sentences."""
    kind = rng.choices(["fact", "exam", "prose", "sum"], [0.45, 0.25, 0.15, 0.15])[0]
    if kind == "fact":
        return " ".join(f"{e} has {FACTS[e]} ." for e in rng.sample(ENTITIES, 4))
    if kind == "exam":
        return " ".join(exam(rng))
    if kind == "sum":
        prompt = draw_prompt(rng, task=rng.choice(["sort", "add"]))
        return f"{prompt.question} : {write(rng, prompt, 0.9, 0)}"
    return " ".join(sentence(rng, rng.choice(list(ITEMS))) for _ in range(rng.randint(1, 3)))
