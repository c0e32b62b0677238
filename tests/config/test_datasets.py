"""Bad entries of datasets: one line each, with the key and the remedy."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from diffinfo.config.reading import parse
from diffinfo.config.strict_yaml import ConfigError, read_yaml

BAD = {
    "web-address": ("datasets.magpie-g27.source", "https://example.com/rows.jsonl",
                    "datasets.magpie-g27.source: 'https://example.com/rows.jsonl' is a web address, which may change unseen; "
                    "download it and name the local file"),
    "web-address-of-the-hub": (
        "datasets.magpie-g27.source", "https://huggingface.co/datasets/Anthropic/hh-rlhf/tree/main",
        "datasets.magpie-g27.source: 'https://huggingface.co/datasets/Anthropic/hh-rlhf/tree/main' is a web address, which "
        "may change unseen; name its hub id, Anthropic/hh-rlhf",
    ),
    "pattern-of-no-file": ("datasets.magpie-g27.source", "none/*.jsonl",
                           "datasets.magpie-g27.source: the pattern 'none/*.jsonl' matches no file"),
    "revision-twice": (
        "datasets.x", {"format": "preference", "source": "hf://datasets/a/b@v1", "revision": "v2"},
        "datasets.x.revision: 'v2' is given in source too; remove one",
    ),
    "subset-of-the-world": ("datasets.magpie-g27.subset", "en",
                            "datasets.magpie-g27.subset: 'en' has no meaning where source is 'world'; set it to null"),
    "preference-of-the-world": (
        "datasets.magpie-pro.format", "preference",
        "datasets.magpie-pro.format: the micro world writes no 'preference'; set it to magpie, ultrafeedback or prompts",
    ),
    "pairs-of-magpie": ("datasets.magpie-pro.source", "magpie",
                        "datasets.magpie-pro.format: of source magpie, responses are sampled here; set it to prompts"),
    "columns-of-magpie": (
        "datasets.magpie-pro.columns", {"prompt": "ask"},
        "datasets.magpie-pro.columns: has no meaning where format is 'magpie'; remove it or set format to preference",
    ),
    "one-column-of-two": (
        "datasets.x", {"format": "preference", "source": "a/b", "columns": {"chosen": "good"}},
        "datasets.x.columns.rejected: this key is missing beside chosen; add it",
    ),
    "responses-without-scores": (
        "datasets.x", {"format": "preference", "source": "a/b", "columns": {"responses": "made"}},
        "datasets.x.columns.scores: this key is missing beside responses; name the column of their scores",
    ),
    **{f"{key}-without-responses": (
        "datasets.x", {"format": "preference", "source": "a/b", "columns": {key: "s"}},
        f"datasets.x.columns.responses: this key is missing beside {key}; add it",
    ) for key in ("scores", "preferred")},
    "scores-and-preferred": (
        "datasets.x", {"format": "preference", "source": "a/b",
                       "columns": {"responses": "made", "scores": "s", "preferred": "best"}},
        "datasets.x.columns.preferred: has no meaning beside scores; remove one of them",
    ),
    "several-prompts": (
        "datasets.x", {"format": "preference", "source": "a/b", "columns": {"prompt": ["ask", "more"]}},
        "datasets.x.columns.prompt: must be one column, got ['ask', 'more']; join them in the data",
    ),
    "repeated-prompts": ("datasets.magpie-g27.repeats", "all",
                         "datasets.magpie-g27.repeats: 'all' has no meaning where format is 'prompts'; remove it"),
    "unknown-part": (
        "datasets.x", {"format": "preference", "source": "a/b", "columns": {"promt": "ask"}},
        "datasets.x.columns.promt: must be one of prompt, system, chosen, rejected, chosen_score, rejected_score, responses, "
        "scores, preferred, id, got 'promt'",
    ),
}  # fmt: skip


@pytest.mark.parametrize(("path", "value", "line"), BAD.values(), ids=BAD)
def test_a_fault_of_a_dataset_is_one_line(path: str, value: Any, line: str) -> None:
    _, name, *key = path.split(".")
    values = read_yaml(Path(__file__).resolve().parents[2] / "config.yaml")
    values["datasets"][name] = values["datasets"][name] | {key[0]: value} if key else value
    with pytest.raises(ConfigError) as caught:
        parse(values)
    assert [said.strip() for said in str(caught.value).splitlines()[1:]] == [line]


def test_a_pair_and_responses_exclude_each_other() -> None:
    values = read_yaml(Path(__file__).resolve().parents[2] / "config.yaml")
    sides = {key: key for key in ("responses", "scores", "chosen", "rejected", "chosen_score", "rejected_score")}
    values["datasets"]["x"] = {"format": "preference", "source": "a/b", "columns": sides}
    with pytest.raises(ConfigError) as caught:
        parse(values)
    for key in ("chosen", "rejected", "chosen_score", "rejected_score"):
        assert f"datasets.x.columns.{key}: has no meaning beside responses; remove one of them" in str(caught.value)
