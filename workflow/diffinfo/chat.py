"""Templates to token ids and completion boundaries: the one place where text becomes tokens.

A prompt is what sampling sees: the template's generation prompt and whatever else the template writes before an answer
(Qwen3's empty think block). A completion is the answer alone and the one token that ends a turn. A row whose text a
template changes, or does not come back out of its tokens, is a ``BadRow``. A template may trim white space around a message;
tokens need not give back white space (a tokenizer's decoder makes it) nor whether Unicode's characters were composed.
"""

from __future__ import annotations

import json
import re
import unicodedata
from collections import Counter
from collections.abc import Mapping, Sequence
from datetime import date
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from tokenizers import Tokenizer
from transformers import AutoTokenizer, PreTrainedTokenizerBase

from diffinfo.cli import UserError, log
from diffinfo.config.types import TEMPLATE_DATE

Messages = list[dict[str, str]]

_USER = [{"role": "user", "content": "a question"}]
_SYSTEM = {"role": "system", "content": "a rule"}
_ANSWER = "an answer"
_SPELT, _MEANT = "\U0010fffc", "\U0010fffd"  # private characters: before control tokens of a message, of the template
_MARKER = re.compile(
    r"[<>\[\]{}|｜].*\w|\w.*[<>\[\]{}|｜]", re.DOTALL
)  # a name and some bracket or bar: <|im_end|>, [INST]
_SETTLED = "{# settled #}"
_DATE_CODES = ["-d", "-m", "-j", "-H", "-I", "-M", "-S", *"aAbBcdDeFGgHIjmMprRSTuUVwWxXyYzZ%"]


class BadRow(Exception):
    """Why a conversation does not fit a chat template."""


def settled(template: str, day: date = TEMPLATE_DATE, values: Mapping[str, Any] | None = None) -> str:
    """A template that holds its date and its variables itself, so that they are the same wherever a folder is read.

    Args:
        template: a Jinja chat template.
        day: what ``strftime_now`` and ``date_string`` give; a template that was settled before keeps its own.
        values: further variables, such as enable_thinking.
    """
    head, given = "", dict(values or {})
    if _SETTLED not in template:
        if "strftime_now" in template:
            filled = "".join(
                f" | replace({json.dumps('%' + c)}, {json.dumps(day.strftime('%' + c))})" for c in _DATE_CODES
            )
            head += f"{{% macro strftime_now(format) %}}{{{{ format{filled} }}}}{{% endmacro +%}}"
        if "date_string" in template:  # Llama's name for it
            given = {"date_string": day.strftime("%d %b %Y")} | given
    for name, value in given.items():
        head += f"{{% set {name} = {json.dumps(value, ensure_ascii=False)} +%}}"
    return (_SETTLED if head else "") + head + template


