"""One model, its optimiser and the ranks that train it: sharding, gradients over a whole batch, warm-up, clipping, the step.

A single float32 process is plain PyTorch. Anything else is FSDP2: float32 master weights and optimiser state are sharded
by rows, and with bfloat16 the forward and backward passes see bfloat16 copies, also where there is but one process, so
that a policy's numerics do not depend on how many train it.
"""

from __future__ import annotations

import math
import os
from collections.abc import Iterator
from datetime import timedelta
from functools import partial
from pathlib import Path
from typing import Any, cast

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.tensor import DTensor
from torch.utils.checkpoint import checkpoint

from diffinfo.cli import UserError
from diffinfo.config.types import Training
from diffinfo.models.exactness import load_scorer
from diffinfo.models.folders import use_cpu_well
from diffinfo.models.logprobs import Scorer, packs

PATIENCE = timedelta(hours=2)  # ranks wait for the first, which writes whole models


def epoch_order(rows: int, seed: int, epoch: int) -> list[int]:
    """A permutation of the rows that depends on nothing but ``seed`` and ``epoch``: a resumed run sees the same one."""
    generator = torch.Generator().manual_seed(seed * 1_000_003 + epoch)
    return torch.randperm(rows, generator=generator).tolist()


class Trainer:
    """A model in training.

    Args:
        folder: Hugging Face folder to start from.
        attention: attention kernel: "flash_attention_2", or any other for torch's own.
        dtype: precision of computation.
        optimizer: its class.
        learning_rate: after warm-up.
        warmup_steps: of the linear warm-up from 0.
        max_grad_norm: larger gradients are clipped to it.
        training: the ``training`` part of the configuration.
        processes: how many processes train; checked against the launcher's.
        decay_until: step at which the learning rate has fallen to 0, linearly; None: constant.

    Raises:
        UserError: when the launcher's number of processes is not ``processes``.
    """

    def __init__(
        self,
        folder: Path,
        *,
        attention: str,
        dtype: str,
        optimizer: type[torch.optim.Optimizer],
        learning_rate: float,
        warmup_steps: int,
        max_grad_norm: float,
        training: Training,
        processes: int = 1,
        decay_until: int | None = None,
    ) -> None:
        use_cpu_well()
        self.rank, self.ranks, self.device = _join(processes, always=dtype == "bfloat16")
        master = dtype if training.master_weights == "bfloat16" else "float32"
        self.scorer = load_scorer(folder, attention, master, None if self.is_main else "meta")
        self.module = self.scorer.model
        for layer in decoder_layers(self.module):
            if training.activation_checkpointing == "layers":  # transformers' own wants training mode, with its dropout
                layer.forward = partial(checkpoint, layer.forward, use_reentrant=False)
            if training.compile == "layers":
                layer.compile(dynamic=True)
        if dist.is_initialized():
            _shard(self.scorer, self.device, getattr(torch, dtype))
        else:
            self.scorer.to(self.device)
        self.parameters = [parameter for parameter in self.scorer.parameters() if parameter.requires_grad]
        self.optimizer = optimizer(self.parameters, lr=learning_rate)  # type: ignore[call-arg]
        self.learning_rate, self.warmup_steps = learning_rate, warmup_steps
        self.max_grad_norm = max_grad_norm
        # Not packed, every rank passes the same number of items through its shards, each alone.
        self.micro_batch_tokens = training.micro_batch_tokens if self.scorer.packed else 1
        self.decay_until = decay_until
        self.step = 0
        self.tokens, self.idle_tokens = 0, 0  # tokens through this rank's model, and those of them with weight 0

    @property
    def is_main(self) -> bool:
        """Whether this rank writes what all ranks share."""
        return self.rank == 0

    def rank_packs(self, lengths: list[int]) -> Iterator[tuple[list[int], float]]:
        """This rank's packs of a batch, each with weight 1.

        Every rank gets the same number, since sharded passes are collective; a rank without work of its own passes the
        batch's shortest item with weight 0.
        """
        shortest = lengths.index(min(lengths))
        for pack in packs(lengths, self.micro_batch_tokens, self.ranks)[self.rank :: self.ranks]:
            tokens = sum(lengths[i] for i in pack) or lengths[shortest]
            self.tokens += tokens
            self.idle_tokens += 0 if pack else tokens
            yield (pack, 1.0) if pack else ([shortest], 0.0)

    def take_gradients(self) -> list[Tensor]:
        """Gradients of the whole batch (this rank's shards of them), one a parameter; the parameters' own are cleared."""
        gradients = [p.grad if p.grad is not None else torch.zeros_like(p) for p in self.parameters]
        self.optimizer.zero_grad(set_to_none=True)
        return gradients

    def update(self, gradients: list[Tensor]) -> float:
        """Clip and step; returns the norm before clipping, the same on all ranks. One that is not finite changes nothing."""
        for parameter, gradient in zip(self.parameters, gradients, strict=True):
            parameter.grad = gradient
        whole = torch.nn.utils.clip_grad_norm_(self.parameters, self.max_grad_norm)
        norm = float(whole.full_tensor() if isinstance(whole, DTensor) else whole)
        if math.isfinite(norm):
            self.step += 1
            for group in self.optimizer.param_groups:
                group["lr"] = self.rate()
            self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        return norm

    def finite(self) -> bool:
        """Whether all weights and optimiser states are finite numbers (collective)."""
        tensors = [*self.parameters, *(value for state in self.optimizer.state.values() for value in state.values())]
        local = [tensor.to_local() if isinstance(tensor, DTensor) else tensor for tensor in tensors]
        return not self.total(torch.tensor([float(not all(bool(tensor.isfinite().all()) for tensor in local))]))[0]

    def rate(self) -> float:
        """Learning rate of the current step: linear warm-up, then constant, or falling to zero at ``decay_until``."""
        rate = self.learning_rate * min(1.0, self.step / max(1, self.warmup_steps))
        return rate * max(0.0, 1 - self.step / self.decay_until) if self.decay_until else rate

    def total(self, values: Tensor) -> Tensor:
        """Sum over the ranks, float64 on the CPU."""
        values = values.to(self.device, torch.float64)
        if self.ranks > 1:
            dist.all_reduce(values)
        return values.cpu()

    def weights(self, dtype: str) -> dict[str, Tensor]:
        """Whole weights on the CPU of the first rank by name (collective); of tensors that are one, the first alone."""
        first: dict[int, str] = {}
        found = {}
        for name, value in self.module.state_dict(keep_vars=True).items():
            if first.setdefault(id(value), name) == name:
                whole = value.full_tensor() if isinstance(value, DTensor) else value
                if self.is_main:
                    found[name] = _cast(whole.detach(), dtype).cpu()
        return found


