"""Model folders and optimiser state on disk: safetensors only, every folder appears whole or not at all."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, cast

import torch
from safetensors.torch import load_file, save_file
from torch import nn
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedModel
from transformers.utils.logging import disable_progress_bar

from diffinfo.cli import UserError

disable_progress_bar()  # "loading weights" of micro models would drown a stage's own bar


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


@contextmanager
def whole_folder(folder: Path) -> Iterator[Path]:
    """Yield a private folder beside ``folder``; put it in place of ``folder`` when the block ends well."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    temporary = folder.with_name(f".{folder.name}.{os.getpid()}.tmp")
    shutil.rmtree(temporary, ignore_errors=True)
    temporary.mkdir()
    try:
        yield temporary
        if folder.exists():
            shutil.rmtree(folder)
        os.rename(temporary, folder)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def copy_tokenizer(source: Path, target: Path) -> None:
    """Tokenizer, chat template and generation config travel with the weights, byte for byte."""
    for file in source.iterdir():
        if file.name.startswith(("tokenizer", "special_tokens", "chat_template", "generation_config", "added_tokens")):
            shutil.copyfile(file, target / file.name)


def save_model(model: PreTrainedModel, folder: Path, source: Path, dtype: str) -> None:
    """Write ``model`` as a Hugging Face folder with the tokenizer of ``source``."""
    weights = {name: value.detach().to(getattr(torch, dtype)) for name, value in model.state_dict().items()}
    model.save_pretrained(folder, state_dict=weights, safe_serialization=True)
    copy_tokenizer(source, folder)


def save_state(model: nn.Module, optimizer: torch.optim.Optimizer, folder: Path, step: int) -> None:
    """Master weights and optimiser state, for a later span or a killed job to go on from."""
    names = {parameter: name for name, parameter in model.named_parameters()}
    tensors = {f"weight/{name}": parameter.detach() for parameter, name in names.items()}
    for parameter, values in optimizer.state.items():
        name = names[cast("nn.Parameter", parameter)]
        tensors |= {f"{key}/{name}": torch.as_tensor(value) for key, value in values.items()}
    save_file({key: value.contiguous() for key, value in tensors.items()}, folder / "state.safetensors")
    (folder / "state.json").write_text(json.dumps({"step": step}))


def load_state(model: nn.Module, optimizer: torch.optim.Optimizer, folder: Path) -> int:
    """Restore what ``save_state`` wrote; returns the step."""
    tensors = load_file(folder / "state.safetensors")
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            parameter.copy_(tensors.pop(f"weight/{name}"))
            found = [key for key in tensors if key.split("/", 1)[1] == name]
            if found:
                optimizer.state[parameter] = {key.split("/", 1)[0]: tensors.pop(key) for key in found}
    step: int = json.loads((folder / "state.json").read_text())["step"]
    return step
