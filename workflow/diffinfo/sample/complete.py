"""Completions of a prompt table by one model folder, or by every epoch of a training span.

``python -m diffinfo.sample.complete``
"""

from __future__ import annotations

import hashlib
from functools import partial
from itertools import chain
from pathlib import Path

import numpy as np
import pandas as pd

from diffinfo.chat import BadRow, Chat, report
from diffinfo.cli import UserError, log, run
from diffinfo.config.types import Engine
from diffinfo.config.values import Attention, Dtype, Section
from diffinfo.sample.engine import Decoding
from diffinfo.sample.engine import Engine as Generate
from diffinfo.tables import artifacts
from diffinfo.tables.parts import Share, in_shards, make_shards, place, share_done


def subset(frame: pd.DataFrame, skip: int, limit: int | None, seed: int) -> pd.DataFrame:
    """Rows ``skip`` .. ``skip + limit`` of a seeded permutation: two calls with one seed give disjoint samples.

    Raises:
        UserError: when nothing is left after ``skip``.
    """
    if limit is None and not skip:
        return frame
    if skip >= len(frame):
        raise UserError(
            f"{len(frame)} prompts are there and {skip} are to be skipped: none is left; lower did.prompts."
        )
    order = np.random.default_rng(seed).permutation(len(frame))
    return frame.iloc[np.sort(order[skip : None if limit is None else skip + limit])]


def draws_seed(seed: int, stream: str) -> int:
    """The seed of a stream's draws: ``seed`` itself without a name, else a number far from it and its neighbours."""
    return int.from_bytes(hashlib.sha256(f"{seed} {stream}".encode()).digest()[:4], "little") if stream else seed


def engine_for(engine: Engine, attention: str, dtype: str, max_model_len: int) -> Generate:
    """The engine that the configuration names."""
    if engine.name == "vllm":
        from diffinfo.sample.vllm import VllmEngine

        return VllmEngine(dtype, engine.tensor_parallel, max_model_len)
    from diffinfo.sample.transformers import TransformersEngine

    return TransformersEngine(attention, dtype, engine.batch_tokens)


class Settings(Section):
    """How prompts are completed, and which.

    Attributes:
        engine: the part of the configuration.
        attention: attention kernel (transformers).
        dtype: precision.
        max_tokens: longest completion.
        n: samples a prompt.
        temperature: 0 is greedy.
        top_p: nucleus; log-probabilities stay those of the untruncated model.
        seed: sampling seed; with it prompts are permuted where ``skip`` or ``limit`` is given.
        skip: leave out that many of the permuted prompts.
        limit: at most that many prompts.
        max_prompt_tokens: longer prompts are left out, with a count.
        stream: another name gives other draws for the same prompts, independent of those under any other name.
    """

    engine: Engine
    attention: Attention
    dtype: Dtype
    max_tokens: int
    n: int = 1
    temperature: float = 0.0
    top_p: float = 1.0
    seed: int = 42
    skip: int = 0
    limit: int | None = None
    max_prompt_tokens: int = 2048
    stream: str = ""


