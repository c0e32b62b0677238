"""Token ids and log pi_ref of each preference pair, computed once and read by every method.

``python -m diffinfo.train.reference``
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import torch

from diffinfo.chat import Chat, tokenised
from diffinfo.cli import UserError, log, progress, run
from diffinfo.config.values import Computation
from diffinfo.models.exactness import load_scorer
from diffinfo.models.folders import check_length, use_cpu_well
from diffinfo.models.logprobs import packs
from diffinfo.tables import artifacts
from diffinfo.tables.parts import Share, in_shards, make_shards, place, share_done

_SIDES = ("prompt_ids", "chosen_ids", "rejected_ids")


def score_completions(
    folder: Path,
    prompts: list[list[int]],
    completions: list[list[int]],
    settings: Computation,
) -> list[float]:
    """log pi(completion | prompt) of token ids under a model folder, in nats."""
    use_cpu_well()
    device = "cuda" if torch.cuda.is_available() else "cpu"
    scorer = load_scorer(folder, settings.attention, settings.dtype).to(device)
    sequences = [p + c for p, c in zip(prompts, completions, strict=True)]
    check_length(scorer.model, max(map(len, sequences), default=0))
    values = torch.zeros(len(sequences), dtype=torch.float64)
    with torch.inference_mode():
        tokens = settings.micro_batch_tokens if scorer.packed else 1
        for pack in progress(packs([len(s) for s in sequences], tokens), "log-probabilities"):
            values[pack] = scorer([sequences[i] for i in pack], [len(prompts[i]) for i in pack]).cpu()
    return values.tolist()


def reference_table(folder: Path, ids: pd.DataFrame, settings: Computation) -> pd.DataFrame:
    """Add chosen_logp and rejected_logp to a frame of prompt_ids, chosen_ids, rejected_ids."""
    prompts = [*ids.prompt_ids, *ids.prompt_ids]
    values = score_completions(folder, prompts, [*ids.chosen_ids, *ids.rejected_ids], settings)
    return ids.assign(chosen_logp=values[: len(ids)], rejected_logp=values[len(ids) :])


class Settings(Computation):
    """How pairs are scored, and which are left out.

    Attributes:
        max_prompt_tokens: longest prompt.
        max_tokens: longest prompt and completion together.
        limit: at most so many pairs, the first; none: all.
    """

    max_prompt_tokens: int
    max_tokens: int
    limit: int | None = None


def main(
    *,
    model: Path,
    preferences: Path,
    settings: Settings,
    out: Path,
    quarantine_out: Path | None = None,
    progress_dir: Path | None = None,
    share: Share | None = None,
) -> None:
    """Tokenise the pairs and score them under pi_ref; pairs that do not fit are left out, with a count.

    Args:
        model: the SFT model's folder.
        preferences: preferences table.
        settings: see ``Settings``.
        out: reference_logps table to write; with ``share`` a folder that says that its parts are made.
        quarantine_out: table to write of pairs that the chat template cannot hold; ``sft`` leaves out the same.
        progress_dir: where parts of the table wait; they outlive a killed job.
        share: this job's number, from 1, of so many that share the parts; none: make those that are missing, and the table.
    """
    pairs = artifacts.read(preferences, "preferences").iloc[: settings.limit]
    if settings.limit and len(pairs) < settings.limit:
        log.warning("%s has %d pairs, fewer than preference.held_out = %d", preferences, len(pairs), settings.limit)
    ids, quarantine = tokenised(Chat(model), pairs, preferences)
    prompt, chosen, rejected = (ids[side].map(len) for side in _SIDES)
    most_prompt, most = settings.max_prompt_tokens, settings.max_tokens
    fits = (prompt <= most_prompt) & (prompt + np.maximum(chosen, rejected) <= most)
    if not fits.any():
        raise UserError(
            f"{preferences}: none of the {len(ids)} pairs fits into preference.max_prompt_tokens = {most_prompt} "
            f"and preference.max_tokens = {most}; raise them."
        )
    if not fits.all():
        log.warning("%d of %d pairs are longer than the limits and left out", (~fits).sum(), len(ids))
    kept = ids[fits].reset_index(drop=True)
    saved = place(progress_dir, share, artifacts.digest(settings.model_dump(), model, preferences))

    def scored(first: int, end: int) -> pd.DataFrame:
        part = kept.iloc[first:end]
        lists = {side: [ids.tolist() for ids in part[side]] for side in _SIDES}
        return reference_table(model, part.assign(**lists), settings)

    if saved and share:
        make_shards(saved, "reference_logps", len(kept), scored, 2, share)
        return share_done(out, saved)
    table = in_shards(saved, "reference_logps", len(kept), scored, rows_an_item=2)
    inputs = {"model": model, "preferences": preferences}
    artifacts.write(out, table, "reference_logps", inputs=inputs, dtype=settings.dtype, left_out=len(pairs) - len(kept))
    if quarantine_out:
        artifacts.write(quarantine_out, quarantine, "quarantine", inputs=inputs)
    if saved:
        artifacts.keep_until_recorded(saved, *filter(None, (out, quarantine_out)))


if __name__ == "__main__":
    run(main)
