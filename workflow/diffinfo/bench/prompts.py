"""What judges are asked: in our words, or in those of the user's copy of the published files."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import fsspec
import yaml

from diffinfo.cli import UserError
from diffinfo.tables import artifacts

_COMPARE = """\
Act as an impartial judge of the answers that two AI assistants, A and B, gave to the user prompt below, and decide \
which answer is better.

First write your own answer to the prompt. Do so before you judge either answer.

Then compare both answers with yours. Point out and correct every mistake and every inaccurate statement.

Next weigh whether the answers are helpful, relevant and concise. Helpful: the answer responds correctly to the prompt \
or follows its instructions; where the prompt is ambiguous or can be read in several ways, asking for clarification is \
more helpful than an answer built on assumptions. Relevant: every part of it belongs to what was asked. Concise: it is \
clear, not wordy or excessive.

Then weigh creativity and novelty where the prompt calls for them. Last, name important information that an answer \
lacks and that the user would have wanted.

After this explanation give exactly one of these labels as your final verdict:

1. Assistant A is significantly better: [[A>>B]]
2. Assistant A is slightly better: [[A>B]]
3. A tie, about the same quality: [[A=B]]
4. Assistant B is slightly better: [[B>A]]
5. Assistant B is significantly better: [[B>>A]]

For example: "My final verdict is a tie: [[A=B]]"."""
_GAME = """\
<|User Prompt|>
{QUESTION}

<|The Start of Assistant A's Answer|>
{ANSWER_A}
<|The End of Assistant A's Answer|>

<|The Start of Assistant B's Answer|>
{ANSWER_B}
<|The End of Assistant B's Answer|>"""

_GRADE = """\
# Instruction

You are an expert evaluator. Your task is to judge the quality of a response that an AI model generated.
You are given the user's query, the conversation before it, and the response.
First read the query and the history with care to understand the task, then judge the response by the rules below.

# Conversation between user and AI

## History
<|begin_of_history|>

{$history}

<|end_of_history|>

## Current user query
<|begin_of_query|>

{$user_query}

<|end_of_query|>

## AI response
<|begin_of_response|>

{$model_output}

<|end_of_response|>

# Evaluation

## Checklist

<|begin_of_checklist|>

{$checklist}

<|end_of_checklist|>

Let this checklist guide your evaluation, but do not limit your assessment to it.

## Rules

Judge the response by your analysis of the query and the history.
First write down your analysis and the checklist that you used, then give your assessment according to the checklist.
Scores go from 1 to 10, where 1 is a very poor response and 10 a perfect one. In detail:

- 1 to 2: very poor, it makes no sense at all.
- 3 to 4: poor, it does not help the user to solve the problem in a meaningful way.
- 5 to 6: fair, with some issues (such as factual errors, hallucinations, missing key information).
- 7 to 8: good enough, but it could be improved in some ways.
- 9 to 10: perfect, it gives helpful information that solves the user's problem.

## Output format

Give your analysis of the response, sum it up as "strengths" and "weaknesses", and then write down your rating.
Reply in this JSON format, with the placeholders in [] filled in:
```
{
    "strengths": "[analysis of the strengths of the response]",
    "weaknesses": "[analysis of the weaknesses of the response]",
    "score": "[1~10]"
}
```"""

_CHOOSE = """\
# Instruction

You are an expert evaluator. Your task is to compare the responses that two AI models generated.
You are given the user's query, the conversation before it, and two responses, A and B.
First read the query and the history with care to understand the task, then compare the responses by the rules below.

# Conversation between user and AI

## History
<|begin_of_history|>

{$history}

<|end_of_history|>

## Current user query
<|begin_of_query|>

{$user_query}

<|end_of_query|>

## Response A
<|begin_of_response_A|>

{$candidate_A}

<|end_of_response_A|>

## Response B
<|begin_of_response_B|>

{$candidate_B}

<|end_of_response_B|>

# Evaluation

## Checklist

<|begin_of_checklist|>

{$checklist}

<|end_of_checklist|>

Let this checklist guide your evaluation, but do not limit your assessment to it.

## Rules

Compare the two responses by your analysis of the query and the history.
First write down your analysis and the checklist that you used, then give your assessment according to the checklist.
Choose one of five labels:

- `A++`: response A is much better than response B.
- `A+`: response A is slightly better than response B.
- `A=B`: both responses are of the same quality. Use this label sparingly.
- `B+`: response B is slightly better than response A.
- `B++`: response B is much better than response A.

## Output format

Give your analysis of each response, then sum up where they are equal and where one is better, then choose.
Reply in this JSON format, with the placeholders in [] filled in:
```
{
    "analysis of A": "[analysis of response A]",
    "analysis of B": "[analysis of response B]",
    "reason of A=B": "[where both responses do equally well]",
    "reason of A>B": "[where response A is better]",
    "reason of B>A": "[where response B is better]",
    "choice": "[A++ or A+ or A=B or B+ or B++]"
}
```"""

