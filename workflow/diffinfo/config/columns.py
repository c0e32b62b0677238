"""What is wrong with the ``columns``, ``format`` and ``repeats`` of a dataset."""

from __future__ import annotations

import itertools
from collections.abc import Iterator

from diffinfo.config.types import Dataset

_PAIRED = (("chosen", "rejected"), ("chosen_score", "rejected_score"))


def faults(here: str, dataset: Dataset) -> Iterator[str]:
    """One line per fault; no key is without effect."""
    if dataset.source == "magpie" and dataset.format != "prompts":
        yield f"{here}.format: of source magpie, responses are sampled here; set it to prompts"
    if dataset.format == "preference" and dataset.source == "world":
        yield f"{here}.format: the micro world writes no 'preference'; set it to magpie, ultrafeedback or prompts"
    if dataset.columns and dataset.format != "preference":
        yield f"{here}.columns: has no meaning where format is '{dataset.format}'; remove it or set format to preference"
    given = dataset.columns.keys()
    for one, other in _PAIRED:
        for there, missing in ((one, other), (other, one)):
            if there in given and missing not in given:
                yield f"{here}.columns.{missing}: this key is missing beside {there}; add it"
    scored = sorted({"scores", "preferred"} & given)
    if "responses" not in given:
        for key in scored:
            yield f"{here}.columns.responses: this key is missing beside {key}; add it"
    else:
        if not scored:
            yield f"{here}.columns.scores: this key is missing beside responses; name the column of their scores"
        for key in itertools.chain(*_PAIRED):
            if key in given:
                yield f"{here}.columns.{key}: has no meaning beside responses; remove one of them"
    if len(scored) == 2:
        yield f"{here}.columns.preferred: has no meaning beside scores; remove one of them"
    for key, names in dataset.columns.items():
        if isinstance(names, list) and key not in ("responses", "scores"):
            yield f"{here}.columns.{key}: must be one column, got {names}; join them in the data"
    if dataset.format == "prompts" and dataset.repeats != "first":
        yield f"{here}.repeats: '{dataset.repeats}' has no meaning where format is 'prompts'; remove it"
