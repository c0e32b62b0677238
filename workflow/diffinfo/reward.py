"""Scores of responses under a reward model: a sequence classifier with one label.

``python -m diffinfo.reward`` scores a completions table.
"""

from __future__ import annotations

from pathlib import Path

import pandas as pd

from diffinfo import artifacts
from diffinfo.chat import Messages
from diffinfo.cli import progress, run
from diffinfo.shards import in_shards


def micro_batches(lengths: list[int], budget: int) -> list[list[int]]:
    """Indices grouped by similar length so that rows x longest row stays within ``budget`` tokens (one row at least)."""
    groups: list[list[int]] = []
    for index in sorted(range(len(lengths)), key=lambda i: (-lengths[i], i)):
        if groups and lengths[groups[-1][0]] * (len(groups[-1]) + 1) <= budget:
            groups[-1].append(index)
        else:
            groups.append([index])
    return groups


def score(
    folder: Path,
    conversations: list[Messages],
    batch_tokens: int = 16_384,
    attention: str = "eager",
    dtype: str = "float32",
) -> list[float]:
    """Reward of each conversation, which ends with the assistant's answer.

    The conversation goes through the model's own chat template and is padded on the right; the raw logit is the score.
    Attention is never silently "sdpa": Gemma-2's soft-capping is lost there.
    """
    import torch
    from transformers import AutoModelForSequenceClassification

    from diffinfo.chat import Chat
    from diffinfo.models import use_cpu_well

    use_cpu_well()
    device = "cuda" if torch.cuda.is_available() else "cpu"
    model = AutoModelForSequenceClassification.from_pretrained(
        folder, num_labels=1, attn_implementation=attention, dtype=getattr(torch, dtype),
        local_files_only=True, use_safetensors=True, trust_remote_code=False,
    ).to(device).eval()  # fmt: skip
    chat = Chat(folder)
    sequences = [chat.conversation_ids(messages) for messages in conversations]
    pad = model.config.pad_token_id
    values = [0.0] * len(sequences)
    with torch.inference_mode():
        for group in progress(micro_batches([len(s) for s in sequences], batch_tokens), "scoring"):
            longest = max(len(sequences[i]) for i in group)
            ids = torch.tensor([sequences[i] + [pad] * (longest - len(sequences[i])) for i in group], device=device)
            mask = torch.tensor([[1] * len(sequences[i]) + [0] * (longest - len(sequences[i])) for i in group])
            logits = model(input_ids=ids, attention_mask=mask.to(device), use_cache=False).logits[:, 0]
            for index, value in zip(group, logits.float().tolist(), strict=True):
                values[index] = value
    return values


def main(
    *,
    model: Path,
    completions: Path,
    out: Path,
    attention: str,
    dtype: str,
    batch_tokens: int,
    progress_dir: Path | None = None,
) -> None:
    """Score every completion.

    Args:
        model: reward model's folder.
        completions: completions table.
        out: scores table to write.
        attention: attention kernel.
        dtype: precision.
        batch_tokens: tokens of one forward pass.
        progress_dir: where parts of the table wait; they outlive a killed job.
    """
    table = artifacts.read(completions, "completions")
    conversations = [
        [*messages, {"role": "assistant", "content": text}]
        for messages, text in zip(table.messages, table.completion, strict=True)
    ]
    table["tokens"] = table.token_ids.map(len)
    saved = progress_dir and progress_dir / artifacts.digest(model, completions, attention, dtype, batch_tokens)

    def scored(first: int, end: int) -> pd.DataFrame:
        values = score(model, conversations[first:end], batch_tokens, attention, dtype)
        return table.iloc[first:end].assign(score=values)

    scores = in_shards(saved, "scores", len(table), scored)
    artifacts.write(out, scores, "scores", inputs={"model": model, "completions": completions}, dtype=dtype)
    if saved:
        artifacts.keep_until_recorded(saved, out)


if __name__ == "__main__":
    run(main)
