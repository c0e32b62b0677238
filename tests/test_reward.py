import pytest
import torch
from transformers import AutoModelForSequenceClassification, MistralForSequenceClassification

from diffinfo import reward
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
