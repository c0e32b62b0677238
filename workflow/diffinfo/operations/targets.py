"""Why no rule makes a target, and the nearest one that a rule makes."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable
from dataclasses import dataclass

from diffinfo import methods
from diffinfo.cli import UserError, nearest
from diffinfo.config.types import Config

WILDCARD = re.compile(r"\{(\w+)(?:,[^}]*)?\}")  # as Snakemake writes it, with or without its constraint


@dataclass(frozen=True)
class _Reading:
    """A target read as one of a pattern's, with what is wrong in it put right."""

    likeness: float
    meant: str
    faults: tuple[str, ...] = ()


def unmade(target: str, patterns: Iterable[str], rules: Iterable[str], config: Config) -> str:
    """A sentence on a target that no rule makes.

    Args:
        target: a path or the name of a rule.
        patterns: outputs of the rules, with wildcards in braces.
        rules: their names.
        config: what there is of models, datasets, methods and epochs.
    """
    if "/" not in target:
        return f"'{target}' is neither a rule nor a file that one makes{nearest(target, rules)}"
    best = max((_read(target.split("/"), pattern.split("/"), config) for pattern in patterns), key=lambda r: r.likeness)
    if best.likeness < 0.55:
        return (
            f"no rule makes {target}, nor anything like it: docs/extending.md has examples, snakemake --list the rules"
        )
    if best.meant == target:
        return f"no rule makes {target}: its model, dataset and method do not go with it; snakemake -n lists the grid's"
    return ": ".join([f"no rule makes {target}", *best.faults]) + f"; did you mean {best.meant} ?"


def _read(target: list[str], pattern: list[str], config: Config) -> _Reading:
    if len(target) != len(pattern):
        shown = [WILDCARD.sub(r"<\1>", part) for part in pattern]
        same = sum(part in target for part in pattern)  # and what is left of it may be wildcards
        wild = min(len(target) - same, len([part for part in pattern if WILDCARD.search(part)]))
        return _Reading((same + 0.5 * wild) / max(len(target), len(pattern)), "/".join(shown))
    likeness, meant, faults = 1.0, [], []
    for part, form in zip(target, pattern, strict=True):
        if found := WILDCARD.search(form):
            head, ending = form[: found.start()], form[found.end() :]
            value = part.removesuffix(ending) if part.endswith(ending) else part.rpartition(".")[0]
            right, fault = _put_right(found[1], value.removeprefix(head), config)
            likeness *= (0.8 if fault else 1.0) * (1.0 if part.startswith(head) else 0.3)
            meant.append(head + right + ending)
            faults += [fault] if fault else []
        else:
            likeness *= difflib.SequenceMatcher(None, part, form).ratio()
            meant.append(form)
    return _Reading(likeness, "/".join(meant), tuple(faults))


def _put_right(wildcard: str, value: str, config: Config) -> tuple[str, str]:
    """The nearest value that a wildcard can have, and what is wrong with the one given."""
    if wildcard == "method" and value != methods.REFERENCE:
        try:
            return str(methods.parse(value)), ""
        except UserError as error:
            meant = methods.meant(value) or next(iter(methods.METHODS))
            if meant in methods.METHODS:  # without its beta, or without need of one
                meant = methods.METHODS[meant].at(config.betas[0])
            return meant, str(error).split(";")[0]
    if wildcard == "span":
        found = re.fullmatch(r"([1-9]\d*)-([1-9]\d*)", value)
        right = found is not None and int(found[1]) <= int(found[2])
        return (value, "") if right else (config.spans()[-1], f"'{value}' is not a span of epochs")
    if wildcard == "epoch":
        right = value.isdecimal() and 1 <= int(value) <= config.epochs
        return (value, "") if right else (str(config.epochs), f"'{value}' is not an epoch of 1 to {config.epochs}")
    named = {"model": [*config.models], "dataset": [*config.datasets], "did": ["did", "did_sampled"]}
    known = named.get(wildcard, [value])
    if value in known:
        return value, ""
    near = difflib.get_close_matches(value, known, n=1, cutoff=0.3)
    return (near or known)[0], f"'{value}' is not a {wildcard} of the configuration"
