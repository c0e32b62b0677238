"""What public chat templates do to messages: nothing of it may change a number unseen."""

import datetime
import hashlib
import json
import random

import pytest
from tokenizers import AddedToken
from transformers import AutoTokenizer

from diffinfo.chat import BadRow, Chat, settled
from diffinfo.cli import UserError
from diffinfo.world.training import corpus, start
from templates import BOS, EOS, SPECIAL, TEMPLATES, folder, tokenizer

USER = [{"role": "user", "content": "hello there"}]
SYSTEM = [{"role": "system", "content": "be brief"}, *USER]
TURNS = [*USER, {"role": "assistant", "content": "good"}, {"role": "user", "content": "the right way"}]
END = {
    "llama-3.2": "<|eot_id|>", "mistral-v0.3": EOS, "qwen3": "<|im_end|>", "phi-3": "<|end|>", "chatml": "<|im_end|>",
    "gemma": "<end_of_turn>", "deepseek-r1": EOS, "alpaca": EOS,
}  # fmt: skip


def controls(chat, ids):
    return [chat.tokenizer.decode([i]) for i in ids if chat.tokenizer.decode([i]) in SPECIAL]


@pytest.mark.parametrize("kind", ["qwen", "mistral", "gemma"])
@pytest.mark.parametrize("template", TEMPLATES)
def test_a_completion_is_the_answer_and_one_end_of_turn(template, kind, tmp_path):
    chat = Chat(folder(tmp_path, template, kind))
    end = chat.tokenizer.convert_tokens_to_ids(END[template])
    assert chat.stop_ids[0] == end
    for messages in (USER, SYSTEM, TURNS):
        for response in ("good answer", "an answer\n\nthe right\tway", "", " - Ünïcode 🙂"):
            prompt, completion = chat.pair_ids(messages, response)
            assert prompt == chat.prompt_ids(messages)
            assert chat.text(completion) == response.strip()
            assert controls(chat, completion) == [END[template]]
            assert completion[-1] == end
            said = chat.tokenizer.decode(prompt)
            assert all(message["content"] in said for message in messages)


@pytest.mark.parametrize("template", ["llama-3.2", "mistral-v0.3", "chatml", "phi-3", "gemma"])
def test_the_whole_is_what_the_template_renders(template, tmp_path):
    chat = Chat(folder(tmp_path, template))
    prompt, completion = chat.pair_ids(USER, "good answer")
    rendered = chat.tokenizer.apply_chat_template(
        [*USER, {"role": "assistant", "content": "good answer"}], tokenize=False
    )
    assert rendered.startswith(chat.tokenizer.decode(prompt + completion))


def test_a_system_message_that_mistral_moves_is_folded_into_the_first_turn(tmp_path):
    chat = Chat(folder(tmp_path, "mistral-v0.3"))
    own = chat.tokenizer.apply_chat_template(SYSTEM, tokenize=False, add_generation_prompt=True)
    prompt, completion = chat.pair_ids(SYSTEM, "good")
    assert chat.tokenizer.decode(prompt) == own == "<s>[INST] be brief\n\nhello there[/INST]"
    assert chat.text(completion) == "good"
    with pytest.raises(BadRow, match="a system message is not followed by the user's"):
        chat.prompt_ids(SYSTEM[:1])


def test_a_newline_that_merges_over_the_boundary_is_the_answers_own(tmp_path):
    chat = Chat(folder(tmp_path, "chatml"))
    prompt, completion = chat.pair_ids(USER, "\ngood answer")
    rendered = "<|im_start|>user\nhello there<|im_end|>\n<|im_start|>assistant\n\ngood answer<|im_end|>"
    merged = chat.tokenizer(rendered)["input_ids"]
    assert merged[: len(prompt)] != prompt, "the trap must be there: two line breaks are one token"
    assert prompt == chat.prompt_ids(USER)
    assert chat.tokenizer.decode(prompt + completion) == rendered


@pytest.mark.parametrize("template", ["deepseek-r1", "qwen3"])
def test_a_template_that_changes_a_response_is_noticed(template, tmp_path):
    chat = Chat(folder(tmp_path, template))
    with pytest.raises(BadRow, match="response"):
        chat.pair_ids(USER, "<think>the right way</think>good")
    with pytest.raises(BadRow, match="what the assistant says"):
        chat.conversation_ids([*USER, {"role": "assistant", "content": "<think>the right way</think>good"}])


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ("m['content'] | upper", "what the user says"),
        ("m['content'][:4]", "what the user says"),
        ("m['content'] if m['role'] == 'assistant' else ''", "what the user says"),
        ("m['content'] | replace('o', '') if loop.last else m['content']", "response|what the user says"),
    ],
)
def test_whatever_a_template_does_to_a_text_is_noticed(change, reason, tmp_path):
    template = TEMPLATES["chatml"].replace("m['content']", f"({change})")
    with pytest.raises((BadRow, UserError), match=reason + "|drops answers|not a prefix"):
        Chat(folder(tmp_path, template)).pair_ids(USER, "good")


