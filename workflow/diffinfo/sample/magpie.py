"""Prompts from nothing: an aligned model that is given its pre-query template alone writes what a user would ask (Magpie).

``python -m diffinfo.sample.magpie`` (Xu et al., 2024, arXiv:2406.08464). The authors' filters: length, repetition, near
matches and, once responses are scored, reward (``data.pairs``). They also let a model rate each prompt's quality, and find
near matches by sentence embeddings; here they share most pairs of neighbouring words.
"""

from __future__ import annotations

import math
from collections import Counter
from itertools import pairwise
from pathlib import Path

import pandas as pd

from diffinfo.chat import Chat
from diffinfo.cli import UserError, log, run
from diffinfo.config.samples import Magpie
from diffinfo.config.types import Engine
from diffinfo.config.values import Attention, Dtype, Section
from diffinfo.data.files import Quarantine
from diffinfo.data.rows import normalise
from diffinfo.sample.complete import draws_seed, engine_for
from diffinfo.sample.engine import Decoding
from diffinfo.tables import artifacts
from diffinfo.tables.parts import in_shards


class Settings(Section):
    """How prompts are written.

    Attributes:
        magpie: the part of the configuration.
        engine: the same.
        attention: attention kernel (transformers).
        dtype: precision.
        stream: another name gives other draws.
    """

    magpie: Magpie
    engine: Engine
    attention: Attention
    dtype: Dtype
    stream: str = ""


def near(texts: list[str], similarity: float) -> list[int | None]:
    """Of each text the first kept one before it whose Jaccard index with it is ``similarity`` or more; None: it is kept.

    The index is that of their pairs of neighbouring words, normalised. It is exact: two sets that share so much share one of
    the rarest of each (prefix filtering; Bayardo et al., 2007).
    """
    sets = [set(pairwise(words)) or {(word, "") for word in words} for words in (normalise(t).split() for t in texts)]
    count = Counter(pair for pairs in sets for pair in pairs)
    kept: dict[tuple[str, str], list[int]] = {}
    found: list[int | None] = []
    for number, pairs in enumerate(sets):
        rarest = sorted(pairs, key=lambda pair: (count[pair], pair))
        rarest = rarest[: len(pairs) - math.ceil(similarity * len(pairs) - 1e-9) + 1]
        others = sorted({other for pair in rarest for other in kept.get(pair, [])})
        match = next((o for o in others if len(pairs & sets[o]) >= similarity * len(pairs | sets[o]) - 1e-9), None)
        found.append(match)
        for pair in rarest if match is None else ():
            kept.setdefault(pair, []).append(number)
    return found


def fault(text: str, cut: bool, magpie: Magpie) -> str | None:
    """Why a prompt is left out whatever the others are."""
    words = normalise(text).split()
    triples = list(zip(words, words[1:], words[2:], strict=False))
    if cut:
        return "it is cut by max_tokens"
    if len(words) < magpie.min_words:
        return f"it has fewer than {magpie.min_words} words"
    if text.endswith(":"):
        return "it ends with a colon: what it asks about is missing"
    if len(set(triples)) < len(triples) / 2:
        return "it repeats itself"
    return None


def main(*, model: Path, settings: Settings, out: Path, quarantine: Path, progress_dir: Path | None = None) -> None:
    """Write prompts, in the order in which they were drawn.

    Args:
        model: folder of an aligned model.
        settings: see ``Settings``.
        out: instructions table to write: what ``data.ingest`` reads as format "prompts".
        quarantine: table to write of prompts that are left out; ``row`` is the draw, from 1.
        progress_dir: where parts wait; they outlive a killed job.

    Raises:
        UserError: when the filters leave fewer than two prompts.
    """
    magpie, chat = settings.magpie, Chat(model)
    opening, closing = chat.pre_query()
    ids = chat.encode(opening)
    stops = [*chat.stop_ids, *(stop for stop in chat.control_ids(closing) if stop not in chat.stop_ids)]
    generate = engine_for(settings.engine, settings.attention, settings.dtype, len(ids) + magpie.max_tokens)
    saved = progress_dir and progress_dir / artifacts.digest(settings.model_dump(exclude={"engine"}), model)

    def drawn(first: int, end: int) -> pd.DataFrame:
        seed = draws_seed(magpie.seed, f"{settings.stream} {first}")
        decoding = Decoding(end - first, magpie.temperature, magpie.top_p, magpie.max_tokens, seed)
        written = generate(model, [ids], stops, decoding, 0)[0]
        table = pd.DataFrame([vars(one) for one in written]).assign(
            benchmark="", epoch=0, prompt_id="", sample=range(first, end)
        )
        texts = [chat.text([i for i in one.token_ids if i not in stops]) for one in written]
        return table.assign(completion=texts, messages=[[]] * len(table), prompt_token_ids=[ids] * len(table))

    table = pd.concat(map(artifacts.frame, in_shards(saved, "completions", magpie.prompts, drawn)), ignore_index=True)
    bad, good = Quarantine(), []
    for row in table.itertuples():
        text, whole = str(row.completion), row.finish_reason == "stop"
        for mark in filter(None, (closing.strip(), "\n" if magpie.lines == "first" else "")):
            text, found, _ = text.partition(mark)
            whole = whole or bool(found)
        text = text.strip()
        if reason := fault(text, not whole, magpie):
            bad.add(str(out), row.sample + 1, reason, text)
        else:
            good.append((row.sample + 1, text))
    for (number, text), match in zip(good, near([text for _, text in good], magpie.similarity), strict=True):
        if match is not None:
            bad.add(str(out), number, "it is like an earlier one", text)
    out_of = {row["row"] for row in bad.rows}
    kept = [text for number, text in good if number not in out_of]
    for reason, count in bad.counts().items():
        log.info("%d of %d prompts left out: %s", count, len(table), reason)
    if len(kept) < 2:
        raise UserError(f"{model} wrote {len(kept)} prompts that pass the filters, of {len(table)}: {bad.counts()}.")
    rows = [{"uuid": artifacts.digest(settings.stream, text), "instruction": text} for text in kept]
    facts = {"settings": magpie.model_dump(), "left_out": bad.counts(), "pre_query": opening}
    artifacts.write(out, pd.DataFrame(rows), "instructions", inputs={"model": model}, **facts)
    artifacts.write(quarantine, bad.frame(), "quarantine", inputs={"model": model}, **facts)
    if saved:
        artifacts.keep_until_recorded(saved, out, quarantine)


if __name__ == "__main__":
    run(main)
