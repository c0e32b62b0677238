"""Trainer checkpoints. Resuming is bit-exact.

Each rank writes its rows into one safetensors file, with their positions and the file's digest beside it; the folder then
appears under its name at once. Another number of ranks can read it. A file that does not match its digest is damaged, and
the checkpoint before it is used. No dropout is in these models and the order of batches follows from seed and
epoch, so there is no random state to keep.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor
from torch.distributed.tensor import DTensor
from torch.distributed.tensor._utils import compute_local_shape_and_global_offset

from diffinfo.cli import UserError, log
from diffinfo.tables.artifacts import digest
from diffinfo.train.trainer import Trainer

KEPT = 2  # states of one run on disk: the last, and the one before it in case the last is damaged


def save_state(trainer: Trainer, folder: Path, metadata: dict[str, Any]) -> None:
    """Write the state of a run (collective). ``metadata`` must be JSON-able; that of rank 0 is written."""
    temporary = folder.with_name(f".{folder.name}.tmp")
    if trainer.is_main:
        shutil.rmtree(temporary, ignore_errors=True)
        temporary.mkdir(parents=True)
    _wait(trainer)
    tensors, rows = {}, {}
    for name, tensor in _tensors(trainer):
        local = tensor.to_local() if isinstance(tensor, DTensor) else tensor
        if local.numel() and (isinstance(tensor, DTensor) or trainer.is_main):
            tensors[name], rows[name] = local.detach().cpu().contiguous(), _first_row(tensor)
    file = temporary / f"rank-{trainer.rank}.safetensors"
    save_file(tensors, file)
    with open(file, "rb") as handle:
        os.fsync(handle.fileno())
    (temporary / f"rank-{trainer.rank}.json").write_text(json.dumps({"rows": rows, "digest": digest(file)}))
    _wait(trainer)
    if trainer.is_main:
        (temporary / "state.json").write_text(json.dumps({"step": trainer.step, "ranks": trainer.ranks, **metadata}))
        shutil.rmtree(folder, ignore_errors=True)
        os.rename(temporary, folder)
    _wait(trainer)


def load_state(trainer: Trainer, folder: Path) -> dict[str, Any]:
    """Restore what ``save_state`` wrote, by any number of ranks; returns its metadata.

    Raises:
        UserError: when the state is damaged or incomplete, on every rank; the model is then as it was.
    """
    metadata: dict[str, Any] = {}
    try:
        metadata = json.loads((folder / "state.json").read_text())
        places = [json.loads((folder / f"rank-{rank}.json").read_text()) for rank in range(metadata["ranks"])]
        files = [folder / f"rank-{rank}.safetensors" for rank in range(metadata["ranks"])]
        mine = list(zip(files, places, strict=True))[trainer.rank :: trainer.ranks]
        bad = [str(file) for file, place in mine if digest(file) != place["digest"]]
    except (OSError, ValueError, KeyError) as error:
        bad = [f"{folder} ({error})"]
    if trainer.total(torch.tensor([float(len(bad))]))[0]:
        raise UserError(f"{', '.join(bad) or folder} is damaged or incomplete.")
    kinds = {name.split("/", 1)[0] for place in places for name in place["rows"]} - {"weight"}
    for parameter in trainer.parameters:  # the optimiser would make this at its first step
        blank = {kind: torch.zeros(()) if kind == "step" else torch.empty_like(parameter) for kind in kinds}
        trainer.optimizer.state[parameter] = blank
    try:
        opened = [(safe_open(file, "pt"), place["rows"]) for file, place in zip(files, places, strict=True)]
        with torch.no_grad():
            for name, tensor in _tensors(trainer):
                _fill(name, tensor, opened)
    except (SafetensorError, OSError) as error:
        raise UserError(f"{folder} cannot be read: {error}") from error
    trainer.step = metadata["step"]
    return metadata


def newest_state(trainer: Trainer, folder: Path) -> dict[str, Any] | None:
    """Restore the newest whole state in ``folder``; None where there is none."""
    for state in reversed(states(folder)):
        try:
            metadata = load_state(trainer, state)
        except UserError as error:
            log.warning("%s Going back to the state before it.", error)
            continue
        log.info("going on after step %d from %s", trainer.step, state)
        return metadata
    return None


def states(folder: Path) -> list[Path]:
    """The states of a run, oldest first."""
    return sorted(folder.glob("step-*"))


def _wait(trainer: Trainer) -> None:
    if trainer.ranks > 1:
        dist.barrier()


def _tensors(trainer: Trainer) -> Iterator[tuple[str, Tensor]]:
    """Weights and optimiser state by name, in a fixed order."""
    for name, parameter in trainer.module.named_parameters():
        yield f"weight/{name}", parameter
        for key, value in sorted(trainer.optimizer.state.get(parameter, {}).items()):
            yield f"{key}/{name}", value


def _first_row(tensor: Tensor) -> int:
    """Where this rank's rows of a tensor begin."""
    if not isinstance(tensor, DTensor):
        return 0
    offset = compute_local_shape_and_global_offset(tensor.shape, tensor.device_mesh, tensor.placements)[1]
    return offset[0] if offset else 0


def _fill(name: str, tensor: Tensor, opened: list[tuple[Any, dict[str, int]]]) -> None:
    """Copy this rank's rows of one tensor from the files that hold them."""
    local = tensor.to_local() if isinstance(tensor, DTensor) else tensor
    start = _first_row(tensor)
    for file, rows in opened:
        if name not in rows:
            continue
        if not local.dim():
            local.copy_(file.get_tensor(name))
            continue
        part = file.get_slice(name)
        low, high = max(start, rows[name]), min(start + len(local), rows[name] + part.get_shape()[0])
        if low < high:
            local[low - start : high - start] = part[low - rows[name] : high - rows[name]]
