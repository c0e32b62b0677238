"""Public preference or prompt datasets into tables: bad rows quarantined, test prompts held out, overlaps dropped.

``python -m diffinfo.data.ingest``

Of each row that is read (at most ``limit``, in source order) the first of these that applies decides its fate: a fault of
its own (``diffinfo.data.rows``), a prompt that a disjoint dataset holds, a prompt seen before, a prompt that is held out.
"""

from __future__ import annotations

import itertools
from collections import Counter
from pathlib import Path

import pandas as pd

from diffinfo.cli import UserError, log, progress, run
from diffinfo.config.types import Dataset
from diffinfo.data import rows
from diffinfo.data.rows import Pair
from diffinfo.data.sources import BadRow, Quarantine, Source, open_source, require
from diffinfo.tables import artifacts


class _Seen:
    """Prompts that later rows must not repeat."""

    def __init__(self, foreign: dict[str, str]) -> None:
        self.foreign = foreign  # what the user said: the dataset that holds it
        self.ids: set[str] = set()
        self.histories: set[str] = set()

    def reason(self, pair: Pair) -> str | None:
        """Why a pair is left out, or None: then it is noted."""
        if name := self.foreign.get(rows.asked(pair.messages)):
            return f"also in {name}"
        history = rows.whole(pair.messages)
        if history in self.histories:
            return "the prompt occurred before"
        if pair.prompt_id in self.ids:
            return "the prompt's id occurred before"
        self.ids.add(pair.prompt_id)
        self.histories.add(history)
        return None


def held_out(good: int, wanted: int) -> int:
    """How many of ``good`` rows are test prompts: ``wanted``, or a fifth (at least one) where there are no more."""
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

    Test prompts are the first good rows of ``spec.test_split`` or the last good rows of ``spec.split``. They are
    ``spec.test_prompts`` in number; a split that has no more good rows than that gives a fifth of them, at least one.
    Public sets do not say whether a response was cut, so the pairs' ``truncated`` flags are false.

    Args:
        dataset: the dataset's key in the configuration.
        spec: its entry there.
        source: a .parquet, .json or .jsonl file, a folder of such files, or a hub id.
        prompts: table of training prompts to write, in source order.
        test_prompts: table of held-out prompts to write.
        quarantine: table of rows left out to write, each with its row number (from 1), reason and excerpt.
        preferences: table of training pairs to write, row by row those of ``prompts``; not for format "prompts".
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

    def read(split: str, limit: int | None, enough: int | None) -> tuple[str, list[Pair]]:
        opened = open_source(dataset, spec, source, split, rows.COLUMNS[str(spec.format)])
        return opened.name, _good(opened, dataset, spec, limit, enough, left_out, _Seen(foreign))

    test: list[Pair] = []
    if spec.test_split is not None:
        _, test = read(spec.test_split, None, spec.test_prompts)
    name, train = read(spec.split, spec.limit, None)
    if spec.test_split is None:
        if len(train) < 2:
            raise UserError(f"{name} holds one good row for datasets.{dataset}: to train and to hold out takes two.")
        first = len(train) - held_out(len(train), spec.test_prompts)
        train, test = train[:first], train[first:]
    if len(test) < spec.test_prompts:
        log.warning("%s: %d prompts are held out, fewer than test_prompts = %d", dataset, len(test), spec.test_prompts)
    asked, ids = {rows.asked(pair.messages) for pair in test}, {pair.prompt_id for pair in test}
    kept = []
    for pair in train:
        if rows.asked(pair.messages) in asked or pair.prompt_id in ids:
            left_out.add(name, pair.row, "also a held-out test prompt", _shown(pair), pair.prompt_id)
        else:
            kept.append(pair)
    train = kept
    if not train:
        raise UserError(f"{name}: every training prompt is a held-out test prompt too.")
    _report(dataset, train, test, left_out)
    inputs = {"source": Path(source)} if Path(source).exists() else {}
    inputs |= {f"disjoint_from {index}": path for index, path in enumerate(disjoint_from)}
    facts = {"dataset": dataset, "spec": spec.model_dump(), "left_out": left_out.counts()}
    artifacts.write(prompts, _prompts(train, dataset), "prompts", inputs=inputs, **facts)
    artifacts.write(test_prompts, _prompts(test, dataset), "prompts", inputs=inputs, **facts)
    artifacts.write(quarantine, left_out.frame(), "quarantine", inputs=inputs, **facts)
    for path, own in ((preferences, train), (heldout, test)):
        if path is not None:
            table = pd.DataFrame([vars(pair) for pair in own]).assign(chosen_truncated=False, rejected_truncated=False)
            artifacts.write(path, table, "preferences", inputs=inputs, **facts)


def _good(
    source: Source,
    dataset: str,
    spec: Dataset,
    limit: int | None,
    enough: int | None,
    left_out: Quarantine,
    seen: _Seen,
) -> list[Pair]:
    """The good rows among the first ``limit``, until there are ``enough``; the others go to ``left_out``."""
    if source.present:
        require(source, dataset, spec, rows.REQUIRED[str(spec.format)])
    good: list[Pair] = []
    before = len(left_out.rows)
    for number, row in progress(itertools.islice(source.rows, limit), f"reading {source.name}"):
        try:
            if isinstance(row, BadRow):
                raise row
            pair = rows.parse(number, row, str(spec.format))
        except BadRow as bad:
            raw = bad.raw if isinstance(row, BadRow) else row
            left_out.add(source.name, number, bad.reason, raw)
            continue
        reason = seen.reason(pair)
        if reason:
            left_out.add(source.name, number, reason, _shown(pair), pair.prompt_id)
        else:
            good.append(pair)
            if len(good) == enough:
                break
    if not good:
        if source.present:  # the columns of JSON are known only now
            require(source, dataset, spec, rows.REQUIRED[str(spec.format)])
        bad_rows = Counter(row["reason"] for row in left_out.rows[before:])
        reasons = ", ".join(f"{count} x {reason}" for reason, count in bad_rows.most_common()) or "it has no rows"
        raise UserError(f"{source.name} holds no good row for datasets.{dataset}: {reasons}.")
    return good


def _foreign(tables: list[Path]) -> dict[str, str]:
    """What users said in other datasets' prompts, and which dataset holds it (the first that does)."""
    held: dict[str, str] = {}
    for path in tables:
        table = artifacts.read(path, "prompts")
        for messages, name in zip(table.messages, table.source, strict=True):
            held.setdefault(rows.asked(messages), name)
    return held


def _prompts(pairs: list[Pair], dataset: str) -> pd.DataFrame:
    return pd.DataFrame([{"prompt_id": p.prompt_id, "messages": p.messages, "source": dataset} for p in pairs])


def _shown(pair: Pair) -> str:
    return pair.messages[-1]["content"]


def _report(dataset: str, train: list[Pair], test: list[Pair], left_out: Quarantine) -> None:
    log.info(
        "%s: %d prompts to train on, %d held out, %d rows left out", dataset, len(train), len(test), len(left_out.rows)
    )
    for reason, count in left_out.counts().items():
        log.info("%s: %d rows left out: %s", dataset, count, reason)


if __name__ == "__main__":
    run(main)
