"""Shortened equivalents of public chat templates, and tokenizers that behave like the public ones."""

import json
from pathlib import Path
from string import ascii_letters

import torch
from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
from transformers import GenerationConfig, MistralConfig, MistralForCausalLM, PreTrainedTokenizerFast

TEMPLATES = {
    "llama-3.2": (
        "{{- bos_token }}\n{%- if not date_string is defined %}{%- if strftime_now is defined %}"
        '{%- set date_string = strftime_now("%d %b %Y") %}{%- else %}{%- set date_string = "26 Jul 2024" %}{%- endif %}'
        "{%- endif %}\n{%- if messages[0]['role'] == 'system' %}{%- set system_message = messages[0]['content']|trim %}"
        "{%- set messages = messages[1:] %}{%- else %}{%- set system_message = '' %}{%- endif %}"
        '{{- "<|start_header_id|>system<|end_header_id|>\\n\\nCutting Knowledge Date: December 2023\\nToday Date: " }}'
        '{{- date_string + "\\n\\n" + system_message + "<|eot_id|>" }}'
        "{%- for m in messages %}{{- '<|start_header_id|>' + m['role'] + '<|end_header_id|>\\n\\n' + m['content'] | trim }}"
        "{{- '<|eot_id|>' }}{%- endfor %}"
        "{%- if add_generation_prompt %}{{- '<|start_header_id|>assistant<|end_header_id|>\\n\\n' }}{%- endif %}\n"
    ),
    "mistral-v0.3": (
        '{%- if messages[0]["role"] == "system" %}{%- set system_message = messages[0]["content"] %}'
        "{%- set loop_messages = messages[1:] %}{%- else %}{%- set loop_messages = messages %}{%- endif %}"
        "{%- for m in loop_messages %}{%- if (m['role'] == 'user') != (loop.index0 % 2 == 0) %}"
        '{{- raise_exception("After the optional system message, conversation roles must alternate user/assistant") }}'
        "{%- endif %}{%- endfor %}{{- bos_token }}{%- for m in loop_messages %}{%- if m['role'] == 'user' %}"
        "{%- if loop.last and system_message is defined %}"
        '{{- "[INST] " + system_message + "\\n\\n" + m["content"] + "[/INST]" }}'
        '{%- else %}{{- "[INST] " + m["content"] + "[/INST]" }}{%- endif %}'
        '{%- else %}{{- " " + m["content"]|trim + eos_token }}{%- endif %}{%- endfor %}'
    ),
    "qwen3": (
        "{%- for m in messages %}{%- set content = m.content %}{%- if m.role == 'assistant' %}"
        "{%- if '</think>' in content %}{%- set reasoning = content.split('</think>')[0].split('<think>')[-1].strip('\\n') %}"
        "{%- set content = content.split('</think>')[-1].lstrip('\\n') %}{%- endif %}{%- if loop.last %}"
        "{{- '<|im_start|>assistant\\n<think>\\n' + (reasoning or '') + '\\n</think>\\n\\n' + content.lstrip('\\n') }}"
        "{%- else %}{{- '<|im_start|>assistant\\n' + content }}{%- endif %}{{- '<|im_end|>\\n' }}"
        "{%- else %}{{- '<|im_start|>' + m.role + '\\n' + content + '<|im_end|>' + '\\n' }}{%- endif %}{%- endfor %}"
        "{%- if add_generation_prompt %}{{- '<|im_start|>assistant\\n' }}"
        "{%- if enable_thinking is defined and enable_thinking is false %}{{- '<think>\\n\\n</think>\\n\\n' }}{%- endif %}"
        "{%- endif %}"
    ),
    "phi-3": (
        "{% for m in messages %}{{'<|' + m['role'] + '|>\n' + m['content'] + '<|end|>\n'}}{% endfor %}"
        "{% if add_generation_prompt %}{{ '<|assistant|>\n' }}{% else %}{{ eos_token }}{% endif %}"
    ),
    "chatml": (
        "{% for m in messages %}{{'<|im_start|>' + m['role'] + '\n' + m['content'] + '<|im_end|>' + '\n'}}{% endfor %}"
        "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
    ),
    "gemma": (
        "{{ bos_token }}{% if messages[0]['role'] == 'system' %}{{ raise_exception('System role not supported') }}{% endif %}"
        "{% for m in messages %}{{ '<start_of_turn>' + ('model' if m['role'] == 'assistant' else m['role']) + '\n' }}"
        "{{ m['content'] | trim + '<end_of_turn>\n' }}{% endfor %}"
        "{% if add_generation_prompt %}{{'<start_of_turn>model\n'}}{% endif %}"
    ),
    "deepseek-r1": (
        "{{ bos_token }}{%- for m in messages %}{%- if m['role'] == 'system' %}{{ m['content'] }}{%- endif %}"
        "{%- if m['role'] == 'user' %}{{- '<｜User｜>' + m['content'] }}{%- endif %}{%- if m['role'] == 'assistant' %}"
        "{%- set content = m['content'] %}{% if '</think>' in content %}{% set content = content.split('</think>')[-1] %}"
        "{% endif %}{{- '<｜Assistant｜>' + content + eos_token }}{%- endif %}{%- endfor %}"
        "{% if add_generation_prompt %}{{ '<｜Assistant｜>' }}{% endif %}"
    ),
    "alpaca": (
        "{% for m in messages %}{{ '### ' + m['role'] + ':\n' + m['content'] + '\n\n' }}{% endfor %}"
        "{% if add_generation_prompt %}{{ '### assistant:\n' }}{% endif %}"
    ),
}
BOS, EOS = "<s>", "</s>"
SPECIAL = [
    "<pad>", BOS, EOS, "<unk>", "<|eot_id|>", "<|start_header_id|>", "<|end_header_id|>", "[INST]", "[/INST]",
    "<|im_start|>", "<|im_end|>", "<|end|>", "<|user|>", "<|assistant|>", "<|system|>", "<start_of_turn>", "<end_of_turn>",
    "<｜User｜>", "<｜Assistant｜>",
]  # fmt: skip
GEMMA = ["\n", "\n\n", "\n\n\n", "▁▁", "▁▁▁", "\t", "<b>", "</b>", "<code>"]
TEXT = ["hello there", "good answer\n\nbad answer\n\n", "be brief\n", "a question, an answer", "the right way"] * 50
# Where words end, as in Qwen's tokenizers: line breaks in a row are one piece.
PIECES = r"[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"


