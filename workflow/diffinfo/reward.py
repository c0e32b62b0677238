"""Scores of responses under a reward model: a sequence classifier with one label.

``python -m diffinfo.reward`` scores a completions table.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc

from diffinfo.chat import Messages
from diffinfo.cli import UserError, progress, run
from diffinfo.config.values import Computation
from diffinfo.tables import artifacts
from diffinfo.tables.parts import Share, in_shards, make_shards, place, share_done

_KEY = ["epoch", "prompt_id", "sample"]
_TEXTS = ["messages", "completion"]


def micro_batches(lengths: list[int], micro_batch_tokens: int) -> list[list[int]]:
    """Indices grouped by similar length so that rows x longest row stays within ``micro_batch_tokens`` (one row at least)."""
    groups: list[list[int]] = []
    for index in sorted(range(len(lengths)), key=lambda i: (-lengths[i], i)):
        if groups and lengths[groups[-1][0]] * (len(groups[-1]) + 1) <= micro_batch_tokens:
            groups[-1].append(index)
        else:
            groups.append([index])
    return groups


def score(
    folder: Path,
    conversations: list[Messages],
    settings: Computation,
) -> list[float]:
    """Reward of each conversation, which ends with the assistant's answer.

    The conversation goes through the model's own chat template and is padded on the right; the raw logit is the score.
    Attention is never silently "sdpa": Gemma-2's soft-capping is lost there.

    Raises:
        UserError: when the template refuses a conversation or changes its text.
    """
    import torch

    from diffinfo.chat import BadRow, Chat
    from diffinfo.models.folders import check_length, load_classifier, use_cpu_well

    use_cpu_well()
    device = "cuda" if torch.cuda.is_available() else "cpu"
    model = load_classifier(folder, settings.attention, settings.dtype).to(device).eval()
    chat = Chat(folder)
    try:
        sequences = [chat.conversation_ids(messages) for messages in conversations]
    except BadRow as error:
        raise UserError(f"{folder}: {error}; it cannot score this conversation, another reward model can.") from error
    check_length(model, max(map(len, sequences), default=0))
    pad, tokens = model.config.pad_token_id, settings.micro_batch_tokens
    if pad is None:  # such a model reads one sequence at a time
        pad, tokens = 0, 1
    values = [0.0] * len(sequences)
    with torch.inference_mode():
        for group in progress(micro_batches([len(s) for s in sequences], tokens), "scoring"):
            longest = max(len(sequences[i]) for i in group)
            ids = torch.tensor([sequences[i] + [pad] * (longest - len(sequences[i])) for i in group], device=device)
            mask = torch.tensor([[1] * len(sequences[i]) + [0] * (longest - len(sequences[i])) for i in group])
            logits = model(input_ids=ids, attention_mask=mask.to(device), use_cache=False).logits[:, 0]
            for index, value in zip(group, logits.float().tolist(), strict=True):
                values[index] = value
    return values


def _conversations(completions: pa.Table) -> list[Messages]:
    """Messages of rows of a completions table, each with its answer."""
    texts = artifacts.frame(completions.select(_TEXTS))
    return [
        [*messages, {"role": "assistant", "content": text}]
        for messages, text in zip(texts.messages, texts.completion, strict=True)
    ]


def main(
    *,
    model: Path,
    completions: Path,
    out: Path,
    settings: Computation,
    progress_dir: Path | None = None,
    share: Share | None = None,
) -> None:
    """Score every completion but those that the reward model's template cannot hold: they go into the log and the footer.

    Args:
        model: reward model's folder.
        completions: completions table.
        out: scores table to write; with ``share`` a folder that says that its parts are made.
        settings: attention kernel, precision and tokens of one forward pass.
        progress_dir: where parts of the table wait; they outlive a killed job.
        share: this job's number, from 1, of so many that share the parts; none: make those that are missing, and the table.
    """
    from diffinfo.chat import BadRow, Chat, report

    chat = Chat(model)
    bad, seen = {}, 0
    for part in artifacts.batches(completions, "completions", [*_KEY, *_TEXTS]):
        for row, messages in enumerate(_conversations(part), seen):
            try:
                chat.conversation_ids(messages)
            except BadRow as error:
                bad[row] = (part["prompt_id"][row - seen].as_py(), part["sample"][row - seen].as_py(), str(error))
        seen += len(part)
    said = [(f"{prompt}, sample {sample}", reason) for prompt, sample, reason in bad.values()]
    report(said, seen, completions, model)
    kept = np.array([row for row in range(seen) if row not in bad], dtype=int)
    saved = place(progress_dir, share, artifacts.digest(settings.model_dump(), model, completions))

    def scored(first: int, end: int) -> pd.DataFrame:
        rows = artifacts.rows(completions, "completions", kept[first:end], [*_KEY, *_TEXTS, "token_ids"])
        tokens = pc.list_value_length(rows["token_ids"]).to_numpy()
        keys = rows.select(_KEY).to_pandas()
        return keys.assign(score=score(model, _conversations(rows), settings), tokens=tokens)

    if saved and share:
        make_shards(saved, "scores", len(kept), scored, share=share)
        return share_done(out, saved)
    scores = in_shards(saved, "scores", len(kept), scored)
    artifacts.write(
        out,
        scores,
        "scores",
        inputs={"model": model, "completions": completions},
        dtype=settings.dtype,
        quarantined=list(bad.values()),
    )
    if saved:
        artifacts.keep_until_recorded(saved, out)


if __name__ == "__main__":
    run(main)
