"""Models small enough to be written by hand, bigram tables in the shape of a Mistral, and questions in their words."""

from pathlib import Path

import torch

from diffinfo.world.qa_tasks import Item

SPECIAL = ["<pad>", "<s>", "</s>", "<unk>", "[INST]", "[/INST]", "[SYS]", "<turn>", "<end_of_turn>", "model"]
WORDS = [
    *("be", "kind", ".", "gold", "iron", "lead", "zinc", "A", "B", "C", "D", "no", "yes", "####", "3", "4", "7", "9"),
    *("add", "and", "what", "is", "it", "has", "the", "cat", "Question:", "Answer:"),
]
VOCABULARY = {word: index for index, word in enumerate(SPECIAL + WORDS)}
MISTRAL = (
    "{{ bos_token }}{% for m in messages %}{% if m['role'] == 'system' %}[SYS]{{ m['content'] }}[SYS]"
    "{% elif m['role'] == 'user' %}[INST]{{ m['content'] }}[/INST]"
    "{% else %}{{ m['content'] }}{{ eos_token }}{% endif %}{% endfor %}"
)
GEMMA = (
    "{{ bos_token }}{% for m in messages %}"
    "{% if m['role'] == 'system' %}{{ raise_exception('System role not supported') }}{% endif %}"
    "<turn>{{ 'model' if m['role'] == 'assistant' else m['role'] }}\n{{ m['content'] }}<end_of_turn>\n{% endfor %}"
    "{% if add_generation_prompt %}<turn>model\n{% endif %}"
)
# as SmolLM2's, Qwen2.5's and Llama's
OWN = MISTRAL.replace("{% for", "{% if messages[0]['role'] != 'system' %}[SYS]add it[SYS]{% endif %}{% for", 1)
CHOICES = {"piqa": 2, "siqa": 3, "hellaswag": 4, "arc_easy": 4, "arc_challenge": 4, "mmlu": 4, "boolq": 2}
Bigrams = dict[tuple[str, str], float]  # (word, next word): logit


def write_model(folder: Path, bigrams: Bigrams | None, template: str = MISTRAL, seed: int = 0) -> Path:
    """A Mistral whose next word depends on the last word alone, as ``bigrams`` says; None: random weights."""
    from tokenizers import Tokenizer, models, pre_tokenizers, processors
    from transformers import MistralConfig, MistralForCausalLM, PreTrainedTokenizerFast

    core = Tokenizer(models.WordLevel(VOCABULARY, unk_token="<unk>"))
    core.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    core.add_special_tokens(SPECIAL[:-1])
    core.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 1)])  # as Mistral's
    names = {"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>", "pad_token": "<pad>"}
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=core, chat_template=template, **names)
    assert tokenizer.encode("gold")[0] == 1, "the trap must be there: encoding a rendered prompt adds a second BOS"
    torch.manual_seed(seed)
    size = len(VOCABULARY)
    config = MistralConfig(
        vocab_size=size, hidden_size=64, intermediate_size=32, num_hidden_layers=1, num_attention_heads=2,
        num_key_value_heads=1, max_position_embeddings=128, bos_token_id=1, eos_token_id=2, pad_token_id=0,
    )  # fmt: skip
    model = MistralForCausalLM(config)
    if bigrams is not None:
        with torch.no_grad():
            model.model.layers[0].self_attn.o_proj.weight.zero_()
            model.model.layers[0].mlp.down_proj.weight.zero_()
            model.model.embed_tokens.weight.copy_(torch.eye(64)[:size])
            table = torch.zeros(64, size)
            for (word, after), logit in bigrams.items():
                rows = range(size) if word == "*" else [VOCABULARY[word]]
                for row in rows:
                    table[row, VOCABULARY[after]] = logit / 8  # the last norm scales a one-hot of 64 to 8
            model.lm_head.weight.copy_(table.T)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def items(right: str, wrong: tuple[str, ...], count: int = 6, letter: int | None = None) -> dict[str, list[Item]]:
    """Questions whose right choice is ``right``, at every position in turn (``letter``: at this one for MMLU)."""

    def ask(choices: int, index: int) -> Item:
        answer = index % choices
        offered = [*wrong[: choices - 1]]
        offered.insert(answer, right)
        return Item("what is it", tuple(offered), answer, "it has gold .")

    made = {name: [ask(choices, i) for i in range(count)] for name, choices in CHOICES.items() if name != "boolq"}
    if letter is not None:
        made["mmlu"] = [ask(4, letter)] * count
    made["boolq"] = [Item("what is it", ("no", "yes"), 1, "it has gold .")] * count
    made["gsm8k"] = [Item(f"add {a} and {b}", ("7",), 0, "it is") for a in "34" for b in "349"][:count]
    return made


# A model that says "#### 7" and stops. Were it not stopped, it would go on with 9, and the last number counts.
SAYS_SEVEN: Bigrams = {("[/INST]", "####"): 20, ("####", "7"): 20, ("7", "</s>"): 20, ("</s>", "9"): 20}
PREFERS: Bigrams = {("[/INST]", word): 5.0 for word in ("gold", "A", "yes")}
