"""Public preference or prompt datasets into tables: bad rows quarantined, test prompts held out, overlaps dropped.

``python -m diffinfo.data.ingest``

Of each row that is read (at most ``limit``, in source order) the first of these that applies decides its fate: a fault of
its own (``diffinfo.data.rows``), a prompt that a disjoint dataset holds, a prompt seen before (``repeats``), a prompt that is
held out. Prompts are the same where they are written the same. Held out, or in a disjoint dataset, is more: also what differs
in case and white space alone. A prompt whose id another has, as where ids restart in each part, gets a digest for its id.
"""

from __future__ import annotations

import itertools
from collections import Counter
from dataclasses import replace
from pathlib import Path

import pandas as pd

from diffinfo.cli import UserError, log, progress, run
from diffinfo.config import local
from diffinfo.config.types import Dataset
from diffinfo.data import preference, rows
from diffinfo.data.files import BadRow, Quarantine, Source
from diffinfo.data.rows import Pair
from diffinfo.data.sources import open_source, require
from diffinfo.tables import artifacts
from diffinfo.tables.cards import dataset_card

Group = list[Pair]  # the pairs of one prompt


class _Prompts:
    """The pairs of each prompt, in the order in which prompts were met."""

    def __init__(self, foreign: dict[str, str], repeats: str, taken: set[str]) -> None:
        self.foreign = foreign  # what the user said: the dataset that holds it
        self.repeats = repeats
        self.ids = taken
        self.clashes = 0  # prompts whose id another has
        self.groups: dict[str, Group] = {}

    def add(self, pair: Pair) -> tuple[str, Pair] | None:
        """Note a pair; or say why one is left out, and which."""
        if name := self.foreign.get(rows.asked(pair.messages)):
            return f"also in {name}", pair
        history = rows.whole(pair.messages)
        group = self.groups.get(history)
        if group is None:
            if pair.prompt_id in self.ids:
                pair = replace(pair, prompt_id=artifacts.digest(history))
                self.clashes += 1
            self.ids.add(pair.prompt_id)
            self.groups[history] = [pair]
        elif self.repeats == "first":
            return "the prompt occurred before", pair
        elif self.repeats == "widest":
            group.append(replace(pair, prompt_id=group[0].prompt_id))
            return "another pair of the prompt differs more in score", group.pop(_widest(group) == 0)
        elif (pair.chosen, pair.rejected) in [(other.chosen, other.rejected) for other in group]:
            return "the pair occurred before", pair
        else:
            group.append(replace(pair, prompt_id=f"{group[0].prompt_id}#{len(group) + 1}"))
        return None


def _widest(pairs: Group) -> int:
    """Which pair's scores differ most: the first of equals; a pair without scores comes last."""
    margins = [
        -1.0 if p.chosen_score is None or p.rejected_score is None else p.chosen_score - p.rejected_score for p in pairs
    ]
    return margins.index(max(margins))