def main(
    *,
    models: Path,
    prompts: list[Path],
    out: Path,
    settings: Settings,
    epochs: list[int] | None = None,
    progress_dir: Path | None = None,
    share: Share | None = None,
) -> None:
    """Complete every prompt.

    Args:
        models: one model folder, or with ``epochs`` the folder that holds epoch-K folders.
        prompts: prompts or benchmark tables.
        out: completions table to write; with ``share`` a folder that says that its parts are made.
        settings: see ``Settings``.
        epochs: epochs to run; none: ``models`` itself, recorded as epoch 0.
        progress_dir: where parts of the table wait; they outlive a killed job.
        share: this job's number, from 1, of so many that share the parts; none: make those that are missing, and the table.
    """
    frames = []
    for path in prompts:
        benchmark = artifacts.provenance(path)["kind"] == "benchmark"
        frame = artifacts.read(path, "benchmark" if benchmark else "prompts")
        frames.append(frame if benchmark else frame.assign(benchmark=""))
    s = settings
    asked = subset(pd.concat(frames, ignore_index=True), s.skip, s.limit, s.seed)
    decoding = Decoding(s.n, s.temperature, s.top_p, s.max_tokens, draws_seed(s.seed, s.stream))
    generate = engine_for(s.engine, s.attention, s.dtype, s.max_prompt_tokens + s.max_tokens)
    folders = {e: models / f"epoch-{e}" for e in epochs} if epochs else {0: models}
    inputs = {f"model {e}": folder for e, folder in folders.items()}
    inputs |= {f"prompts {i}": path for i, path in enumerate(prompts)}
    facts = {"decoding": vars(decoding), "engine": s.engine.name, "skip": s.skip, "limit": s.limit}
    decisive = s.model_dump(exclude={"engine": {"batch_tokens", "tensor_parallel"}})
    saved = place(progress_dir, share, artifacts.digest(decisive, *inputs.values()))
    tables = []
    chat = Chat(next(iter(folders.values())))  # epochs of one training have the same tokenizer
    ids, bad = _tokenised(chat, asked)
    report(bad, len(asked), ", ".join(map(str, prompts)), chat.folder)
    fits = [prompt is not None and len(prompt) <= s.max_prompt_tokens for prompt in ids]
    if long := sum(prompt is not None for prompt in ids) - sum(fits):
        log.warning("%d prompts are longer than %d tokens and left out", long, s.max_prompt_tokens)
    kept = asked[fits].assign(prompt_token_ids=[prompt for prompt, fit in zip(ids, fits, strict=True) if fit])
    for epoch, folder in folders.items():
        part = partial(_completed, generate, folder, chat, decoding, kept, epoch)
        if saved and share:
            make_shards(saved / str(epoch), "completions", len(kept), part, s.n, share)
        else:
            tables.append(in_shards(saved and saved / str(epoch), "completions", len(kept), part, s.n))
    if saved and share:
        return share_done(out, saved)
    artifacts.write(out, chain.from_iterable(tables), "completions", inputs=inputs, quarantined=bad, **facts)
    if saved:
        artifacts.keep_until_recorded(saved, out)


def _tokenised(chat: Chat, asked: pd.DataFrame) -> tuple[list[list[int] | None], list[tuple[str, str]]]:
    """Token ids of each prompt, None where the template cannot hold it; prompt_id and reason of those."""
    ids: list[list[int] | None] = []
    bad = []
    for row in asked.itertuples():
        try:
            ids.append(chat.prompt_ids(row.messages))
        except BadRow as error:
            ids.append(None)
            bad.append((row.prompt_id, str(error)))
    return ids, bad


def _completed(
    generate: Generate,
    folder: Path,
    chat: Chat,
    decoding: Decoding,
    asked: pd.DataFrame,
    epoch: int,
    first: int,
    end: int,
) -> pd.DataFrame:
    """Completions of the prompts from number ``first`` up to ``end``, without it."""
    part = asked.iloc[first:end]
    generated = generate(folder, part.prompt_token_ids.tolist(), chat.stop_ids, decoding, first)
    rows = [
        {
            "benchmark": row.benchmark,
            "epoch": epoch,
            "prompt_id": row.prompt_id,
            "sample": sample,
            "messages": row.messages,
            "prompt_token_ids": row.prompt_token_ids,
            "completion": chat.text(answer.token_ids),
            "token_ids": answer.token_ids,
            "logp": answer.logp,
            "finish_reason": answer.finish_reason,
        }
        for row, answers in zip(part.itertuples(), generated, strict=True)
        for sample, answer in enumerate(answers)
    ]
    return pd.DataFrame(rows, columns=artifacts.SCHEMAS["completions"][1].names)


if __name__ == "__main__":
    run(main)
