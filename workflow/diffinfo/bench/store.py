"""Paid replies on disk: one JSON line each, written before anything else is done with it, and synced."""

from __future__ import annotations

import itertools
import json
import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from diffinfo.bench.completions import reply
from diffinfo.bench.replies import Reply
from diffinfo.cli import UserError, log


class Store:
    """The replies of one model, by a digest of all that was sent.

    Each job appends to a file of its own, since two machines that append to one file may tear each other's lines; all jobs
    read all files of their judge. Texts are part of the key, so that an answer by a changed model of the same name never meets
    an old reply; the endpoint's address is not, so that a judge may move. Completions are kept as they came, and read anew
    each time: what cannot be parsed today is not paid again.

    Attributes:
        requests: how many lines there are, of all jobs.
        dollars: what they cost together; at most, where the endpoint did not say.
        batches: this job's batches whose results are not stored yet, by name.
    """

    def __init__(self, folder: Path, judge: str, job: str, older: str = "") -> None:
        self.folder, self.judges = folder, (judge, older or judge)  # older: what the files were named by before
        self.file = folder / f"{judge}-{job}.jsonl"
        self.requests, self.dollars = 0, 0.0
        self.batches: dict[str, dict[str, Any]] = {}
        self._places: dict[str, tuple[Path, int]] = {}
        self._done: dict[Path, int] = {}

    def refresh(self) -> None:
        """Take note of the lines that were added, here or by other jobs; torn lines of killed jobs are skipped."""
        torn = 0
        for file in sorted({file for judge in self.judges for file in self.folder.glob(f"{judge}-*.jsonl")}):
            place = self._done.get(file, 0)
            if file.stat().st_size == place:
                continue
            with open(file, "rb") as handle:
                handle.seek(place)
                for line in handle:
                    row = _row(line)
                    if row is None and not line.endswith(b"\n"):
                        break  # another job is writing it, or was killed when it did
                    if row is not None:
                        self.requests += row.get("requests", 1)
                        self.dollars += row.get("dollars") or row.get("at_most") or 0.0
                        if "key" in row:
                            self._places.setdefault(row["key"], (file, place))
                        if "batch" in row and file == self.file:
                            self.batches.pop(row["batch"]) if row["keys"] is None else self.batches.update(
                                {row["batch"]: row}
                            )
                    else:
                        torn += bool(line.strip())
                    place += len(line)
                self._done[file] = place
        if torn:
            log.warning("%s: %d incomplete lines of killed jobs are passed over", self.folder, torn)

    def find(self, keys: Iterable[str]) -> dict[str, Reply]:
        """The known replies among ``keys``."""
        self.refresh()
        found: dict[str, Reply] = {}
        places = sorted((*self._places[key], key) for key in set(keys) if key in self._places)
        for file, of_file in itertools.groupby(places, key=lambda place: place[0]):
            with open(file, "rb") as handle:
                for _, place, key in of_file:
                    handle.seek(place)
                    row = _row(handle.readline()) or {}
                    found[key] = (
                        reply(row["completion"], row.get("dollars"))
                        if "completion" in row
                        else Reply(row["reply"], row.get("finish_reason") or "")  # of an older version
                    )
        return found

    def settle(self, batch: str) -> None:
        """Note that the results of a batch are stored, each with its own price."""
        self.refresh()
        row = self.batches.get(batch)
        if row:
            self.add(batch=batch, keys=None, at_most=-row["at_most"], requests=-row["requests"])
            self.refresh()

    def add(self, **row: Any) -> None:
        """Store a row, durably once this returns.

        Args:
            row: ``key``, ``completion``, and its ``dollars`` or, where they are not known, what it cost ``at_most``; or
                ``lost`` and ``at_most`` of a request that may have been paid though no reply arrived; or the ``batch``,
                ``keys``, ``requests``, ``at_most`` and ``time`` of a batch, with keys of null once it is settled.
        """
        line = json.dumps(row).encode() + b"\n"
        self.folder.mkdir(parents=True, exist_ok=True)
        with open(self.file, "a+b", buffering=0) as handle:
            if handle.seek(0, os.SEEK_END):
                handle.seek(-1, os.SEEK_END)
                if handle.read(1) != b"\n":  # a killed job's torn line must not swallow this one
                    line = b"\n" + line
            if handle.write(line) != len(line):
                raise UserError(f"{self.file}: a paid reply could not be written; is the disk full?")
            os.fsync(handle.fileno())


def _row(line: bytes) -> dict[str, Any] | None:
    """A line of a store; None where it is not whole."""
    try:
        row: dict[str, Any] = json.loads(line)
        if row.get("lost") is True or isinstance(row.get("batch"), str):
            return row
        whole = isinstance(row.get("reply"), str) or isinstance(row["completion"]["choices"][0], dict)
        return row if whole and isinstance(row["key"], str) else None
    except (ValueError, LookupError, TypeError, AttributeError, RecursionError):
        return None
