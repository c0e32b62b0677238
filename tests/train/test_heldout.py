"""Held-out pairs under every epoch, against a plain loop over the stock model's logits, one sequence at a time."""

import logging

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM

from diffinfo.chat import Chat
from diffinfo.tables import artifacts
from diffinfo.train import heldout, reference
from stages import stage


def naive(folder, start, pairs):
    """log pi(chosen) and log pi(rejected) of each pair."""
    network, chat = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval(), Chat(start)
    found = []
    for row in pairs.itertuples():
        for answer in (row.chosen, row.rejected):
            prompt, completion = chat.pair_ids(row.messages, answer)
            with torch.no_grad():
                logits = network(torch.tensor([prompt + completion])).logits[0].double().log_softmax(-1)
            places = range(len(prompt) - 1, len(prompt) + len(completion) - 1)
            found.append(sum(logits[place, token].item() for place, token in zip(places, completion, strict=True)))
    return np.array(found).reshape(-1, 2)


def test_each_epoch_scores_the_first_held_out_pairs(job, tiny_mistral, pairs_table, tmp_path, caplog):
    made = job("a", "dpo-b0.1")
    made.here()
    common = {"attention": "sdpa", "dtype": "float32", "micro_batch_tokens": 256}
    own = tmp_path / "heldout.parquet"
    artifacts.write(own, artifacts.read(pairs_table, "preferences").iloc[28:], "preferences")
    for limit in (20, 9):
        caplog.clear()
        with caplog.at_level(logging.WARNING):
            stage(reference.main,
                model=tiny_mistral, preferences=own, max_prompt_tokens=64, max_tokens=256, limit=limit,
                out=tmp_path / "reference.parquet", **common,
            )  # fmt: skip
        said = f"{own} has 12 pairs, fewer than preference.held_out = 20"
        assert caplog.messages == ([said] if limit == 20 else [])
    stage(heldout.main,
        models=made.folder / "models", epochs=[1, 2], reference=tmp_path / "reference.parquet",
        out=tmp_path / "out.parquet", **common,
    )  # fmt: skip
    table, pairs = artifacts.read(tmp_path / "out.parquet", "heldout"), artifacts.read(own, "preferences").head(9)
    assert table.epoch.tolist() == [1] * 9 + [2] * 9
    before, moved = naive(tiny_mistral, tiny_mistral, pairs), []
    for epoch, rows in table.groupby("epoch"):
        assert rows.prompt_id.tolist() == pairs.prompt_id.tolist()
        after = naive(made.folder / f"models/epoch-{epoch}", tiny_mistral, pairs)
        for column, expected in (("logp", after), ("reference_logp", before)):
            assert rows[[f"{column}_chosen", f"{column}_rejected"]].to_numpy() == pytest.approx(expected, abs=1e-3)
        moved.append(after)
    assert np.abs(moved[0] - moved[1]).max() > 0.1  # the epochs differ
