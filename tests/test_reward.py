import pandas as pd
import pytest
import torch
from transformers import AutoModelForSequenceClassification, MistralForSequenceClassification

from diffinfo import artifacts, reward
from diffinfo.chat import Chat


@pytest.fixture(scope="module")
def judge(tiny_mistral, tmp_path_factory):
    folder = tmp_path_factory.mktemp("reward")
    torch.manual_seed(0)
    MistralForSequenceClassification.from_pretrained(tiny_mistral, num_labels=1).save_pretrained(folder)
    Chat(tiny_mistral).tokenizer.save_pretrained(folder)
    return folder


def conversation(question, answer):
    return [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]


CONVERSATIONS = [
    conversation("add 1 and 2", "3 ."),
    conversation("describe the owl please", "the old owl is big because it often likes the home . let me know ."),
    conversation("add 4 and 2", ""),
]


def test_the_score_is_the_raw_logit_of_the_rendered_conversation(judge):
    model = AutoModelForSequenceClassification.from_pretrained(judge, num_labels=1).eval()
    chat = Chat(judge)
    for got, messages in zip(reward.score(judge, CONVERSATIONS), CONVERSATIONS, strict=True):
        ids = chat.conversation_ids(messages)
        assert ids.count(chat.tokenizer.bos_token_id) == 1
        with torch.no_grad():
            assert got == pytest.approx(model(torch.tensor([ids])).logits[0, 0].item(), abs=1e-5)


def test_batches_and_padding_change_nothing(judge):
    assert reward.score(judge, CONVERSATIONS, 1) == pytest.approx(reward.score(judge, CONVERSATIONS, 10_000), abs=1e-5)


@pytest.mark.parametrize("budget", [1, 10, 24, 25, 1000])
def test_padded_batches_stay_within_the_budget(budget):
    lengths = [5, 12, 7, 12, 3, 8, 1]
    groups = reward.micro_batches(lengths, budget)
    assert sorted(index for group in groups for index in group) == list(range(7))
    for group in groups:
        assert len(group) == 1 or len(group) * max(lengths[i] for i in group) <= budget
    assert len(groups) == {1: 7, 10: 6, 24: 3, 25: 3, 1000: 1}[budget]


def test_every_completion_is_scored_behind_its_own_prompt(judge, tmp_path, monkeypatch):
    rows = [
        {"benchmark": "", "epoch": 1, "prompt_id": f"p{i}", "sample": s, "messages": talk[:1], "prompt_token_ids": [1],
         "completion": f"{talk[1]['content']} {s}", "token_ids": [7] * (i + s), "logp": 0.0, "finish_reason": "stop"}
        for i, talk in enumerate(CONVERSATIONS) for s in (0, 1)
    ]  # fmt: skip
    artifacts.write(tmp_path / "completions.parquet", pd.DataFrame(rows), "completions")
    reward.main(
        model=judge, completions=tmp_path / "completions.parquet", out=tmp_path / "scores.parquet", attention="eager",
        dtype="float32", batch_tokens=50,
    )  # fmt: skip
    table = artifacts.read(tmp_path / "scores.parquet", "scores").set_index(["prompt_id", "sample"])
    for row in rows:
        (alone,) = reward.score(judge, [[*row["messages"], {"role": "assistant", "content": row["completion"]}]])
        found = table.loc[(row["prompt_id"], row["sample"])]
        assert found.score == pytest.approx(alone, abs=1e-5)
        assert (found.tokens, found.epoch) == (len(row["token_ids"]), 1)
    assert table.score.nunique() == 6
