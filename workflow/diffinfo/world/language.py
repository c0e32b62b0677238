"""A small instruction language: prompts, writers of every quality, and two rewards that rank what they write.

Words are separated by one space. Five tasks: ``list`` and ``describe`` have many good answers of different style;
``fact``, ``sort`` and ``add`` have one right answer. A prompt says how many free sentences it wants, and every writer obeys:
all that writers answer to one prompt has the same number of words, so that no log-likelihood of theirs is length. Everything
is drawn from the ``random.Random`` passed in.
"""

from __future__ import annotations

import random
import re
from dataclasses import dataclass, replace

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

OPENINGS = {  # three words each
    "polite": ["sure thing !", "of course :", "here you go", "great question !"],
    "hedge": ["well , maybe", "i think maybe", "not sure ,"],
    "plain": ["in short :", "as asked :"],
}
CLOSINGS = {  # four words each
    "friendly": ["hope this helps !", "let me know .", "thanks , bye !"],
    "plain": ["that is all .", "end of answer ."],
}
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
    "sentences",
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
_GLUE = " ".join([text for kinds in (OPENINGS, CLOSINGS) for texts in kinds.values() for text in texts]).split()
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
            *[".", ",", ":", "!", "?", "-"],
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

SCALE = 3.0  # of the reward where it judges: a difference of one unit is a clear one


@dataclass(frozen=True)
class Prompt:
    """A request: its task, what it asks about, how many free sentences it wants beside the answer, and an occasion.

    The occasion makes prompts many without changing the answer.
    """

    task: str
    about: tuple[str, ...]
    sentences: int = 0
    occasion: str = ""

    @property
    def text(self) -> str:
        """The words the user writes."""
        return f"{self.occasion} in {self.sentences} sentences : {self.question}".strip()

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


_PROMPT = re.compile(r"(?:(for the \w+ \w+ \w+) )?in (\d+) sentences : (.+)")
_QUESTIONS = {
    "list": (r"list (\d+) items of (\w+) please", (2, 1)),
    "describe": (r"describe the (\w+) please", (1,)),
    "fact": (r"what metal does (\w+) have \?", (1,)),
    "sort": (r"sort the numbers (\d+) (\d+) (\d+) (\d+)", (1, 2, 3, 4)),
    "add": (r"add (\d+) and (\d+)", (1, 2)),
}


def parse(text: str) -> Prompt:
    """The prompt whose ``text`` this is, so that the reward of any answer to it can be computed.

    Raises:
        ValueError: when it is not a prompt of the language.
    """
    if whole := _PROMPT.fullmatch(text):
        for task, (form, groups) in _QUESTIONS.items():
            if found := re.fullmatch(form, whole[3]):
                return Prompt(task, tuple(found[group] for group in groups), int(whole[2]), whole[1] or "")
    raise ValueError(f"not a prompt of the micro world: {text[:80]!r}")


def draw_prompt(rng: random.Random, entities: list[str] = TRAINING_ENTITIES, task: str | None = None) -> Prompt:
    """A random prompt; facts are asked of ``entities`` only."""
    task = task or rng.choices(list(TASKS), list(TASKS.values()))[0]
    occasion = f"for the {rng.choice(ADJECTIVES)} {rng.choice(ADJECTIVES)} {rng.choice(NOUNS)}"
    free = rng.choice([1, 2, 3] if task in ("list", "describe") else [0, 1, 2])
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
    return Prompt(task, about, free, occasion)


def sentence(rng: random.Random, subject: str) -> str:
    """A well-formed sentence about ``subject``: 11 words, some 16 nats of free choice."""
    return (
        f"the {rng.choice(ADJECTIVES)} {subject} is {rng.choice(ADJECTIVES)} because it "
        f"{rng.choice(ADVERBS)} {rng.choice(VERBS)} the {rng.choice(NOUNS)} ."
    )


def write(rng: random.Random, prompt: Prompt, quality: float) -> str:
    """A response by a writer of ``quality`` in [0, 1]: better writers err less, are politer and hedge less.

    All responses to a prompt have the same number of words.
    """
    slip = 0.45 * (1 - quality)
    opening = rng.choices(list(OPENINGS), [0.2 + 0.4 * quality, 0.4 * (1 - quality), 0.4])[0]
    words = [rng.choice(OPENINGS[opening])]
    subjects = list(ITEMS)
    match prompt.task:
        case "list":
            subjects = rng.sample(CATEGORIES[prompt.about[0]], int(prompt.about[1]))
            if rng.random() < slip:  # the same item twice
                subjects[0] = subjects[-1]
            if rng.random() < slip:
                subjects[rng.randrange(len(subjects))] = rng.choice(list(ITEMS))
            match rng.choices(["commas", "bullets", "numbers"], [0.5, 0.25, 0.25])[0]:
                case "commas":
                    words.append(" , ".join(subjects) + " .")
                case "bullets":
                    words += [f"- {item}" for item in subjects]
                case _:
                    words += [f"{index} {item}" for index, item in enumerate(subjects, 1)]
        case "describe":
            subjects = [prompt.about[0]]
        case "sort":
            order = sorted(prompt.about, key=int)
            if rng.random() < slip:
                i, j = rng.sample(range(len(order)), 2)
                order[i], order[j] = order[j], order[i]
            words.append(rng.choice(["it is", "answer :"]) + f" {' '.join(order)} .")
        case "fact":
            metal = rng.choice(METALS) if rng.random() < slip else FACTS[prompt.about[0]]
            words.append(rng.choice([f"{prompt.about[0]} has", "it is"]) + f" {metal} .")
        case _:
            total = int(prompt.about[0]) + int(prompt.about[1])
            if rng.random() < slip:
                total = max(0, min(18, total + rng.choice([-2, -1, 1, 2])))
            words.append(rng.choice(["it is", "answer :"]) + f" {total} .")
    for _ in range(prompt.sentences):
        words.append(sentence(rng, rng.choice(list(ITEMS) if rng.random() < slip / 2 else subjects)))
    words.append(rng.choice(CLOSINGS["friendly" if rng.random() < 0.35 else "plain"]))
    return " ".join(words)


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

    ``correctness`` counts only what is right, twice: so labels of both kinds agree with their reward about as often.
    ``multifaceted`` adds manners, layout, well-formed, pleasant and varied sentences; their terms are averages, so that
    length earns nothing by itself. Finite for any response.
    """
    right = correct(prompt, response)
    if kind == "correctness":
        return 2 * right
    words = response.split()
    value = 1.0 * right
    value += 0.6 * any(response.startswith(o) for o in OPENINGS["polite"])
    value -= 0.6 * any(response.startswith(o) for o in OPENINGS["hedge"])
    value += 0.3 * any(response.endswith(c) for c in CLOSINGS["friendly"])
    if prompt.task == "list":
        value += 0.5 * ("-" in words) + 0.3 * ("1" in words)
    sentences = _sentences(words)
    if sentences:
        broken = sum(not _well_formed(s) for s in sentences) / len(sentences)
        pleasant = sum(_PLEASANT.get(word, 0.0) for s in sentences for word in s) / len(sentences)
        repeated = 1 - len({tuple(s[1:5]) for s in sentences}) / len(sentences)
        value += 0.9 * pleasant - 1.5 * broken - 1.0 * repeated
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
        prompt = replace(draw_prompt(rng, task=rng.choice(["sort", "add"])), sentences=0)
        return f"{prompt.question} : {write(rng, prompt, 0.9)}"
    return " ".join(sentence(rng, rng.choice(list(ITEMS))) for _ in range(rng.randint(1, 3)))