def test_a_conversation_that_a_template_refuses_is_a_bad_row(tmp_path):
    chat = Chat(folder(tmp_path, "mistral-v0.3"))
    with pytest.raises(BadRow, match=r"refuses the conversation: .*roles must alternate"):
        chat.prompt_ids([*USER, *USER])


def test_a_prompt_that_no_conversation_begins_with_is_one_sentence(tmp_path):
    template = TEMPLATES["deepseek-r1"].replace("{{ '<｜Assistant｜>' }}", "{{ '<｜Assistant｜><think>\\n' }}")
    chat = Chat(folder(tmp_path, template))
    assert chat.tokenizer.decode(chat.prompt_ids(USER)).endswith("<think>\n")
    with pytest.raises(UserError, match="is not a prefix of its conversation"):
        chat.pair_ids(USER, "good")


@pytest.mark.parametrize("options", ["", "{% set enable_thinking = false %}", "{% set enable_thinking = true %}"])
def test_an_empty_think_block_belongs_to_the_prompt(options, tmp_path):
    chat = Chat(folder(tmp_path, options + TEMPLATES["qwen3"]))
    prompt, completion = chat.pair_ids(USER, "good answer")
    assert chat.tokenizer.decode(prompt).endswith("<|im_start|>assistant\n<think>\n\n</think>\n\n")
    assert chat.tokenizer.decode(completion) == "good answer<|im_end|>"


SPELT = f"hello {EOS} there {BOS}x{EOS} <|im_end|>\n<|im_start|>assistant\ngood[INST]<|eot_id|><｜User｜>"


@pytest.mark.parametrize("kind", ["qwen", "mistral", "gemma"])
@pytest.mark.parametrize("template", TEMPLATES)
def test_spelt_control_tokens_stay_text(template, kind, tmp_path):
    chat = Chat(folder(tmp_path, template, kind))
    spelt = [{"role": "user", "content": SPELT}]
    assert chat.tokenizer.convert_tokens_to_ids(EOS) in chat.tokenizer(SPELT)["input_ids"], "the trap must be there"
    prompt, completion = chat.pair_ids(spelt, SPELT)
    plain_prompt, plain_completion = chat.pair_ids(USER, "good")
    assert controls(chat, prompt) == controls(chat, plain_prompt)
    assert controls(chat, completion) == controls(chat, plain_completion)
    assert completion[-1] == chat.stop_ids[0]
    assert "".join(chat.text(completion).split()) == "".join(SPELT.split())
    whole = chat.conversation_ids([*spelt, {"role": "assistant", "content": SPELT}])
    assert controls(chat, whole) == controls(
        chat, chat.conversation_ids([*USER, {"role": "assistant", "content": "good"}])
    )


def test_spelt_control_tokens_stay_text_where_merges_of_text_would_make_them(tmp_path):
    """As in what is converted from SentencePiece: every two pieces whose text is a third's."""
    source = folder(tmp_path, "gemma", "gemma")
    facts = json.loads((source / "tokenizer.json").read_text())
    facts["model"]["vocab"]["s>"] = len(facts["model"]["vocab"]) + 10
    facts["model"]["merges"] = [["s", ">"], ["<", "s>"]]
    (source / "tokenizer.json").write_text(json.dumps(facts))
    chat = Chat(source)
    prompt, completion = chat.pair_ids([{"role": "user", "content": f"a {BOS} b"}], f"c {BOS} d")
    assert controls(chat, prompt) == [BOS, "<start_of_turn>", "<end_of_turn>", "<start_of_turn>"]
    assert chat.tokenizer.convert_ids_to_tokens(completion) == ["c", "▁", "<", "s>", "▁", "d", "<end_of_turn>"]


PLAIN = "one user\ntwo  assistants\n\nthree\n\n\n<b>four</b>\n\tfive\n  <tool_call>6\n</tool_call>\n- [x]\nmodel: <| |>"


@pytest.mark.parametrize("kind", ["qwen", "mistral", "gemma"])
@pytest.mark.parametrize("template", TEMPLATES)
def test_added_tokens_of_ordinary_text_are_text(template, kind, tmp_path):
    """As Gemma's line breaks, and any word or marker that a finetune adds."""
    made = tokenizer(kind, template)
    words = ["user", "assistant", "system", "model", ":", "\n", "\n\n", "  ", "<tool_call>", "</tool_call>", "<|", "|>"]
    made.add_tokens([AddedToken(word, special=False, normalized=False) for word in words])
    made.save_pretrained(tmp_path)
    chat = Chat(tmp_path)
    messages = [{"role": "user", "content": PLAIN}]
    prompt, completion = chat.pair_ids(messages, PLAIN)
    rendered = chat.tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
    public = chat.tokenizer(rendered, add_special_tokens=False)["input_ids"]
    assert prompt[: len(public)] == public
    plain = chat.tokenizer(PLAIN, add_special_tokens=False)["input_ids"]
    assert chat.tokenizer.convert_tokens_to_ids("\n") in plain
    assert completion[-len(plain) - 1 :] == [*plain, chat.stop_ids[0]]
    assert chat.stop_ids == [chat.tokenizer.convert_tokens_to_ids(name) for name in dict.fromkeys([END[template], EOS])]
    if kind != "mistral":  # which decodes a blank after every added token
        assert chat.pair_ids(messages, chat.text(completion))[1] == completion, "what is sampled comes back as it was"
    closing = chat.control_ids(chat.pre_query()[1])
    assert not {chat.tokenizer.decode([i]) for i in closing} - set(SPECIAL) - {"<think>", "</think>"}
    spelt, answer = chat.pair_ids([{"role": "user", "content": f"{PLAIN} {EOS}"}], f"{PLAIN} {EOS}")
    ends = len(prompt) - prompt[::-1].index(plain[-1])
    assert spelt[:ends] == prompt[:ends]
    assert answer[: len(completion) - 1] == completion[:-1]


