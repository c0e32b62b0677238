"""A model to start from: weights of one repository, chat template of another, as one local folder.

``python -m diffinfo.base`` (J.2: base weights, paired with the chat template of the instruct sibling).
"""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

from diffinfo.artifacts import link, whole_folder
from diffinfo.cli import UserError, log, run
from diffinfo.config import _Model

WEIGHTS = ["*.safetensors", "*.safetensors.index.json", "config.json", "generation_config.json"]
TOKENIZER = ["tokenizer*", "special_tokens_map.json", "chat_template*", "added_tokens.json"]


class Source(_Model):
    """The part of a model's configuration that says where it comes from."""

    source: str
    revision: str | None = None
    chat_template: str | None = None
    chat_template_revision: str | None = None


def fetch(source: str, revision: str | None, patterns: list[str]) -> Path:
    """A local folder as it is, or the files of a hub repository at a revision.

    Raises:
        UserError: when it is neither, or the hub cannot be reached.
    """
    if Path(source).is_dir():
        return Path(source)
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

    try:
        return Path(snapshot_download(source, revision=revision, allow_patterns=patterns))
    except (HfHubHTTPError, HFValidationError, LocalEntryNotFoundError, OSError) as error:
        reason = str(error).splitlines()[0]
        raise UserError(
            f"'{source}' (revision {revision or 'main'}) is no local folder and could not be fetched from the hub: {reason} "
            "Check the name, accept the model's licence on the hub, and set HF_TOKEN."
        ) from error


def main(*, spec: Source, out: Path) -> None:
    """Put a model together.

    Args:
        spec: where weights and chat template come from.
        out: folder to write; weights are linked, not copied, where the file system allows.
    """
    from transformers import AutoTokenizer

    weights = fetch(spec.source, spec.revision, [*WEIGHTS, *TOKENIZER])
    if not list(weights.glob("*.safetensors")):
        raise UserError(f"{spec.source}: no .safetensors file; weights in pickle formats are not read.")
    with whole_folder(out) as folder:
        for file in sorted(weights.iterdir()):
            if file.suffix == ".safetensors":
                link(file.resolve(), folder / file.name)
            elif file.suffix in (".json", ".model", ".jinja"):
                shutil.copyfile(file, folder / file.name)
        tokenizer: Any = AutoTokenizer.from_pretrained(folder, trust_remote_code=False)
        if spec.chat_template:
            sibling_folder = fetch(spec.chat_template, spec.chat_template_revision, [*TOKENIZER, "config.json"])
            sibling: Any = AutoTokenizer.from_pretrained(sibling_folder, trust_remote_code=False)
            if sibling.get_vocab() != tokenizer.get_vocab():
                raise UserError(f"{spec.chat_template}: its vocabulary differs from that of {spec.source}.")
            tokenizer.chat_template = sibling.chat_template
        if not tokenizer.chat_template:
            raise UserError(
                f"{spec.source}: the tokenizer has no chat template; name one in models.<name>.chat_template."
            )
        tokenizer.save_pretrained(folder)
        log.info("%s: %s", out, ", ".join(sorted(file.name for file in folder.iterdir())))


if __name__ == "__main__":
    run(main)