GRADE = {"user": _GRADE}
CHOICE = {"user": _CHOOSE}
VERDICT = {"system": _COMPARE, "user": _GAME}
_OWN = _COMPARE[_COMPARE.index("First write") : _COMPARE.index(" Point out")]  # the judge's own answer
_NO_OWN = {"system": _COMPARE.replace(_OWN, "Compare both answers."), "user": _GAME}
CATEGORIES = {"creative_writing": _NO_OWN}  # Arena-Hard v2's with a prompt of its own
# the placeholders of arena-hard-auto at 3071ef9 and of its later versions
_NAMES = {"question_1": "QUESTION", "answer_1": "ANSWER_A", "answer_2": "ANSWER_B"}


def content(source: str) -> bytes:
    """A file's content, here or at an address.

    Raises:
        UserError: when it cannot be read.
    """
    try:
        if "://" not in source:  # fsspec reads brackets and colons in a name as its own
            return Path(source).read_bytes()
        with fsspec.open(source, "rb") as handle:
            found: bytes = handle.read()
    except FileNotFoundError as error:
        raise UserError(f"{source} does not exist.") from error
    except Exception as error:  # transport errors share no base class
        raise UserError(f"{source} cannot be read: {' '.join(str(error).split())}") from error
    return found


def verdict(source: str) -> dict[str, str]:
    """Arena-Hard's instructions and template: ``system_prompt`` and ``prompt_template`` of a YAML file."""
    try:
        found = yaml.safe_load(content(source))
    except yaml.YAMLError as error:
        raise UserError(f"{source} is not YAML: {' '.join(str(error).split())}") from error
    found = found if isinstance(found, dict) else {}
    user = found.get("prompt_template") or _GAME
    user = user[0] if isinstance(user, list) and len(user) == 1 else user
    if not isinstance(found.get("system_prompt"), str) or not isinstance(user, str):
        raise UserError(
            f"{source} holds no system_prompt: it should be arena-hard-auto's config/judge_config.yaml (3071ef9)."
        )
    user = re.sub(r"\{(\w+)\}", lambda name: f"{{{_NAMES.get(name[1], name[1])}}}", user)
    _check(user, ["{QUESTION}", "{ANSWER_A}", "{ANSWER_B}"], source)
    return {"system": found["system_prompt"], "user": user}


def grade(source: str) -> dict[str, str]:
    """WildBench's template, ``evaluation/eval_template.score.v2.md``."""
    return _template(source, "{$model_output}")


def choice(source: str) -> dict[str, str]:
    """WildBench's template for two answers, ``evaluation/eval_template.pairwise.v2.md``."""
    return _template(source, "{$candidate_A}", "{$candidate_B}")


def _template(source: str, *answers: str) -> dict[str, str]:
    text = content(source).decode("utf-8", "replace")
    _check(text, ["{$history}", "{$user_query}", *answers, "{$checklist}"], source)
    return {"user": text}


def _check(text: str, names: list[str], source: str) -> None:
    if lacking := [name for name in names if name not in text]:
        raise UserError(f"{source} has no place for {lacking[0]}: it should be a copy of the published prompt.")


def of(benchmark: Path, ours: dict[str, str]) -> dict[str, str]:
    """The prompt that stands in the footer of a ``benchmark`` table, else ours."""
    found: dict[str, str] | None = artifacts.provenance(benchmark).get("prompt")
    return found or ours


def by_category(benchmark: Path) -> dict[str, dict[str, str]]:
    """The prompts of Arena-Hard v2's categories that stand in the footer of a ``benchmark`` table."""
    found: dict[str, dict[str, str]] = artifacts.provenance(benchmark).get("prompts", {})
    return found


def fill(template: str, texts: dict[str, Any]) -> str:
    """A template with its placeholders replaced, all at once: texts may hold what looks like one."""
    return re.sub("|".join(map(re.escape, texts)), lambda name: str(texts[name[0]]), template)