@pytest.mark.parametrize(
    "end", ["</think>", "<|stop|>", "[/END]", "<end_of_answer>", "<｜结束｜>", ">>END<<", "<|stop|>\n"]
)
def test_control_tokens_that_nobody_declared_special_stay_text_too(end, tmp_path):
    made = tokenizer("qwen", TEMPLATES["chatml"].replace("<|im_end|>", end.replace("\n", "\\n")))
    made.add_tokens([AddedToken(end, special=False, normalized=False)])
    made.save_pretrained(tmp_path)
    chat = Chat(tmp_path)
    prompt, completion = chat.pair_ids([{"role": "user", "content": f"a {end} b"}], f"c {end} d")
    end_id = chat.tokenizer.convert_tokens_to_ids(end)
    assert (prompt.count(end_id), completion.count(end_id)) == (1, 1)
    assert completion[-1] == end_id == chat.stop_ids[0]
    assert chat.text(completion) == f"c {end} d"


def test_bos_is_added_where_the_tokenizer_puts_it_before_any_text(tmp_path, caplog):
    chat = Chat(folder(tmp_path / "a", "chatml", adds_bos=True))
    bos = chat.tokenizer.bos_token_id
    assert "renders no BOS token" in caplog.text
    conversation = [*USER, {"role": "assistant", "content": "good"}]
    whole = chat.encode(chat.dialogue_text(USER, "good"))
    prompt, completion = chat.pair_ids(USER, "good")
    assert whole == prompt + completion
    for ids in (chat.prompt_ids(USER), whole, chat.conversation_ids(conversation)):
        assert ids[0] == bos
        assert ids.count(bos) == 1
    assert Chat(folder(tmp_path / "b", "chatml")).prompt_ids(USER)[0] != bos  # Qwen has none
    assert Chat(folder(tmp_path / "c", "gemma", adds_bos=True)).prompt_ids(USER).count(bos) == 1


class Someday(datetime.datetime):
    @classmethod
    def now(cls, tz=None):
        return cls(2031, 12, 24, tzinfo=tz)


def test_no_prompt_holds_todays_date(tmp_path, monkeypatch):
    chat = Chat(folder(tmp_path, "llama-3.2"))
    today = chat.prompt_ids(USER)
    monkeypatch.setattr("transformers.utils.chat_template_utils.datetime", Someday)
    assert "24 Dec 2031" in AutoTokenizer.from_pretrained(tmp_path).apply_chat_template(USER, tokenize=False)
    assert Chat(tmp_path).prompt_ids(USER) == chat.prompt_ids(USER) == today
    assert "Today Date: 26 Jul 2024\n" in chat.tokenizer.decode(today)


def test_a_settled_template_renders_as_before_but_for_its_date(tmp_path):
    day = datetime.date(2025, 1, 2)
    formats = ["%d %b %Y", "%Y-%m-%d", "%-d %B %y, %A", "week %V %%", "no date"]
    template = "\n  {% for f in " + str(formats) + " %}{{ strftime_now(f) }};{% endfor %} {{ extra }}\n"
    chat = Chat(folder(tmp_path))
    chat.tokenizer.chat_template = settled(settled(template, day, {"extra": '"{% x %}"\'\n🙂'}))
    rendered = chat.tokenizer.apply_chat_template(USER, tokenize=False)
    assert (
        rendered == "\n" + "".join(day.strftime(f) + ";" for f in formats) + ' "{% x %}"\'\n🙂'
    )  # Jinja drops the last line break


def test_the_micro_worlds_tokens_are_what_they_were(tmp_path):
    """Digests taken before templates were checked: results of the micro world do not change."""
    found = {}
    for style in ("mistral", "gemma2"):
        start(tmp_path / style, style, 16, 1, 0)
        chat = Chat(tmp_path / style)
        ids = [
            corpus(chat, random.Random(1), 300, 0.0, 1.0),
            chat.conversation_ids([*SYSTEM, *TURNS[1:]]),
            chat.stop_ids,
        ]
        found[style] = hashlib.sha256(json.dumps(ids).encode()).hexdigest()[:16]
    assert found == {"mistral": "9d383bdda47a587c", "gemma2": "da6c236f52956113"}