class Chat:
    """The tokenizer of a model folder with its chat template and stop tokens.

    Attributes:
        tokenizer: the tokenizer; its template begins with BOS where the tokenizer puts one before any text.
        stop_ids: the token that the template puts after an answer (or EOS), then every other that ends generation.

    Raises:
        UserError: when the folder's tokenizer has no chat template, or one that fails on the plainest conversation, drops
            answers or renders BOS twice.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.tokenizer: PreTrainedTokenizerBase = AutoTokenizer.from_pretrained(folder, trust_remote_code=False)
        if not self.tokenizer.chat_template:
            raise UserError(f"{folder}: the tokenizer has no chat template; set models.<name>.chat_template.")
        self._controls = re.compile("(?!)")
        self._last: tuple[str, Messages, list[int]] = ("", [], [])
        try:
            self.tokenizer.chat_template = settled(self.tokenizer.get_chat_template())
            self._require_one_bos()
            opening = self._template(_USER, True)
            whole = self._template([*_USER, _answer(_ANSWER)], False)
        except (BadRow, ValueError, TypeError) as error:
            raise UserError(f"{folder}: {error}; set models.<name>.chat_template to another.") from error
        before, answered, self._tail = whole.rpartition(_ANSWER)
        if not answered:
            raise UserError(f"{folder}: the chat template drops answers; set models.<name>.chat_template to another.")
        self._separable = before.startswith(opening)
        lead = before[len(opening) :] if self._separable else ""
        self._lead = lead if lead.strip() else ""  # a lone space belongs to the answer's first word
        if names := _control_names(self.tokenizer, opening + whole):
            self._controls = re.compile("|".join(map(re.escape, sorted(names, key=len, reverse=True))))
        end = self._controls.search(self._tail)
        self._end = self._tail[: end.end()] if end else ""
        self.stop_ids: list[int] = _stop_ids(folder, self.tokenizer, end[0] if end else None)
        if not self.stop_ids:
            raise UserError(f"{folder}: neither chat template nor tokenizer names a token that ends an answer.")
        self._folds_system = self._must_fold_system()

    def prompt_ids(self, messages: Messages) -> list[int]:
        """Token ids of a conversation up to where the assistant's answer begins.

        Raises:
            BadRow: when the template refuses the conversation, or the text of a message is not in the decoded ids.
        """
        return self._checked(self.prompt_text(messages), messages)

    def pair_ids(self, messages: Messages, response: str) -> tuple[list[int], list[int]]:
        """Token ids of the prompt and of the completion, which ends with the end-of-turn token.

        Raises:
            BadRow: when the template refuses the conversation, or the text is not what the ids decode to.
            UserError: when the template renders every prompt differently once an answer follows.
        """
        if not self._separable:
            raise UserError(
                f"{self.folder}: the chat template's prompt is not a prefix of its conversation, so that completions cannot be"
                " told apart; set models.<name>.chat_template to another."
            )
        text = self.prompt_text(messages)
        prompt = self._checked(text, messages)
        whole = self._template([*self._folded(messages), _answer(response)], False)
        if not whole.startswith(text):
            raise BadRow("the chat template renders the prompt differently once this response follows")
        if not whole[len(text) :].endswith(self._tail):
            raise BadRow("the chat template ends this response differently from others")
        answer = whole[len(text) :].removesuffix(self._tail)
        rest = answer + self._end
        ids = self.encode(text + rest)
        # A token that crosses the boundary could not have been sampled either.
        completion = ids[len(prompt) :] if ids[: len(prompt)] == prompt else self.encode(rest)
        if not self._end:
            completion = [*completion, self.stop_ids[0]]
        if answer.strip() != self.marked(response).strip() or _letters(self.text(completion)) != _letters(response):
            raise BadRow("the chat template or the tokenizer changes the text of a response")
        return prompt, completion

    def conversation_ids(self, messages: Messages) -> list[int]:
        """Token ids of a whole conversation, as reward models read it.

        Raises:
            BadRow: when the template refuses the conversation, or the text of a message is not in the decoded ids.
        """
        return self._checked(self._template(self._folded(messages), False), messages)

    def dialogue_text(self, messages: Messages, response: str) -> str:
        """Text of prompt and completion together; their ids are those of ``pair_ids`` where no token crosses the boundary."""
        whole = self._template([*self._folded(messages), _answer(response)], False)
        return whole.removesuffix(self._tail) + self._end

    def text(self, token_ids: list[int]) -> str:
        """Text of a completion, without its stop token."""
        if token_ids and token_ids[-1] in self.stop_ids:
            token_ids = token_ids[:-1]
        return self._decode(token_ids).strip()

    def pre_query(self) -> tuple[str, str]:
        """What the template writes before a user's first text, and after it up to where the answer begins.

        A space before the text is left out: it belongs to the text's first word.
        """
        before, _, after = self.prompt_text(_USER).partition(_USER[0]["content"])
        return before.rstrip(" "), after

    def control_ids(self, text: str) -> list[int]:
        """Ids of the control tokens in rendered text."""
        return [self.tokenizer.get_vocab()[name] for name in self._controls.findall(text)]

    def prompt_text(self, messages: Messages) -> str:
        """What ``prompt_ids`` encodes: text for ``encode`` alone, since spelt control tokens carry a mark."""
        return self._template(self._folded(messages), True) + self._lead

    def marked(self, text: str) -> str:
        """Text for ``encode`` in which control tokens are only spelt, not meant."""
        return self._controls.sub(rf"{_SPELT}\g<0>", text)

    def encode(self, text: str) -> list[int]:
        """Token ids of rendered text: nothing is added to it, and no spelt control token becomes one."""
        if _SPELT not in text:
            return list(self.tokenizer(text, add_special_tokens=False)["input_ids"])
        meant = re.sub(
            f"({_SPELT})?({self._controls.pattern})", lambda found: found[2] if found[1] else _MEANT + found[2], text
        )
        return list(self._spelling.encode(meant, add_special_tokens=False).ids)

    @cached_property
    def _spelling(self) -> Tokenizer:
        """The same tokenizer with other names for its control tokens, so that the usual ones are plain text."""
        if not self.tokenizer.is_fast:
            raise BadRow("a message spells a control token")

        def renamed(name: str) -> str:
            return _MEANT + name if self._controls.fullmatch(name) else name

        facts = json.loads(self.tokenizer.backend_tokenizer.to_str())
        for token in facts["added_tokens"]:
            token["content"] = renamed(token["content"])
        model = facts["model"]
        if isinstance(model["vocab"], dict):
            model["vocab"] = {renamed(name): token_id for name, token_id in model["vocab"].items()}
        else:
            model["vocab"] = [[renamed(name), score] for name, score in model["vocab"]]
        if "merges" in model:  # a conversion from SentencePiece lets "<" and "s>" make "<s>"
            model["merges"] = [
                pair for pair in model["merges"] if not any(map(self._controls.fullmatch, (*pair, "".join(pair))))
            ]
        if model.get("unk_token"):
            model["unk_token"] = renamed(model["unk_token"])
        backend = Tokenizer.from_str(json.dumps(facts))
        backend.no_truncation()
        backend.no_padding()
        return backend

    def _decode(self, token_ids: list[int]) -> str:
        decoded = self.tokenizer.decode(token_ids, skip_special_tokens=True, clean_up_tokenization_spaces=False)
        return decoded if isinstance(decoded, str) else "".join(decoded)

    def _template(self, messages: Messages, add_generation_prompt: bool) -> str:
        safe = [message | {"content": self.marked(message["content"])} for message in messages]
        try:
            return str(
                self.tokenizer.apply_chat_template(safe, tokenize=False, add_generation_prompt=add_generation_prompt)
            )
        except Exception as error:  # a template may raise anything
            raise BadRow(f"the chat template refuses the conversation: {' '.join(str(error).split())}") from error

    def _checked(self, text: str, messages: Messages) -> list[int]:
        """Token ids of rendered text, in which every message's own text must be found again."""
        if self._last[:2] == (text, messages):  # a pair's second side
            return list(self._last[2])
        ids = self.encode(text)
        decoded = _letters(self._decode(ids))
        for message in messages:
            if self.marked(message["content"]).strip() not in text or _letters(message["content"]) not in decoded:
                raise BadRow(f"the chat template or the tokenizer changes what the {message['role']} says")
        self._last = (text, messages, ids)
        return list(ids)

    def _require_one_bos(self) -> None:
        """Let the template begin with BOS where the tokenizer puts one before any text: models are trained with it."""
        bos = self.tokenizer.bos_token_id
        if bos is None:
            return
        begins = self.encode(self._template(_USER, True))[:2]
        if begins == [bos, bos]:
            raise BadRow("the chat template renders the BOS token twice")
        if begins[:1] != [bos] and self.tokenizer("x")["input_ids"][:1] == [bos]:
            log.warning(
                "%s: the chat template renders no BOS token, which the tokenizer wants; it is added", self.folder
            )
            self.tokenizer.chat_template = "{{ bos_token }}" + str(self.tokenizer.chat_template)

    def _must_fold_system(self) -> bool:
        """Whether the template refuses a system message, drops it, or moves it once an answer follows."""
        asked = [_SYSTEM, *_USER]
        try:
            opening = self._template(asked, True)
            whole = self._template([*asked, _answer(_ANSWER)], False)
        except BadRow:
            return True
        moved = self._separable and not whole.startswith(opening)
        return moved or _SYSTEM["content"] not in opening

    def _folded(self, messages: Messages) -> Messages:
        """Put a system message in front of the first user turn where the template cannot hold it (Gemma, Mistral v0.3)."""
        if not self._folds_system or not messages or messages[0]["role"] != "system":
            return messages
        if len(messages) < 2 or messages[1]["role"] != "user":
            raise BadRow("a system message is not followed by the user's")
        first = {"role": "user", "content": f"{messages[0]['content']}\n\n{messages[1]['content']}"}
        return [first, *messages[2:]]


