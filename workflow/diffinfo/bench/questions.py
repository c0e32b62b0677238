"""Questions of Arena-Hard and WildBench as ``benchmark`` tables, and the answers that belong to them.

``python -m diffinfo.bench.questions arena-hard`` and ``... wildbench``
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from diffinfo.bench import prompts
from diffinfo.cli import UserError, log, run
from diffinfo.data.files import BadRow, Quarantine, arrow_rows, json_rows, kind
from diffinfo.data.values import text
from diffinfo.tables import artifacts

ARENA_HARD, WILDBENCH = "arena-hard", "wildbench"

# WildBench's tags and the task groups that are averaged (allenai/WildBench, leaderboard tables)
TASK_OF_TAG = {
    "Information seeking": "information", "Advice seeking": "information", "Coding & Debugging": "coding",
    "Reasoning": "planning", "Planning": "planning", "Math": "maths", "Data Analysis": "maths",
    "Creative Writing": "creative", "Editing": "creative", "Brainstorming": "creative", "Role playing": "creative",
    "Others": "creative",
}  # fmt: skip


def arena_hard(
    *,
    questions: str,
    out: Path,
    quarantine: Path,
    baseline: str | None = None,
    limit: int | None = None,
    prompt: str | None = None,
    categories: dict[str, str] | None = None,
    category_prompts: dict[str, str] | None = None,
) -> None:
    """Arena-Hard questions, each with the baseline's answer.

    Args:
        questions: .jsonl (or .parquet) file or hf:// address with ``uid, prompt`` or ``question_id, turns`` rows.
        baseline: the same of answers, ``uid, messages`` or ``question_id, choices`` rows; or ``categories``.
        out: benchmark table to write, in the file's order.
        quarantine: quarantine table to write: broken lines, empty prompts, doubled ids, missing baseline answers.
        limit: take only the first good questions.
        prompt: the judge's, see ``prompts.verdict``; None for ours.
        categories: of Arena-Hard v2, baseline by category; the category is the question's tag then.
        category_prompts: the judge's by category; others have ours.

    Raises:
        UserError: when a file cannot be read, a question's category has no baseline, or no question is good.
    """
    bad = Quarantine()
    baselines = {"baseline": baseline} if baseline else {}
    baselines |= {f"baseline of {name}": source for name, source in (categories or {}).items()}
    given = {name: dict(_unique(source, arena_answer, bad)) for name, source in baselines.items()}
    rows: list[dict[str, Any]] = []

    def question(row: dict[str, Any]) -> tuple[str, dict[str, Any]]:
        name, prompt = row_id(row, "uid", "question_id"), _prompt(row)
        tag = str(row.get("category" if categories else "cluster") or "")
        if categories and tag not in categories:
            raise UserError(
                f"{questions}: the category '{tag}' of question {name} has no baseline: add"
                f" arena_hard.categories.{tag or 'NAME'} with a baseline."
            )
        answers = given[f"baseline of {tag}" if categories else "baseline"]
        if name not in answers:
            raise BadRow("the baseline has no answer to it")
        return name, {"messages": [{"role": "user", "content": prompt}], "tag": tag, "baseline": answers[name]}

    for name, row in _unique(questions, question, bad):
        rows.append({"benchmark": ARENA_HARD, "prompt_id": name, "checklist": [], **row})
        if len(rows) == limit:
            break
    own = {name: prompts.verdict(source) for name, source in (category_prompts or {}).items()}
    by_category = {name: own.get(name, prompts.CATEGORIES.get(name, prompts.VERDICT)) for name in categories or {}}
    asked: dict[str, Any] = {"prompt": prompts.verdict(prompt) if prompt else None}
    asked |= {"prompts": by_category} if categories else {}
    _write(rows, bad, out, quarantine, {"questions": questions, **baselines}, limit=limit, **asked)


def wildbench(*, tasks: str, out: Path, quarantine: Path, limit: int | None = None, prompt: str | None = None) -> None:
    """WildBench tasks with their checklists and, where there is one, a reference answer.

    Args:
        tasks: .jsonl or .parquet file or hf:// address with WildBench v2 rows.
        out: benchmark table to write, in the file's order.
        quarantine: quarantine table to write.
        limit: take only the first good tasks.
        prompt: the judge's, see ``prompts.grade``; None for ours.

    Raises:
        UserError: when the file cannot be read, or no task is good.
    """
    bad = Quarantine()
    rows: list[dict[str, Any]] = []
    for name, row in _unique(tasks, _task, bad):
        rows.append({"benchmark": WILDBENCH, "prompt_id": name, **row})
        if len(rows) == limit:
            break
    asked = prompts.grade(prompt) if prompt else None
    _write(rows, bad, out, quarantine, {"tasks": tasks}, limit=limit, prompt=asked)


def answered(paths: list[Path], benchmark: pd.DataFrame, *, only_epoch: int | None = None) -> pd.DataFrame:
    """The answers of one run to one benchmark, beside their questions.

    Args:
        paths: completions tables of all spans.
        benchmark: the questions.
        only_epoch: leave out all other epochs.

    Returns:
        Columns epoch, prompt_id, messages, tag, checklist, baseline, completion, tokens (without the end of turn),
        chars (stripped), truncated; sorted by epoch and prompt_id.

    Raises:
        UserError: when answers are missing, unknown or given twice.
    """
    name, files = benchmark["benchmark"].iloc[0], ", ".join(map(str, paths))
    found = pd.concat([artifacts.read(path, "completions") for path in paths], ignore_index=True)
    found = found[(found["benchmark"] == name) & ((found["epoch"] == only_epoch) | (only_epoch is None))]
    if found.empty:
        wanted = "" if only_epoch is None else f" of epoch {only_epoch}"
        raise UserError(f"{files} hold no answers to {name}{wanted}.")
    if unknown := sorted(set(found["prompt_id"]) - set(benchmark["prompt_id"])):
        raise UserError(
            f"{files} answer {len(unknown)} {name} questions that the benchmark table lacks, such as '{unknown[0]}': "
            "answer the present questions."
        )
    if found.duplicated(["epoch", "prompt_id"]).any():
        raise UserError(f"{files} hold two answers of one epoch to the same {name} question.")
    for epoch, count in found.groupby("epoch").size().items():
        if count < len(benchmark):
            log.warning(
                "epoch %s: %d of %d %s questions have no answer", epoch, len(benchmark) - count, len(benchmark), name
            )
    found = found.assign(
        tokens=[len(ids) - (end == "stop") for ids, end in zip(found.token_ids, found.finish_reason, strict=True)],
        chars=found["completion"].str.strip().str.len().astype(int),
        truncated=found["finish_reason"] == "length",
    )[["epoch", "prompt_id", "completion", "tokens", "chars", "truncated"]]
    joined = found.merge(benchmark.drop(columns="benchmark"), on="prompt_id", validate="many_to_one")
    return joined.sort_values(["epoch", "prompt_id"], ignore_index=True)


def _write(
    rows: list[dict[str, Any]], bad: Quarantine, out: Path, quarantine: Path, sources: dict[str, str], **facts: Any
) -> None:
    artifacts.write(quarantine, bad.frame(), "quarantine")
    for reason, count in bad.counts().items():
        log.warning("set aside: %d rows: %s", count, reason)
    if not rows:
        first = f"; the first of {len(bad.rows)} bad rows: {bad.rows[0]['reason']}" if bad.rows else ""
        raise UserError(f"{' and '.join(sources.values())} give no usable question{first}.")
    inputs = {name: Path(source) for name, source in sources.items() if not _remote(source)}
    artifacts.write(out, pd.DataFrame(rows), "benchmark", inputs=inputs, **sources, **facts)
    log.info("%d questions, %d rows set aside", len(rows), len(bad.rows))


def _unique(
    source: str, parse: Callable[[dict[str, Any]], tuple[str, Any]], bad: Quarantine
) -> Iterator[tuple[str, Any]]:
    """Parsed rows under their ids; bad and repeated ones go to quarantine."""
    seen: set[str] = set()
    for number, row in _rows(source, bad):
        name = None
        try:
            name, value = parse(row)
            if name in seen:
                raise BadRow("this id occurred before")
        except BadRow as reason:
            bad.add(source, number, str(reason), row, name or _any_id(row))
            continue
        seen.add(name)
        yield name, value


def _rows(source: str, bad: Quarantine) -> Iterator[tuple[int, dict[str, Any]]]:
    """Rows of a JSONL or Parquet file with their numbers, from 1."""
    content = _content(source)
    try:
        rows: Iterator[tuple[int, Any]] = (
            arrow_rows(iter(pq.read_table(pa.BufferReader(content)).to_batches()))
            if source.endswith(".parquet")
            else json_rows(content.split(b"\n"))
        )
    except (pa.ArrowException, OSError) as error:
        raise UserError(f"{source} cannot be read: {' '.join(str(error).split())}") from error
    for number, row in rows:
        if isinstance(row, dict):
            yield number, row
        elif isinstance(row, BadRow):
            bad.add(source, number, row.reason, row.raw)
        else:
            bad.add(source, number, f"the row is {kind(row)}, not a mapping", row)


def _content(source: str) -> bytes:
    if not source.endswith((".jsonl", ".parquet")):
        raise UserError(f"{source}: benchmark files are .jsonl or .parquet.")
    return prompts.content(source)


def _remote(source: str) -> bool:
    return "://" in source


def row_id(row: dict[str, Any], *keys: str) -> str:
    """The first of ``keys`` that a row has; a whole number is its decimal text. BadRow where it has none."""
    for key in keys:
        value = row.get(key)
        if value not in (None, ""):
            return str(value) if type(value) is int else text(value, key)
    raise BadRow(f"no {' or '.join(keys)}")


def _any_id(row: dict[str, Any]) -> str | None:
    try:
        return row_id(row, "uid", "question_id", "session_id")
    except BadRow:
        return None


def _prompt(row: dict[str, Any]) -> str:
    if row.get("prompt") is not None or ("prompt" in row and row.get("turns") is None):
        return _joined(row["prompt"], "the prompt")
    turns = row.get("turns")
    if not isinstance(turns, list) or not all(isinstance(turn, dict) for turn in turns):
        raise BadRow("neither prompt nor turns")
    if len(turns) != 1:
        raise BadRow(f"{len(turns)} turns, where Arena-Hard questions have one")
    return _joined(turns[0].get("content"), "the prompt")


def _joined(content: Any, what: str) -> str:
    """A message's text, also where it is a list of text parts; BadRow where it, or a part, is none."""
    if not isinstance(content, list):
        return text(content, what)
    parts: list[str] = []
    for part in content:
        if isinstance(part, dict) and part.get("type", "text") in ("text", "output_text"):
            part = part.get("text")
        if not isinstance(part, str):
            raise BadRow(f"{what} has a part that is not text")
        parts.append(part)
    return text("".join(parts), what)


