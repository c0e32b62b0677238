"""Templates to token ids and completion boundaries: the one place where text becomes tokens."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from transformers import AutoTokenizer, GenerationConfig, PreTrainedTokenizerBase

from diffinfo.cli import UserError

Messages = list[dict[str, str]]


class Chat:
    """The tokenizer of a model folder with its chat template and stop tokens.

    Raises:
        UserError: when the folder's tokenizer has no chat template.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.tokenizer: PreTrainedTokenizerBase = AutoTokenizer.from_pretrained(folder, trust_remote_code=False)
        if not self.tokenizer.chat_template:
            raise UserError(f"{folder}: the tokenizer has no chat template; set models.<name>.chat_template.")
        self.stop_ids: list[int] = _stop_ids(folder, self.tokenizer)

    def prompt_ids(self, messages: Messages) -> list[int]:
        """Token ids of a conversation up to where the assistant speaks: exactly one BOS, rendered by the template."""
        ids = list(self._render(_fold_system(messages, self.tokenizer), add_generation_prompt=True))
        bos = self.tokenizer.bos_token_id
        if bos is not None and ids[:2] == [bos, bos]:
            raise UserError(f"{self.folder}: the chat template renders the BOS token twice.")
        return ids

    def pair_ids(self, messages: Messages, response: str) -> tuple[list[int], list[int]]:
        """Token ids of the prompt and of the completion; the completion ends with the end-of-turn token.

        Raises:
            UserError: when the template renders the prompt differently once an answer follows.
        """
        prompt = self.prompt_ids(messages)
        whole = self._render(
            [*_fold_system(messages, self.tokenizer), {"role": "assistant", "content": response}],
            add_generation_prompt=False,
        )
        if whole[: len(prompt)] != prompt:
            raise UserError(
                f"{self.folder}: the chat template's prompt is no prefix of its conversation; completions cannot be told apart."
            )
        completion = whole[len(prompt) :]
        ends = [index for index, token in enumerate(completion) if token in self.stop_ids]
        if not ends:
            return prompt, [*completion, self.stop_ids[0]]
        return prompt, completion[: ends[-1] + 1]  # what the template puts behind the end of turn is not the answer's

    def conversation_ids(self, messages: Messages) -> list[int]:
        """Token ids of a whole conversation, as reward models read it."""
        return self._render(_fold_system(messages, self.tokenizer), add_generation_prompt=False)

    def dialogue_ids(self, messages: Messages, response: str) -> list[int]:
        """Token ids of prompt and completion together."""
        prompt, completion = self.pair_ids(messages, response)
        return prompt + completion

    def text(self, token_ids: list[int]) -> str:
        """Text of a completion, without its stop token."""
        if token_ids and token_ids[-1] in self.stop_ids:
            token_ids = token_ids[:-1]
        decoded = self.tokenizer.decode(token_ids, skip_special_tokens=True)
        return (decoded if isinstance(decoded, str) else "".join(decoded)).strip()

    def _render(self, messages: Messages, add_generation_prompt: bool) -> list[int]:
        ids: Any = self.tokenizer.apply_chat_template(
            messages, tokenize=True, add_generation_prompt=add_generation_prompt, return_dict=False
        )
        return list(ids)


def _stop_ids(folder: Path, tokenizer: PreTrainedTokenizerBase) -> list[int]:
    """End-of-turn first, then end-of-sequence: what generation stops at (Gemma's base config names <eos> alone)."""
    ids: list[int] = []
    if (Path(folder) / "generation_config.json").exists():
        eos = GenerationConfig.from_pretrained(folder).eos_token_id
        ids = list(eos) if isinstance(eos, (list, tuple)) else [eos] if eos is not None else []
    end_of_turn = tokenizer.get_vocab().get("<end_of_turn>")
    ids = [i for i in [end_of_turn, *ids, tokenizer.eos_token_id] if i is not None]
    return list(dict.fromkeys(ids))


def _fold_system(messages: Messages, tokenizer: PreTrainedTokenizerBase) -> Messages:
    """Put a system message in front of the first user turn where the template has no system role (Gemma)."""
    if not messages or messages[0]["role"] != "system":
        return messages
    try:
        tokenizer.apply_chat_template([{"role": "system", "content": "s"}, {"role": "user", "content": "u"}])
    except Exception as error:  # jinja's raise_exception has no narrower public type
        if "system" not in str(error).lower():
            raise
        first = {"role": "user", "content": f"{messages[0]['content']}\n\n{messages[1]['content']}"}
        return [first, *messages[2:]]
    return messages
