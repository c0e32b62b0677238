import pandas as pd
import pytest
import torch
from transformers import AutoModelForSequenceClassification, AutoTokenizer, MistralForSequenceClassification

import templates
from diffinfo import reward
from diffinfo.chat import Chat
from diffinfo.cli import UserError
from diffinfo.config.values import Computation
from diffinfo.data import pairs
from diffinfo.tables import artifacts
from stages import stage


def score(folder, conversations, micro_batch_tokens=16_384):
    return reward.score(folder, conversations, Computation(micro_batch_tokens=micro_batch_tokens))


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
    for got, messages in zip(score(judge, CONVERSATIONS), CONVERSATIONS, strict=True):
        ids = chat.conversation_ids(messages)
        assert ids.count(chat.tokenizer.bos_token_id) == 1
        with torch.no_grad():
            assert got == pytest.approx(model(torch.tensor([ids])).logits[0, 0].item(), abs=1e-5)


def test_batches_and_padding_change_nothing(judge):
    assert score(judge, CONVERSATIONS, 1) == pytest.approx(score(judge, CONVERSATIONS, 10_000), abs=1e-5)


@pytest.mark.parametrize("budget", [1, 10, 24, 25, 1000])
def test_padded_batches_stay_within_the_budget(budget):
    lengths = [5, 12, 7, 12, 3, 8, 1]
    groups = reward.micro_batches(lengths, budget)
    assert sorted(index for group in groups for index in group) == list(range(7))
    for group in groups:
        assert len(group) == 1 or len(group) * max(lengths[i] for i in group) <= budget
    assert len(groups) == {1: 7, 10: 6, 24: 3, 25: 3, 1000: 1}[budget]


def test_the_reward_model_reads_the_public_template_without_a_generation_prompt(tiny, tmp_path):
    """Of both templates; Gemma's generation prompt is words, and would change the score."""
    torch.manual_seed(1)
    network = AutoModelForSequenceClassification.from_pretrained(tiny, num_labels=1, attn_implementation="eager")
    folder = tmp_path / "reward"
    network.save_pretrained(folder)
    tokenizer = AutoTokenizer.from_pretrained(tiny)
    tokenizer.save_pretrained(folder)

    def logit(talk, **options):
        ids = tokenizer.apply_chat_template(talk, return_dict=False, **options)
        with torch.no_grad():
            return network.eval()(torch.tensor([ids])).logits.item()

    talks = [*CONVERSATIONS, [*conversation("add 1 and 2", "3 ."), *conversation("and 3", "6 .")]]
    expected = [logit(talk, add_generation_prompt=False) for talk in talks]
    assert score(folder, talks) == pytest.approx(expected, abs=1e-5)
    if "gemma" in str(tiny):
        assert logit(talks[0], add_generation_prompt=True) != pytest.approx(expected[0], abs=1e-3)


@pytest.mark.parametrize("group", [2, 100])
def test_each_completion_gets_its_own_score(judge, tmp_path, monkeypatch, group):
    monkeypatch.setattr(artifacts, "GROUP", group)
    texts = ["3 .", "the old owl is big because it often likes the home .", "", "4", "the owl"]
    rows = [
        {
            "benchmark": "", "epoch": 1 + i % 2, "prompt_id": f"p{i // 2}", "sample": i % 2,
            "messages": [{"role": "user", "content": f"add {i} and 2"}], "prompt_token_ids": [1], "completion": text,
            "token_ids": list(range(i + 1)), "logp": -1.0, "finish_reason": "stop",
        }
        for i, text in enumerate(texts)
    ]  # fmt: skip
    artifacts.write(tmp_path / "c.parquet", pd.DataFrame(rows), "completions")
    stage(reward.main,
        model=judge, completions=tmp_path / "c.parquet", out=tmp_path / "s.parquet", attention="eager", dtype="float32",
        micro_batch_tokens=40,
    )  # fmt: skip
    table = artifacts.read(tmp_path / "s.parquet", "scores")
    key = ["epoch", "prompt_id", "sample"]
    assert table[key].to_dict("records") == pd.DataFrame(rows)[key].to_dict("records")
    assert table.tokens.tolist() == [1, 2, 3, 4, 5]
    alone = [score(judge, [conversation(f"add {i} and 2", text)])[0] for i, text in enumerate(texts)]
    assert table.score.tolist() == pytest.approx(alone, abs=1e-5)


@pytest.mark.parametrize("group", [2, 100])
def test_a_completion_that_the_template_changes_is_left_out_by_name(tmp_path, caplog, monkeypatch, group):
    """As a reward model of the Qwen3 family, whose template cuts out what precedes </think>."""
    monkeypatch.setattr(artifacts, "GROUP", group)
    folder = templates.folder(tmp_path / "reward", "qwen3", weights=True)
    MistralForSequenceClassification.from_pretrained(folder, num_labels=1).save_pretrained(folder)
    texts = ["good answer", "bad", "good", "<think>why</think>good", "the right way", "no"]
    rows = [
        {
            "benchmark": "", "epoch": 0, "prompt_id": f"p{i // 3}", "sample": i % 3, "completion": text, "token_ids": [1],
            "messages": [{"role": "user", "content": "hello"}], "prompt_token_ids": [1], "logp": -1.0, "finish_reason": "stop",
        }
        for i, text in enumerate(texts)
    ]  # fmt: skip
    paths = {name: tmp_path / f"{name}.parquet" for name in ("completions", "scores", "preferences", "quarantine")}
    artifacts.write(paths["completions"], pd.DataFrame(rows), "completions")
    stage(
        reward.main,
        model=folder,
        completions=paths["completions"],
        out=paths["scores"],
        attention="eager",
        dtype="float32",
        micro_batch_tokens=99,
    )
    scores = artifacts.read(paths["scores"], "scores")
    assert list(zip(scores.prompt_id, scores["sample"], strict=True)) == [
        ("p0", 0),
        ("p0", 1),
        ("p0", 2),
        ("p1", 1),
        ("p1", 2),
    ]
    assert artifacts.provenance(paths["scores"])["quarantined"][0][:2] == ["p1", 0]
    assert "(p1, sample 0)" in caplog.text
    pairs.main(**paths)
    table = artifacts.read(paths["preferences"], "preferences")
    assert len(table) == 2
    assert texts[3] not in {*table.chosen, *table.rejected}
    bad = conversation("hello", texts[3])
    with pytest.raises(UserError, match="it cannot score this conversation"):
        score(folder, [bad])
