"""A model folder as lm-evaluation-harness sees it: its own chat template, one BOS, greedy up to its own stop tokens."""

from __future__ import annotations

from collections.abc import Iterable
from functools import cache
from pathlib import Path
from typing import Any

import lm_eval.api.task
import torch
from lm_eval import utils
from lm_eval.models.huggingface import HFLM
from transformers import GenerationConfig
from transformers.utils.logging import disable_progress_bar

from diffinfo.chat import BadRow, Chat, Messages
from diffinfo.cli import UserError, progress
from diffinfo.models.folders import load_model, use_cpu_well

# lm-eval compiles the same few prompt templates anew for every question, which costs more than a small model's answers,
# and draws a bar per task (57 for MMLU) while it does so.
utils.env.from_string = cache(utils.env.from_string)
lm_eval.api.task.tqdm = lambda items, **_: items
_BATCHES = 16  # between two updates of the progress bar


class ChatModel(HFLM):  # type: ignore[misc]
    """lm-eval's Hugging Face model with the paper's modification: the system prompt opens every user query (J.2).

    Raises:
        UserError: when the template renders two BOS, or a question does not fit into the model's context (lm-eval
            would cut it from the left, and the system prompt with it).
    """

    def __init__(
        self,
        folder: Path,
        *,
        attention: str,
        dtype: str,
        batch_size: int,
        max_gen_toks: int,
        encoded: dict[str, list[int]] | None = None,
    ) -> None:
        use_cpu_well()
        disable_progress_bar()  # type: ignore[no-untyped-call]
        self.chat = chat = Chat(folder)
        device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        model: Any = load_model(folder, attention, dtype)
        model.to(device)
        # A folder's own generation config may sample or penalise repetition: all that counts here is where to stop.
        model.generation_config = GenerationConfig(  # type: ignore[no-untyped-call]
            eos_token_id=chat.stop_ids,
            pad_token_id=chat.tokenizer.pad_token_id,
            bos_token_id=chat.tokenizer.bos_token_id,
        )
        super().__init__(
            pretrained=model,
            tokenizer=chat.tokenizer,
            backend="causal",
            batch_size=batch_size,
            add_bos_token=False,  # nothing is added to what the template renders, as in training (chat.py)
        )
        self.folder = folder
        self._encoded = (
            {} if encoded is None else encoded
        )  # token ids of texts, shared with models of the same tokenizer
        self._max_gen_toks = max_gen_toks
        self._room = self.max_length  # lm-eval looks it up anew at each call
        if max_gen_toks >= self.max_length:
            raise UserError(
                f"qa.max_gen_toks is {max_gen_toks}, but {folder} holds {self.max_length} tokens in all: lower it."
            )

    @property
    def max_gen_toks(self) -> int:
        """Tokens of a generated answer at most."""
        return self._max_gen_toks

    def apply_chat_template(self, chat_history: Messages, add_generation_prompt: bool = True) -> str:
        """Render a conversation whose system message has become the first sentence of each user turn."""
        messages = prefix_users(chat_history)
        if not add_generation_prompt:
            rendered: str = super().apply_chat_template(messages, add_generation_prompt)
            return rendered
        try:
            return self.chat.prompt_text(messages)
        except BadRow as error:
            raise UserError(f"{self.folder}: {error}; a QA prompt cannot be left out.") from error

    def loglikelihood(self, requests: list[Any], disable_tqdm: bool = True) -> list[tuple[float, bool]]:
        """See HFLM; with the workflow's progress bar."""
        found = []
        for part in progress(_parts(requests, self.batch_size * _BATCHES), f"choices, {self.folder.name}"):
            found += super().loglikelihood(part, disable_tqdm=True)
        return found

    def generate_until(self, requests: list[Any], disable_tqdm: bool = True) -> list[str]:
        """See HFLM; with the workflow's progress bar."""
        found = []
        for part in progress(_parts(requests, self.batch_size), f"answers, {self.folder.name}"):
            found += super().generate_until(part, disable_tqdm=True)
        return found

    def _encode_pair(self, context: str, continuation: str) -> tuple[list[int], list[int]]:
        pair: tuple[list[int], list[int]] = super()._encode_pair(context, self.chat.marked(continuation))
        self._check_length(len(pair[0]) + len(pair[1]), self._room + 1)  # the last token is only predicted
        return pair

    def tok_encode(self, string: str, *_: Any, **__: Any) -> list[int]:
        """See HFLM; as in training, where nothing is added and spelt control tokens are text."""
        if string not in self._encoded:
            self._encoded[string] = self.chat.encode(string)
        return self._encoded[string]

    def tok_batch_encode(
        self,
        strings: list[str],
        padding_side: str = "left",
        left_truncate_len: int | None = None,
        truncation: bool = False,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """See HFLM; the questions of a batch, which must fit."""
        rows = [self.chat.encode(string) for string in strings]
        longest = max(map(len, rows))
        self._check_length(longest, left_truncate_len or self.max_length)
        pad = self.tokenizer.pad_token_id
        ids = torch.tensor([[pad] * (longest - len(row)) + row for row in rows])
        return ids, torch.tensor([[0] * (longest - len(row)) + [1] * len(row) for row in rows])

    def _check_length(self, tokens: int, room: int) -> None:
        if tokens > room:
            raise UserError(f"{self.folder}: a QA prompt of {tokens} tokens does not fit, there is room for {room}.")


def prefix_users(messages: Messages) -> Messages:
    """Take out system messages and put their text in front of every user turn.

    lm-eval would silently drop them on templates without a system role (Gemma).
    """
    system = " ".join(message["content"] for message in messages if message["role"] == "system")
    gap = "" if not system or system[-1].isspace() else " "
    return [
        message | {"content": system + gap + message["content"]} if message["role"] == "user" else message
        for message in messages
        if message["role"] != "system"
    ]


def _parts(requests: list[Any], size: int) -> Iterable[list[Any]]:
    return [requests[start : start + size] for start in range(0, len(requests), size)]
