"""A model to start from: weights of one repository, chat template of another, as one local folder.

``python -m diffinfo.models.fetch`` (J.2: base weights, paired with the chat template of the instruct sibling).
"""

from __future__ import annotations

import json
import os
import resource
import shutil
from contextlib import suppress
from datetime import date
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

from pydantic import Field

from diffinfo.chat import BadRow, Chat, generation_facts, settled
from diffinfo.cli import UserError, log, run
from diffinfo.config.types import TEMPLATE_DATE
from diffinfo.config.values import Line, Revision, Section
from diffinfo.models.exactness import record
from diffinfo.models.folders import check_weights, read_config
from diffinfo.models.hub import fetch
from diffinfo.tables.artifacts import link, whole_folder
from diffinfo.tables.cards import model_card

SECONDS, BYTES, LONGEST = 20, 2**30, 1_000_000  # what a chat template may take and write
ADAPTER = "adapter_*"  # peft's names: a file that is not seen cannot be refused
WEIGHTS = ["*.safetensors", "*.safetensors.index.json", "config.json", "generation_config.json", ADAPTER]
STOPS = "generation_config.json"
TOKENIZER = ["tokenizer*", "special_tokens_map.json", "chat_template*", "added_tokens.json"]
_SYSTEM, _QUESTION, _ANSWER = (
    {"role": role, "content": text}
    for role, text in (("system", "rule"), ("user", "question"), ("assistant", "answer"))
)
_CONVERSATIONS = ([_QUESTION], [_SYSTEM, _QUESTION], [_QUESTION, _ANSWER, _QUESTION])


class Source(Section):
    """The part of a model's configuration that says where it comes from."""

    source: Line
    revision: Revision | None = None
    chat_template: Line | None = None
    chat_template_revision: Revision | None = None
    chat_template_kwargs: dict[str, bool | int | float | str | None] = Field(default_factory=dict)
    chat_template_date: str = TEMPLATE_DATE.isoformat()  # the command line has no date type


def main(*, spec: Source, out: Path, policy: bool = False) -> None:
    """Put a model together.

    Args:
        spec: where weights and chat template come from.
        out: folder to write; weights are linked, not copied, where the file system allows.
        policy: whether it is to be trained and scored: its log-probabilities are then compared with its own forward
            pass, in float32 on a CPU (see ``train.exactness``).

    Raises:
        UserError: when the weights are not those of the model that config.json names, or it cannot be scored.
    """
    weights = fetch(spec.source, spec.revision, [*WEIGHTS, *TOKENIZER])
    files = [file for file in sorted(weights.iterdir()) if file.is_file()]
    if adapter := [file.name for file in files if fnmatch(file.name, ADAPTER)]:
        raise UserError(
            f"{spec.source}: {', '.join(adapter)}: weights with an adapter beside them are not read, for whether it is applied"
            " would depend on what is installed: merge it into them (peft's merge_and_unload) and name the folder that this"
            " writes, or leave these files out."
        )
    if not any(file.suffix == ".safetensors" for file in files):
        raise UserError(f"{spec.source}: no .safetensors file; weights in pickle formats are not read.")
    generation_facts(weights)  # its error names the source, not a folder in the making
    with whole_folder(out) as folder:
        for file in files:
            if file.suffix == ".safetensors":
                link(file.resolve(), folder / file.name)
            elif file.suffix in (".json", ".model", ".jinja"):
                shutil.copyfile(file, folder / file.name)
        _check_index(folder, spec.source)
        tokenizer = _tokenizer(folder, spec.source)
        if spec.chat_template:
            sibling_folder = fetch(spec.chat_template, spec.chat_template_revision, [*TOKENIZER, STOPS, "config.json"])
            sibling = _tokenizer(sibling_folder, spec.chat_template)
            if sibling.get_vocab() != tokenizer.get_vocab():
                raise UserError(f"{spec.chat_template}: its vocabulary differs from that of {spec.source}.")
            tokenizer.chat_template = sibling.chat_template
        if not tokenizer.chat_template:
            raise UserError(
                f"{spec.source}: the tokenizer has no chat template; name one in models.<name>.chat_template."
            )
        day, origin = date.fromisoformat(spec.chat_template_date), spec.chat_template or spec.source
        try:
            tokenizer.chat_template = settled(tokenizer.get_chat_template(), day, spec.chat_template_kwargs)
        except (ValueError, TypeError) as error:  # several without a default, or no text
            raise UserError(
                f"{origin}: its chat template cannot be read ({error}); set models.<name>.chat_template to another."
            ) from error
        _check_template(tokenizer, origin)
        if spec.chat_template:
            _add_stops(folder, Chat(sibling_folder).stop_ids)
        tokenizer.save_pretrained(folder)
        chat = Chat(folder)
        chat.tokenizer.save_pretrained(folder)  # it may have added the BOS token that the template forgets
        template = f", with the chat template of {spec.chat_template}" if spec.chat_template else ""
        model_card(folder, f"{spec.source}{template}.", None if Path(spec.source).is_dir() else spec.source)
        check_weights(folder)
        _check_rows(chat, spec.source)
        if policy:
            record(folder)
        log.info("%s: %s", out, ", ".join(sorted(file.name for file in folder.iterdir())))