def tokenised(chat: Chat, pairs: pd.DataFrame, source: Path) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Token ids of preference pairs, and the quarantine table of those that the model's template cannot hold.

    Args:
        chat: the model's tokenizer and template.
        pairs: preferences table.
        source: its file, for messages and the quarantine table.

    Returns:
        A frame of prompt_id, prompt_ids, chosen_ids, rejected_ids as arrays, for lists take 40 bytes a token;
        and a quarantine table, ``row`` from 1.

    Raises:
        UserError: when no pair is left.
    """
    good, bad = [], []
    for number, row in enumerate(pairs.itertuples(), 1):
        try:
            prompt, chosen = chat.pair_ids(row.messages, row.chosen)
            _, rejected = chat.pair_ids(row.messages, row.rejected)
            if chosen == rejected:
                raise BadRow("chosen and rejected response are the same tokens")
            good.append((row.prompt_id, *(np.array(ids, np.int32) for ids in (prompt, chosen, rejected))))
        except BadRow as error:
            bad.append((str(source), number, row.prompt_id, str(error), row.chosen[:200]))
    report([(row[2], row[3]) for row in bad], len(pairs), source, chat.folder)
    return (
        pd.DataFrame(good, columns=["prompt_id", "prompt_ids", "chosen_ids", "rejected_ids"]),
        pd.DataFrame(bad, columns=["source", "row", "prompt_id", "reason", "excerpt"]).astype({"row": "int64"}),
    )


def report(bad: Sequence[tuple[str, str]], total: int, source: object, folder: Path) -> None:
    """Log how many rows are left out for which reason, by name.

    Args:
        bad: name and reason of each row left out.
        total: how many rows there are.
        source: where they come from.
        folder: the model whose template they do not fit.

    Raises:
        UserError: when none is left.
    """
    reasons = Counter(reason for _, reason in bad).most_common()
    if len(bad) == total:
        said = ", ".join(f"{count} x {reason}" for reason, count in reasons) or "it has no rows"
        raise UserError(
            f"{source}: nothing is left under the chat template of {folder} ({said}); set models.<name>.chat_template."
        )
    for reason, count in reasons:
        names = [name for name, why in bad if why == reason]
        more = f" and {count - 5} more" if count > 5 else ""
        log.warning("%d of %d rows left out: %s (%s%s)", count, total, reason, ", ".join(names[:5]), more)


def _answer(response: str) -> dict[str, str]:
    return {"role": "assistant", "content": response}


def _control_names(tokenizer: PreTrainedTokenizerBase, rendered: str) -> list[str]:
    """Tokens that mean something else than their text: special ones, and the markers that a template writes.

    Markers need not be declared special (ChatML on another base model). What else is added without being special is text,
    in a template as in a message: Gemma's line breaks in a row, a word, and markers that the template does not write
    (``<tool_call>``, ``<b>``), which a model may write in an answer.
    """
    written = set(tokenizer(rendered, add_special_tokens=False)["input_ids"])
    added = tokenizer.added_tokens_decoder.items()
    return [token.content for i, token in added if token.special or (i in written and _MARKER.search(token.content))]


def _letters(text: str) -> str:
    return "".join(unicodedata.normalize("NFC", text).split())


def generation_facts(folder: Path) -> dict[str, Any]:
    """What a folder's generation_config.json says, ``eos_token_id`` as a list of ids.

    Raises:
        UserError: where the file is no JSON object, or names other stop tokens than ids.
    """
    file = Path(folder) / "generation_config.json"
    try:
        facts = json.loads(file.read_bytes()) if file.exists() else {}
    except (ValueError, RecursionError):
        facts = None
    if not isinstance(facts, dict):
        raise UserError(f"{file}: it is not a JSON object; correct it, or leave it out.")
    eos = facts.get("eos_token_id")
    facts["eos_token_id"] = eos if isinstance(eos, list) else [] if eos is None else [eos]
    for token in facts["eos_token_id"]:
        if type(token) is not int or token < 0:
            raise UserError(
                f"{file}: eos_token_id: {token!r} is not a token's id; name ids from 0, or leave the key out."
            )
    return facts


def _stop_ids(folder: Path, tokenizer: PreTrainedTokenizerBase, end: str | None) -> list[int]:
    """The end of turn first (Llama's and Gemma's base configs do not name it), then the folder's stop tokens, then EOS."""
    end_of_turn = tokenizer.convert_tokens_to_ids(end) if end else None
    ids = [end_of_turn, *generation_facts(folder)["eos_token_id"], tokenizer.eos_token_id]
    return list(dict.fromkeys(i for i in ids if i is not None))
