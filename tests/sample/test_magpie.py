"""Prompts that a model writes after its pre-query template: the template, the filters, and whose draws they are."""

from __future__ import annotations

import random
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from diffinfo.chat import Chat
from diffinfo.cli import UserError
from diffinfo.config.samples import Magpie
from diffinfo.config.types import Engine
from diffinfo.data.rows import normalise
from diffinfo.sample import magpie
from diffinfo.sample.engine import Decoding, Generated
from diffinfo.sample.magpie import Settings, fault, main, near
from diffinfo.tables import artifacts


def pairs(text: str) -> set[Any]:
    words = normalise(text).split()
    return set(pairwise(words)) or {(word, "") for word in words}


@pytest.mark.parametrize("similarity", [0.3, 0.5, 2 / 3, 0.8, 1.0])
def test_near_matches_are_those_of_all_comparisons(similarity: float) -> None:
    rng = random.Random(0)
    texts = [" ".join(rng.choice("abcd") for _ in range(rng.randint(1, 7))) for _ in range(150)]
    kept: list[int] = []
    for number, (text, found) in enumerate(zip(texts, near(texts, similarity), strict=True)):
        alike = [
            other
            for other in kept
            if len(pairs(text) & pairs(texts[other])) / len(pairs(text) | pairs(texts[other])) > similarity - 1e-9
        ]
        assert found == (alike[0] if alike else None)
        if not alike:
            kept.append(number)
    assert 0 < len(kept) < len(texts)


def test_an_exact_match_is_a_near_one_in_any_case() -> None:
    assert near(["Name a city.", "name  A CITY.", "Name a town.", "2²", "22"], 1.0) == [None, 0, None, None, None]


FAULTS = {
    "Name a primary colour.": None,
    "Hello there": "it has fewer than 3 words",
    "Translate the following text:": "it ends with a colon: what it asks about is missing",
    "to be or to be or to be or to be or": "it repeats itself",
    "buffalo buffalo buffalo": None,
}


@pytest.mark.parametrize(("text", "reason"), FAULTS.items())
def test_faults_of_a_prompt(text: str, reason: str | None) -> None:
    assert fault(text, False, Magpie()) == reason
    assert fault(text, True, Magpie()) == "it is cut by max_tokens"


@pytest.mark.parametrize(("tiny", "opening", "closing"), [
    ("mistral", "<s>[INST]", "[/INST]"),
    ("gemma2", "<bos><start_of_turn>user\n", "<end_of_turn>\n<start_of_turn>model\n"),
], indirect=["tiny"])  # fmt: skip
def test_the_pre_query_template_is_what_stands_before_a_users_text(tiny: Path, opening: str, closing: str) -> None:
    """Gemma's is that of the authors' configuration."""
    chat = Chat(tiny)
    assert chat.pre_query() == (opening, closing)
    stop = closing.partition(">")[0] + ">" if ">" in closing else closing
    assert chat.control_ids(closing)[0] == chat.tokenizer.convert_tokens_to_ids(stop)
    asked = [{"role": "user", "content": "list"}]
    assert chat.prompt_ids(asked)[: len(chat.encode(opening))] == chat.encode(opening)


WRITTEN = [
    ("list red things", True), ("describe the home\nand more", True), ("list red things", True), ("add 4 and 5", False),
    ("Question : what metal does ronaba have ?", True), ("add", True), ("sort the big team\nthen", False),
]  # fmt: skip


@pytest.fixture
def run(tiny_mistral: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """``main`` with an engine that writes WRITTEN; its draws are noted."""
    chat = Chat(tiny_mistral)
    end = chat.control_ids("[/INST]")
    seen: list[tuple[list[list[int]], list[int], Decoding]] = []

    def engine(model: Path, prompts: list[list[int]], stops: list[int], decoding: Decoding, first: int) -> Any:
        seen.append((prompts, stops, decoding))
        return [
            [
                Generated(chat.encode(text) + (end if whole else []), -1.0, "stop" if whole else "length")
                for text, whole in WRITTEN[: decoding.n]
            ]
        ]

    monkeypatch.setattr(magpie, "engine_for", lambda *_: engine)

    def call(**changes: Any) -> Any:
        settings = Settings(
            magpie=Magpie(prompts=len(WRITTEN), max_tokens=20, **changes), engine=Engine(), attention="sdpa",
            dtype="float32", stream="own",
        )  # fmt: skip
        main(model=tiny_mistral, settings=settings, out=tmp_path / "out.parquet", quarantine=tmp_path / "bad.parquet")
        bad = artifacts.read(tmp_path / "bad.parquet", "quarantine")
        kept = artifacts.read(tmp_path / "out.parquet", "instructions")
        return list(kept.instruction), dict(zip(bad.row, bad.reason, strict=True)), seen

    return call


def test_filters_leave_out_prompts_by_their_draw(run: Any, tiny_mistral: Path) -> None:
    kept, bad, [(prompts, stops, decoding)] = run()
    assert kept == [
        "list red things",
        "describe the home",
        "Question : what metal does ronaba have ?",
        "sort the big team",
    ]
    assert bad == {3: "it is like an earlier one", 4: "it is cut by max_tokens", 6: "it has fewer than 3 words"}
    chat = Chat(tiny_mistral)
    assert prompts == [chat.encode("<s>[INST]")]
    assert stops == [*chat.stop_ids, *chat.control_ids("[/INST]")]
    assert (decoding.n, decoding.temperature, decoding.top_p, decoding.max_tokens) == (7, 1.0, 1.0, 20)


def test_all_lines_of_a_prompt(run: Any) -> None:
    kept, bad, _ = run(lines="all", min_words=1)
    assert kept[1].split() == ["describe", "the", "home", "and", "more"]
    assert "add" in kept
    assert bad[7] == "it is cut by max_tokens"


def test_filters_that_leave_nothing_are_one_sentence(run: Any) -> None:
    with pytest.raises(
        UserError, match=r"wrote 0 prompts that pass the filters, of 7: \{'it has fewer than 50 words': "
    ):
        run(min_words=50)