def _add_stops(folder: Path, stop_ids: list[int]) -> None:
    """The stop tokens of the template's own model end generation here too."""
    facts = generation_facts(folder)
    facts["eos_token_id"] = list(dict.fromkeys([*stop_ids, *facts["eos_token_id"]]))
    (folder / STOPS).write_text(json.dumps(facts, indent=2), encoding="utf-8")


def _tokenizer(folder: Path, source: str) -> Any:
    from transformers import AutoTokenizer

    try:
        return AutoTokenizer.from_pretrained(folder, trust_remote_code=False)
    except Exception as error:  # a broken file's errors share no base class
        raise UserError(f"{source}: its tokenizer cannot be loaded: {' '.join(str(error).split())[:300]}") from error


def _check_index(folder: Path, source: str) -> None:
    """Weights may be in files of the folder alone, whatever an index names."""
    for index in folder.glob("*.index.json"):
        try:
            named = set(json.loads(index.read_bytes())["weight_map"].values())
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
            raise UserError(f"{source}: {index.name} has no weight_map of files; fetch it again.") from error
        there = {file.name for file in folder.glob("*.safetensors")}
        for name in sorted(map(str, named - there)):
            raise UserError(f"{source}: {index.name} names {name!r}, which is not a .safetensors file of this folder.")


def _check_rows(chat: Chat, source: str) -> None:
    """Every token that can become a model's input needs a row of the embedding; more rows than tokens are usual.

    A special token that the template does not write (``<mask>``) is never an input: a text that spells it stays text.
    """
    rows = read_config(chat.folder).get_text_config().vocab_size
    used = {*chat.stop_ids, chat.tokenizer.pad_token_id}
    for messages in _CONVERSATIONS:
        with suppress(BadRow):  # not every template holds every conversation
            used |= {*chat.prompt_ids(messages), *chat.conversation_ids([*messages, _ANSWER])}
    never = {i for i, token in chat.tokenizer.added_tokens_decoder.items() if token.special} - used
    names = {i: name for name, i in chat.tokenizer.get_vocab().items()}
    beyond = sorted(i for i in {*names, *used} - {None, *never} if i >= rows)
    if beyond:
        first = f"{names.get(beyond[0], '')!r} ({beyond[0]})"
        raise UserError(
            f"{source}: the embedding has {rows} rows (vocab_size in config.json), and {len(beyond)} tokens of the tokenizer"
            f" have none, the first {first}: name a model that was saved with this tokenizer, or resize this one's"
            " embedding (resize_token_embeddings) and train the new rows."
        )


def _check_template(tokenizer: Any, source: str) -> None:
    """Refuse a template that does not end, or writes without end, before it is rendered inside a long job.

    It is rendered in a process of its own: not every loop of a template's can be interrupted.

    Raises:
        UserError: when it needs more than ``SECONDS`` or ``BYTES``, or writes more than ``LONGEST`` characters.
    """
    child = os.fork()
    if child == 0:
        status = 1
        try:
            resource.setrlimit(resource.RLIMIT_CPU, (SECONDS, SECONDS))  # of this process: it has used none yet
            pages = int(Path("/proc/self/statm").read_text().split()[0])
            resource.setrlimit(resource.RLIMIT_AS, (pages * resource.getpagesize() + BYTES,) * 2)
            status = int(max(map(len, _rendered(tokenizer))) > LONGEST)
        except (MemoryError, OverflowError):
            pass
        except BaseException:
            status = 0  # said by Chat
        finally:
            os._exit(status)
    if os.waitpid(child, 0)[1] != 0:
        raise UserError(
            f"{source}: its chat template needs more than {SECONDS} s or {BYTES >> 20} MiB for one short conversation, or"
            f" writes more than {LONGEST} characters; name another in models.<name>.chat_template."
        )


def _rendered(tokenizer: Any) -> list[str]:
    return [
        tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=messages[-1] is _QUESTION)
        for messages in ([_QUESTION], [_QUESTION, _ANSWER], [_QUESTION, _ANSWER, _QUESTION], [_QUESTION, _ANSWER] * 2)
    ]


if __name__ == "__main__":
    run(main)