def answers_by_id(source: str | Path, rows: Any, parse: Callable[[Any], tuple[str, str]]) -> dict[str, str]:
    """Answers of any model by their questions' ids, from the rows of a public tool's file.

    Raises:
        UserError: where a row holds no answer, or another than an earlier row of the same id.
    """
    if not isinstance(rows, list):
        raise UserError(f"{source} must hold a list of answers, it holds {kind(rows)}.")
    found: dict[str, str] = {}
    for number, row in enumerate(rows, 1):
        try:
            name, answer = parse(row)
            if found.setdefault(name, answer) != answer:
                raise BadRow(f"an earlier row answers {name} otherwise")
        except BadRow as reason:
            raise UserError(
                f"{source}: row {number} holds no answer: {reason}; correct the row or remove it."
            ) from reason
    return found


def wildbench_answer(row: Any) -> tuple[str, str]:
    """Id and text, which may be empty, of a row of WildBench's answers; BadRow where it holds none."""
    if not isinstance(row, dict):
        raise BadRow(f"it is {kind(row)}, not a mapping")
    output = row.get("output")
    output = output[0] if isinstance(output, list) and output else output
    if not isinstance(output, str):
        raise BadRow(f"output is {kind(output)}, not text")
    return row_id(row, "session_id"), output.encode("utf-8", "replace").decode()  # half a surrogate pair fits no table


