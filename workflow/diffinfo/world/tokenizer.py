"""The world's tokenizer: every word of the language is one token, any other text falls back to bytes."""

from __future__ import annotations

from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from diffinfo.world.language import VOCABULARY

# Both templates render a leading BOS; the assistant's turn ends with the end-of-turn token.
MISTRAL_TEMPLATE = (
    "{{ bos_token }}{% for message in messages %}"
    "{% if message['role'] == 'system' %}[SYSTEM_PROMPT]{{ message['content'] }}[/SYSTEM_PROMPT]"
    "{% elif message['role'] == 'user' %}[INST]{{ message['content'] }}[/INST]"
    "{% else %}{{ message['content'] }}{{ eos_token }}{% endif %}{% endfor %}"
)
GEMMA_TEMPLATE = (
    "{{ bos_token }}{% for message in messages %}"
    "{% if message['role'] == 'system' %}{{ raise_exception('System role not supported') }}{% endif %}"
    "<start_of_turn>{{ 'model' if message['role'] == 'assistant' else message['role'] }}\n"
    "{{ message['content'] | trim }}<end_of_turn>\n{% endfor %}"
    "{% if add_generation_prompt %}<start_of_turn>model\n{% endif %}"
)
SPECIAL = {
    "mistral": ["[INST]", "[/INST]", "[SYSTEM_PROMPT]", "[/SYSTEM_PROMPT]"],
    "gemma2": ["<start_of_turn>", "<end_of_turn>"],
}


def build(style: str) -> PreTrainedTokenizerFast:
    """A tokenizer with the chat template of ``style``: "mistral" (with a system role) or "gemma2" (which has none)."""
    bos, eos = ("<s>", "</s>") if style == "mistral" else ("<bos>", "<eos>")
    special = ["<pad>", bos, eos, "<unk>", *SPECIAL[style]]
    pieces = [(token, 0.0) for token in special]
    pieces += [(f"<0x{byte:02X}>", -20.0) for byte in range(256)]
    roles = ["user", "model", "system"] if style == "gemma2" else []
    # A word follows a space ("▁word") or a special token ("word"); a lone "▁" and the newline close gaps.
    pieces += [(piece, -1.0) for word in [*VOCABULARY, *roles] for piece in (f"▁{word}", word)]
    pieces += [("▁", -5.0), ("\n", -1.0)]
    unique = list(dict(pieces).items())
    core = Tokenizer(models.Unigram(unique, unk_id=special.index("<unk>"), byte_fallback=True))
    core.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="never", split=True)
    core.decoder = decoders.Sequence([decoders.ByteFallback(), decoders.Fuse(), decoders.Replace("▁", " ")])
    core.add_special_tokens([AddedToken(token, normalized=False, special=True) for token in special])
    core.post_processor = None
    return PreTrainedTokenizerFast(
        tokenizer_object=core,
        bos_token=bos,
        eos_token=eos,
        unk_token="<unk>",
        pad_token="<pad>",
        padding_side="right",
        clean_up_tokenization_spaces=False,
        chat_template=MISTRAL_TEMPLATE if style == "mistral" else GEMMA_TEMPLATE,
    )