def decoder_layers(model: Any) -> list[nn.Module]:
    """The layers of a model that repeat: what is checkpointed, compiled and sharded by itself."""
    count = model.config.get_text_config().num_hidden_layers
    lists = (module for module in model.modules() if isinstance(module, nn.ModuleList) and len(module) == count)
    return list(next(lists, []))


def _cast(value: Tensor, dtype: str) -> Tensor:
    return value.to(getattr(torch, dtype)) if value.is_floating_point() else value


def _join(processes: int, always: bool) -> tuple[int, int, torch.device]:
    """Enter the launcher's group of processes: rank, number of ranks, device. ``always``: also a group of one."""
    ranks = int(os.environ.get("WORLD_SIZE", "1"))
    if ranks != processes:
        raise UserError(
            f"{ranks} process(es) are training where preference.processes says {processes}: "
            "the launcher did not start the group it was asked for."
        )
    cuda = torch.cuda.is_available()
    if ranks > 1:
        from accelerate import PartialState

        state = PartialState(cpu=not cuda, timeout=PATIENCE)
        return state.process_index, state.num_processes, state.device
    if always and not dist.is_initialized():
        dist.init_process_group("nccl" if cuda else "gloo", rank=0, world_size=1, store=dist.HashStore())  # type: ignore[attr-defined]
    return 0, 1, torch.device("cuda" if cuda else "cpu")


def _shard(scorer: Scorer, device: torch.device, dtype: torch.dtype) -> None:
    """FSDP2, layer by layer, with the first rank's values; gradients are float32 sums over the ranks, not means."""
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import FSDPModule, MixedPrecisionPolicy, fully_shard

    mesh = init_device_mesh(device.type, (dist.get_world_size(),))
    # Inputs stay as they are: rotary tables are float32 in the reference's forward pass, and so they must be here.
    policy = MixedPrecisionPolicy(param_dtype=dtype, reduce_dtype=torch.float32, cast_forward_inputs=False)
    units: list[nn.Module] = [*decoder_layers(scorer.model), scorer]
    for unit in units:
        _spread(unit, device)
        fully_shard(unit, mesh=mesh, mp_policy=policy)
        whole: Any = unit
        assert isinstance(whole, FSDPModule)
        whole.set_gradient_divide_factor(1.0)
        whole.set_force_sum_reduction_for_comms(True)


def _spread(unit: nn.Module, device: torch.device) -> None:
    """Move what is not yet sharded of a unit to the device, from the first rank to all: no other has loaded its values."""
    here: dict[int, tuple[Tensor, Tensor]] = {}  # by identity: what is one tensor stays one
    for module in unit.modules():
        for tensors in (module._parameters, module._buffers):
            for name, tensor in cast(dict[str, Tensor | None], tensors).items():
                if tensor is None or isinstance(tensor, DTensor):
                    continue
                if id(tensor) not in here:
                    moved = torch.empty_like(tensor, device=device) if tensor.is_meta else tensor.detach().to(device)
                    dist.broadcast(moved, 0)
                    kept = nn.Parameter(moved, tensor.requires_grad) if isinstance(tensor, nn.Parameter) else moved
                    here[id(tensor)] = tensor, kept
                setattr(module, name, here[id(tensor)][1])
