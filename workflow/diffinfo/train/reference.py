"""Token ids and log pi_ref of each preference pair, computed once and read by every method.

``python -m diffinfo.train.reference``
"""

from __future__ import annotations

from pathlib import Path

import pandas as pd
import torch

from diffinfo import artifacts
from diffinfo.chat import Chat
from diffinfo.cli import UserError, log, progress, run
from diffinfo.models import check_room, use_cpu_well
from diffinfo.train.exactness import load_scorer
from diffinfo.train.logprobs import packs


def score_completions(
    folder: Path, prompts: list[list[int]], completions: list[list[int]], *, attention: str, dtype: str, budget: int
) -> list[float]:
    """log pi(completion | prompt) of token ids under a model folder, in nats; dtype is the precision of computation."""
    use_cpu_well()
    device = "cuda" if torch.cuda.is_available() else "cpu"
    scorer = load_scorer(folder, attention, dtype).to(device)
    sequences = [p + c for p, c in zip(prompts, completions, strict=True)]
    check_room(scorer.model, max(map(len, sequences), default=0))
    values = torch.zeros(len(sequences), dtype=torch.float64)
    with torch.inference_mode():
        for pack in progress(packs([len(s) for s in sequences], budget if scorer.packed else 1), "log-probabilities"):
            values[pack] = scorer([sequences[i] for i in pack], [len(prompts[i]) for i in pack]).cpu()
    return values.tolist()


def reference_table(
    folder: Path,
    ids: pd.DataFrame,
    *,
    attention: str,
    dtype: str,
    budget: int,
) -> pd.DataFrame:
    """Add chosen_logp and rejected_logp to a frame of prompt_ids, chosen_ids, rejected_ids."""
    prompts = [*ids.prompt_ids, *ids.prompt_ids]
    values = score_completions(
        folder, prompts, [*ids.chosen_ids, *ids.rejected_ids],
        attention=attention, dtype=dtype, budget=budget,
    )  # fmt: skip
    return ids.assign(chosen_logp=values[: len(ids)], rejected_logp=values[len(ids) :])


def main(
    *,
    model: Path,
    preferences: Path,
    attention: str,
    dtype: str,
    max_prompt_tokens: int,
    max_tokens: int,
    budget: int,
    out: Path,
) -> None:
    """Tokenise the pairs and score them under pi_ref; pairs that do not fit are left out, with a count.

    Args:
        model: the SFT model's folder.
        preferences: preferences table.
        attention: attention kernel.
        dtype: precision of computation.
        max_prompt_tokens: longest prompt.
        max_tokens: longest prompt and completion together.
        budget: tokens of one forward pass.
        out: reference_logps table to write.
    """
    chat = Chat(model)
    rows = []
    pairs = artifacts.read(preferences, "preferences")
    for row in pairs.itertuples():
        prompt, chosen = chat.pair_ids(row.messages, row.chosen)
        _, rejected = chat.pair_ids(row.messages, row.rejected)
        if len(prompt) <= max_prompt_tokens and len(prompt) + max(len(chosen), len(rejected)) <= max_tokens:
            rows.append((row.prompt_id, prompt, chosen, rejected))
    if not rows:
        raise UserError(
            f"{preferences}: none of the {len(pairs)} pairs fits into preference.max_prompt_tokens = {max_prompt_tokens} "
            f"and preference.max_tokens = {max_tokens}; raise them."
        )
    if len(rows) < len(pairs):
        log.warning("%d of %d pairs are longer than the limits and left out", len(pairs) - len(rows), len(pairs))
    ids = pd.DataFrame(rows, columns=["prompt_id", "prompt_ids", "chosen_ids", "rejected_ids"])
    table = reference_table(model, ids, attention=attention, dtype=dtype, budget=budget)
    artifacts.write(
        out, table, "reference_logps",
        inputs={"model": model, "preferences": preferences}, dtype=dtype, left_out=len(pairs) - len(rows),
    )  # fmt: skip


if __name__ == "__main__":
    run(main)