def tokenizer(
    kind: str = "qwen", template: str = "chatml", adds_bos: bool = False, eos: str = EOS
) -> PreTrainedTokenizerFast:
    """A tokenizer that behaves like those of a family, with a public-like template.

    ``qwen``: bytes, as in Llama 3 too. ``mistral``: words with a mark before them. ``gemma``: characters, and line
    breaks, blanks and HTML tags that are added tokens without being special.
    """
    plain = ["<think>", "</think>"]
    if kind == "qwen":
        core = Tokenizer(models.BPE())
        core.pre_tokenizer = pre_tokenizers.Sequence(
            [
                pre_tokenizers.Split(Regex(PIECES), "isolated"),
                pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
            ]
        )
        core.decoder = decoders.ByteLevel()
        alphabet = pre_tokenizers.ByteLevel.alphabet()
        core.train_from_iterator(
            TEXT, trainers.BpeTrainer(vocab_size=320, initial_alphabet=alphabet, show_progress=False)
        )
    elif kind == "gemma":
        pieces = [*SPECIAL, *(f"<0x{byte:02X}>" for byte in range(256)), *GEMMA, *"▁<>[]|/#:_,", *ascii_letters]
        core = Tokenizer(
            models.BPE({piece: i for i, piece in enumerate(pieces)}, [], unk_token="<unk>", byte_fallback=True)
        )
        core.normalizer = normalizers.Replace(" ", "▁")
        core.decoder = decoders.Sequence([decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()])
        plain += GEMMA
    else:
        words = [piece for word in " ".join(TEXT[:5]).split() for piece in (f"▁{word}", word)]
        pieces = [(name, 0.0) for name in SPECIAL] + [(f"<0x{byte:02X}>", -20.0) for byte in range(256)]
        pieces += [(piece, -1.0) for piece in dict.fromkeys(words)] + [("▁", -5.0)]
        core = Tokenizer(models.Unigram(pieces, unk_id=3, byte_fallback=True))
        core.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
        core.decoder = decoders.Sequence(
            [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
        )
    core.add_special_tokens([AddedToken(name, special=True, normalized=False) for name in SPECIAL])
    core.add_tokens([AddedToken(name, special=False, normalized=False) for name in plain])
    if adds_bos:
        core.post_processor = processors.TemplateProcessing(
            single=f"{BOS} $A", special_tokens=[(BOS, core.token_to_id(BOS))]
        )
    return PreTrainedTokenizerFast(
        tokenizer_object=core, bos_token=BOS, eos_token=eos, pad_token="<pad>", unk_token="<unk>", padding_side="right",
        clean_up_tokenization_spaces=False, chat_template=TEMPLATES.get(template, template),
    )  # fmt: skip


def folder(path: Path, template: str = "chatml", kind: str = "qwen", weights: bool = False, **options) -> Path:
    """A model folder with such a tokenizer; with ``weights`` a random model too."""
    made = tokenizer(kind, template, **options)
    made.save_pretrained(path)
    config = MistralConfig(
        vocab_size=len(made), hidden_size=16, intermediate_size=16, num_hidden_layers=1, num_attention_heads=2,
        num_key_value_heads=1, bos_token_id=made.bos_token_id, eos_token_id=made.eos_token_id, pad_token_id=made.pad_token_id,
    )  # fmt: skip
    if weights:
        torch.manual_seed(0)
        MistralForCausalLM(config).save_pretrained(path)
        GenerationConfig(eos_token_id=made.eos_token_id).save_pretrained(path)
    else:
        (path / "config.json").write_text(json.dumps(config.to_dict()))
    return path
