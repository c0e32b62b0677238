import json

import pytest
from transformers import AutoTokenizer

from diffinfo.chat import Chat
from diffinfo.cli import UserError
from diffinfo.world.tokenizer import GEMMA_TEMPLATE

USER = [{"role": "user", "content": "list 3 items of fruit please"}]


def test_one_bos_and_the_end_of_turn_closes_the_completion(tiny):
    chat = Chat(tiny)
    prompt, completion = chat.pair_ids(USER, "sure ! apple , fig .")
    bos = chat.tokenizer.bos_token_id
    assert prompt[0] == bos
    assert (prompt + completion).count(bos) == 1
    end = "<end_of_turn>" if "gemma" in str(tiny) else "</s>"
    assert chat.tokenizer.convert_ids_to_tokens(completion[-1]) == end
    assert completion[-1] in chat.stop_ids
    assert completion.count(completion[-1]) == 1
    assert chat.text(completion) == "sure ! apple , fig ."


def test_prompt_ids_do_not_depend_on_the_answer(tiny):
    chat = Chat(tiny)
    for answer in ("apple", "", "Ünïcode\nand lines", "- apple - fig"):
        prompt, completion = chat.pair_ids(USER, answer)
        assert prompt == chat.prompt_ids(USER)
        assert chat.text(completion) == answer


def test_any_text_survives_the_tokenizer(tiny):
    chat = Chat(tiny)
    text = "Write a SCIM server in PHP\n\tusing slim — naïve, 日本語 🙂"
    assert chat.text(chat.pair_ids(USER, text)[1]) == text


def test_system_message_is_never_lost(tiny):
    chat = Chat(tiny)
    messages = [{"role": "system", "content": "you are a helpful assistant ."}, *USER]
    text = chat.tokenizer.decode(chat.prompt_ids(messages))
    assert "helpful assistant" in text
    assert "fruit" in text


def test_the_text_of_a_completion_has_no_stop_token_whether_the_tokenizer_calls_it_special_or_not(tiny_mistral):
    chat = Chat(tiny_mistral)
    owl, cat = (chat.tokenizer("the owl cat")["input_ids"][i] for i in (-2, -1))
    chat.stop_ids.append(owl)
    assert chat.text([cat, owl, cat, owl]) == "cat owl cat"
    assert chat.text([cat, owl, cat, chat.tokenizer.eos_token_id]) == "cat owl cat"
    assert chat.text([]) == ""


def test_several_turns(tiny):
    chat = Chat(tiny)
    messages = [*USER, {"role": "assistant", "content": "apple"}, {"role": "user", "content": "more please"}]
    prompt, completion = chat.pair_ids(messages, "fig")
    assert chat.text(completion) == "fig"
    assert prompt.count(chat.tokenizer.bos_token_id) == 1


def test_template_that_doubles_bos_is_refused(tiny_mistral, tmp_path):
    tokenizer = AutoTokenizer.from_pretrained(tiny_mistral)
    tokenizer.chat_template = "{{ bos_token }}" + tokenizer.chat_template
    tokenizer.save_pretrained(tmp_path)
    with pytest.raises(UserError, match="renders the BOS token twice"):
        Chat(tmp_path).prompt_ids(USER)


def test_missing_template_is_one_sentence(tiny_mistral, tmp_path):
    tokenizer = AutoTokenizer.from_pretrained(tiny_mistral)
    tokenizer.chat_template = None
    tokenizer.save_pretrained(tmp_path)
    with pytest.raises(UserError, match=r"no chat template; set models\.<name>\.chat_template"):
        Chat(tmp_path)


def test_base_model_that_names_eos_alone_still_stops_at_the_end_of_turn(tiny, tmp_path):
    if "gemma" not in str(tiny):
        pytest.skip("only Gemma has two stop tokens")
    tokenizer = AutoTokenizer.from_pretrained(tiny)
    assert tokenizer.chat_template == GEMMA_TEMPLATE
    tokenizer.save_pretrained(tmp_path)
    (tmp_path / "generation_config.json").write_text(json.dumps({"eos_token_id": tokenizer.eos_token_id}))
    chat = Chat(tmp_path)
    assert set(chat.tokenizer.convert_ids_to_tokens(chat.stop_ids)) == {"<end_of_turn>", "<eos>"}