def held_out(good: int, wanted: int) -> int:
    """How many of ``good`` prompts are test prompts: ``wanted``, or a fifth (at least one) where there are no more."""
    return wanted if good > wanted else max(1, good // 5)


def main(
    *,
    dataset: str,
    spec: Dataset,
    source: str,
    prompts: Path,
    test_prompts: Path,
    quarantine: Path,
    preferences: Path | None = None,
    heldout: Path | None = None,
    disjoint_from: list[Path] = [],  # noqa: B006 (never changed; the command line shows it)
) -> None:
    """Read a dataset.

    Test prompts are the first good ones of ``spec.test_split`` or the last good ones of ``spec.split``. They are
    ``spec.test_prompts`` in number; a split that has no more good ones than that gives a fifth of them, at least one.
    Several pairs of a prompt stand together; the second has the id of the prompt with "#2".
    Public sets do not say whether a response was cut, so the pairs' ``truncated`` flags are false.

    Args:
        dataset: the dataset's key in the configuration.
        spec: its entry there.
        source: a .parquet, .json or .jsonl file, a folder of such files, or a hub id.
        prompts: table of training prompts to write, in source order.
        test_prompts: table of held-out prompts to write.
        quarantine: table of rows left out to write, each with its row number (from 1), reason and excerpt.
        preferences: table of training pairs to write, in the order of ``prompts``; not for format "prompts".
        heldout: the same of ``test_prompts``: pairs that are never trained on.
        disjoint_from: prompts tables whose prompts are dropped here.

    Raises:
        UserError: when the source cannot be read, lacks a column, or leaves no row to train on.
    """
    if {preferences is None, heldout is None} != {spec.format == "prompts"}:
        wrong = "cannot be written" if spec.format == "prompts" else "are needed"
        raise UserError(
            f"datasets.{dataset}.format = {spec.format}: --preferences and --heldout {wrong} for this format."
        )
    left_out = Quarantine()
    foreign = _foreign(disjoint_from)

    def read(split: str, limit: int | None, enough: int | None, others: list[Group]) -> tuple[str, list[Group]]:
        columns = preference.wanted(spec.columns) if spec.format == "preference" else rows.COLUMNS[str(spec.format)]
        opened = open_source(dataset, spec, source, split, columns)
        found = _Prompts(foreign, spec.repeats, {group[0].prompt_id for group in others})
        return opened.name, _good(opened, dataset, spec, limit, enough, left_out, found)

    test: list[Group] = []
    if spec.test_split is not None:
        _, test = read(spec.test_split, None, spec.test_prompts, [])
    name, train = read(spec.split, spec.limit, None, test)
    if spec.test_split is None:
        if len(train) < 2:
            worst = next((f" Left out: {count} x {why}." for why, count in left_out.counts().items()), "")
            raise UserError(
                f"{name} holds one good row for datasets.{dataset}: to train and to hold out takes two.{worst}"
            )
        first = len(train) - held_out(len(train), spec.test_prompts)
        train, test = train[:first], train[first:]
    if len(test) < spec.test_prompts:
        log.warning("%s: %d prompts are held out, fewer than test_prompts = %d", dataset, len(test), spec.test_prompts)
    asked = {rows.asked(group[0].messages) for group in test}
    kept = []
    for group in train:
        if rows.asked(group[0].messages) in asked:
            for pair in group:
                left_out.add(name, pair.row, "also a held-out test prompt", _shown(pair), pair.prompt_id)
        else:
            kept.append(group)
    train = kept
    if not train:
        raise UserError(f"{name}: every training prompt is a held-out test prompt too.")
    _report(dataset, train, test, left_out)
    files = [source] if Path(source).exists() else local.files(source)
    inputs = {f"source {index}" if index else "source": Path(file) for index, file in enumerate(files)}
    inputs |= {f"disjoint_from {index}": path for index, path in enumerate(disjoint_from)}
    facts = {"dataset": dataset, "spec": spec.model_dump(), "left_out": left_out.counts()}
    artifacts.write(prompts, _prompts(train, dataset), "prompts", inputs=inputs, **facts)
    artifacts.write(test_prompts, _prompts(test, dataset), "prompts", inputs=inputs, **facts)
    artifacts.write(quarantine, left_out.frame(), "quarantine", inputs=inputs, **facts)
    for path, own in ((preferences, train), (heldout, test)):
        if path is not None:
            table = pd.DataFrame([vars(pair) for group in own for pair in group]).assign(
                chosen_truncated=False, rejected_truncated=False
            )
            artifacts.write(path, table, "preferences", inputs=inputs, **facts)
    remote = None if files or spec.source == "world" else local.address(source)[0]
    dataset_card(prompts.parent, dataset, f"Prompts and preference pairs of {spec.source}.", remote)


def _good(
    source: Source,
    dataset: str,
    spec: Dataset,
    limit: int | None,
    enough: int | None,
    left_out: Quarantine,
    prompts: _Prompts,
) -> list[Group]:
    """The good rows among the first ``limit``, until there are ``enough`` prompts; the others go to ``left_out``."""
    if source.present:
        require(source, dataset, spec)
    before = len(left_out.rows)
    for number, row in progress(itertools.islice(source.rows, limit), f"reading {source.name}"):
        try:
            if isinstance(row, BadRow):
                raise row
            layout = preference.layout(source.present, spec.columns) if spec.format == "preference" else None
            pair = rows.parse(number, row, str(spec.format), layout)
        except BadRow as bad:
            raw = bad.raw if isinstance(row, BadRow) else row
            left_out.add(source.name, number, bad.reason, raw)
            continue
        if left := prompts.add(pair):
            reason, other = left
            left_out.add(source.name, other.row, reason, _shown(other), other.prompt_id)
        elif len(prompts.groups) == enough and spec.repeats == "first":
            break
    if not prompts.groups:
        if source.present:  # the columns of JSON are known only now
            require(source, dataset, spec)
        bad_rows = Counter(row["reason"] for row in left_out.rows[before:])
        reasons = ", ".join(f"{count} x {reason}" for reason, count in bad_rows.most_common()) or "it has no rows"
        raise UserError(f"{source.name} holds no good row for datasets.{dataset}: {reasons}.")
    if prompts.clashes:
        log.warning(
            "%s: %d prompts have the id of another; theirs is a digest of the prompt", source.name, prompts.clashes
        )
    return list(prompts.groups.values())[:enough]


def _foreign(tables: list[Path]) -> dict[str, str]:
    """What users said in other datasets' prompts, and which dataset holds it (the first that does)."""
    held: dict[str, str] = {}
    for path in tables:
        table = artifacts.read(path, "prompts")
        for messages, name in zip(table.messages, table.source, strict=True):
            held.setdefault(rows.asked(messages), name)
    return held


def _prompts(groups: list[Group], dataset: str) -> pd.DataFrame:
    firsts = [group[0] for group in groups]
    return pd.DataFrame([{"prompt_id": p.prompt_id, "messages": p.messages, "source": dataset} for p in firsts])


def _shown(pair: Pair) -> str:
    return pair.messages[-1]["content"]


def _report(dataset: str, train: list[Group], test: list[Group], left_out: Quarantine) -> None:
    log.info(
        "%s: %d prompts to train on, %d held out, %d rows left out", dataset, len(train), len(test), len(left_out.rows)
    )
    for reason, count in left_out.counts().items():
        log.info("%s: %d rows left out: %s", dataset, count, reason)


if __name__ == "__main__":
    run(main)
