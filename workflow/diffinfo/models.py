"""Model folders: loading without remote code or pickles, writing whole or not at all."""

from __future__ import annotations

import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedModel
from transformers.utils.logging import disable_progress_bar

from diffinfo.cli import UserError

disable_progress_bar()  # "loading weights" of micro models would drown a stage's own bar


def use_cpu_well() -> None:
    """As many threads as the job was given; denormals slow small models down badly."""
    torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", "1")))
    torch.set_flush_denormal(True)


def load_model(folder: Path, attention: str, dtype: str = "float32") -> Any:
    """A causal language model from a local folder: no remote code, safetensors only.

    Raises:
        UserError: for Gemma-2 under sdpa, which silently drops the soft-capping of attention scores.
    """
    if attention == "sdpa" and AutoConfig.from_pretrained(folder).model_type == "gemma2":
        raise UserError(f"{folder}: Gemma-2 loses its soft-capping under sdpa; set models.<name>.attention to eager.")
    return AutoModelForCausalLM.from_pretrained(
        folder,
        attn_implementation=attention,
        dtype=getattr(torch, dtype),
        local_files_only=True,
        use_safetensors=True,
        trust_remote_code=False,
    )


def copy_tokenizer(source: Path, target: Path) -> None:
    """Tokenizer, chat template and generation config travel with the weights, byte for byte."""
    for file in source.iterdir():
        if file.name.startswith(("tokenizer", "special_tokens", "chat_template", "generation_config", "added_tokens")):
            shutil.copyfile(file, target / file.name)


def save_model(model: PreTrainedModel, weights: Mapping[str, Tensor], folder: Path, source: Path) -> None:
    """Write ``weights`` as a Hugging Face folder with the configuration of ``model`` and the tokenizer of ``source``."""
    model.save_pretrained(folder, state_dict=dict(weights), safe_serialization=True)
    copy_tokenizer(source, folder)
