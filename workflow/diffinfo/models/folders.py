"""Model folders: loading without remote code or pickles, writing whole or not at all."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from torch import Tensor
from transformers import AutoConfig, AutoModelForCausalLM, AutoModelForSequenceClassification, PreTrainedModel
from transformers.utils.logging import disable_progress_bar

from diffinfo.cli import UserError
from diffinfo.tables.cards import model_card

SCORING = "scoring.json"  # what models.exactness found, kept in the model's folder
disable_progress_bar()  # "loading weights" bars of micro models would hide a stage's own


def use_cpu_well() -> None:
    """Use as many threads as the job was given, and flush denormals, which slow small models down badly."""
    torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", "1")))
    torch.set_flush_denormal(True)


def load_model(
    folder: Path, attention: str, dtype: str = "float32", config: Any = None, device: str | None = None
) -> Any:
    """A causal language model from a local folder: no remote code, safetensors only, every tensor from the file.

    Its configuration then says whether embedding and head are one tensor, whatever the file said. ``config``: in place
    of the folder's. ``device``: "meta" for names and shapes without values.

    Raises:
        UserError: where a tensor is missing, unexpected or of another shape, where nothing loads, and for soft-capped
            attention (Gemma-2) under sdpa, which silently drops it.
    """
    softcap = getattr(read_config(folder).get_text_config(), "attn_logit_softcapping", None)
    if attention == "sdpa" and softcap is not None:
        raise UserError(
            f"{folder}: its attention loses its soft-capping under sdpa; set models.<name>.attention to eager."
        )
    model: Any = _whole(
        folder,
        lambda: AutoModelForCausalLM.from_pretrained(
            folder, attn_implementation=attention, dtype=getattr(torch, dtype), config=config or read_config(folder),
            local_files_only=True, use_safetensors=True, trust_remote_code=False, output_loading_info=True,
            device_map=device,
        ),
    )  # fmt: skip
    head, embedding = model.get_output_embeddings(), model.get_input_embeddings()
    if head is not None:
        for part in (model.config, model.config.get_text_config()):
            part.tie_word_embeddings = head.weight is embedding.weight
    return model


def load_classifier(folder: Path, attention: str, dtype: str = "float32") -> Any:
    """A sequence classifier with one label (a reward model), like ``load_model``; a language model is refused."""
    return _whole(
        folder,
        lambda: AutoModelForSequenceClassification.from_pretrained(
            folder, num_labels=1, attn_implementation=attention, dtype=getattr(torch, dtype),
            local_files_only=True, use_safetensors=True, trust_remote_code=False, output_loading_info=True,
        ),
    )  # fmt: skip


def check_weights(folder: Path) -> None:
    """Compare the names and shapes in a folder's files with those of the model that config.json names, values unread.

    Raises:
        UserError: naming what is missing or unexpected.
    """
    named = str(getattr(read_config(folder), "architectures", None))
    kind: Any = AutoModelForSequenceClassification if "SequenceClassification" in named else AutoModelForCausalLM
    _whole(
        folder,
        lambda: kind.from_pretrained(
            folder, device_map="meta", local_files_only=True, use_safetensors=True, trust_remote_code=False,
            output_loading_info=True,
        ),
    )  # fmt: skip


def _whole(folder: Path, load: Callable[[], Any]) -> Any:
    """Load a model; refuse a file that does not hold just what the model needs."""
    try:
        model, info = load()
    except (ValueError, RuntimeError, ImportError, SafetensorError, OSError) as error:
        if isinstance(error, OSError) and error.errno is not None:  # a fault of the disk, not of the folder
            raise
        raise UserError(f"{folder} cannot be loaded as a model: {' '.join(str(error).split())[:400]}") from error
    named = {kind: sorted(map(str, info[f"{kind}_keys"])) for kind in ("missing", "unexpected", "mismatched")}
    if any(named.values()):
        said = "; ".join(f"{kind}: {_some(names)}" for kind, names in named.items() if names)
        raise UserError(
            f"{folder}: its weights are not those of a {type(model).__name__} ({said}). Nothing is filled in with random "
            "numbers: name a folder or repository whose files hold the whole model, of the kind that is needed here."
        )
    return model


def _some(names: list[str]) -> str:
    return ", ".join(names[:4]) + (f" and {len(names) - 4} more" if len(names) > 4 else "")


def check_length(model: Any, tokens: int) -> None:
    """Refuse sequences that a model has no positions for.

    Raises:
        UserError: where ``tokens`` is more than its config.json allows.
    """
    limit = getattr(model.config.get_text_config(), "max_position_embeddings", None)
    if limit and tokens > limit:
        raise UserError(
            f"{model.name_or_path}: sequences of up to {tokens} tokens are asked of a model that holds {limit} "
            "(max_position_embeddings in its config.json): lower preference.max_tokens, or the max_tokens of what is sampled."
        )


def read_config(folder: Path) -> Any:
    """The configuration of a model folder.

    Raises:
        UserError: when transformers supports none without the folder's own code.
    """
    try:
        return AutoConfig.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
    except (ValueError, OSError) as error:
        raise UserError(f"{folder}: config.json cannot be read: {' '.join(str(error).split())[:300]}") from error


def copy_tokenizer(source: Path, target: Path) -> None:
    """Tokenizer, chat template, generation config and how the model is scored travel with the weights, byte for byte."""
    for file in source.iterdir():
        if file.name.startswith(
            ("tokenizer", "special_tokens", "chat_template", "generation_config", "added_tokens", SCORING)
        ):
            shutil.copyfile(file, target / file.name)


def save_model(
    model: PreTrainedModel,
    weights: Mapping[str, Tensor],
    folder: Path,
    source: Path,
    what: str = "A trained model.",
    data: Path | None = None,
) -> None:
    """Write ``weights`` as a Hugging Face folder with the configuration of ``model`` and the tokenizer of ``source``.

    ``what`` and ``data`` are for its card (``tables.cards``).

    Raises:
        UserError: when what was written does not load again as a whole.
    """
    model.save_pretrained(folder, state_dict=dict(weights), safe_serialization=True)
    copy_tokenizer(source, folder)
    model_card(folder, what, source, data)
    check_weights(folder)