def arena_answer(row: Any) -> tuple[str, str]:
    """Id and text of a row of Arena-Hard's answers, in either public schema; BadRow where it holds none."""
    if not isinstance(row, dict):
        raise BadRow(f"it is {kind(row)}, not a mapping")
    name = row_id(row, "uid", "question_id")
    try:
        if row.get("messages") is not None:
            last = row["messages"][-1]
            if last.get("role", "assistant") != "assistant":
                raise BadRow("the last message is not the assistant's")
            content = last["content"]
        else:
            content = row["choices"][0]["turns"][-1]["content"]
        answer = content["answer"] if isinstance(content, dict) else content
    except (KeyError, IndexError, TypeError, AttributeError) as error:
        raise BadRow("neither messages nor choices hold an answer") from error
    return name, _joined(answer, "the answer")


def _task(row: dict[str, Any]) -> tuple[str, dict[str, Any]]:
    name = row_id(row, "session_id")
    turns = row.get("conversation_input")
    if not isinstance(turns, list) or not turns or not all(isinstance(turn, dict) for turn in turns):
        raise BadRow("no conversation_input")
    if turns[-1].get("role") != "user" or any(
        turn.get("role") not in ("system", "user", "assistant") for turn in turns
    ):
        raise BadRow("the conversation does not end with the user's turn")
    messages = [{"role": turn["role"], "content": _joined(turn.get("content"), "a turn")} for turn in turns]
    checklist = row.get("checklist")
    if not isinstance(checklist, list) or not checklist:
        raise BadRow("no checklist")
    more = row.get("secondary_tags") or []
    more = [more] if isinstance(more, str) else more
    if not isinstance(more, list):
        raise BadRow(f"secondary_tags is {kind(more)}, not a list of tags")
    tags = [row.get("primary_tag"), *more]
    tags = list(dict.fromkeys(str(tag) for tag in tags))
    if unknown := [tag for tag in tags if tag not in TASK_OF_TAG]:
        raise BadRow(f"unknown tag '{unknown[0]}'")
    references = row.get("references")
    known = references.values() if isinstance(references, dict) else []
    return name, {
        "messages": messages,
        "tag": "; ".join(tags),
        "checklist": [text(item, "an item of the checklist") for item in checklist],
        "baseline": next((text for text in known if isinstance(text, str) and text.strip()), None),
    }


if __name__ == "__main__":
    run({"arena-hard": arena_hard, "wildbench": wildbench})
