"""What supervised fine-tuning and preference optimisation share: batches over ranks, warm-up, clipping, the step."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import torch
import torch.distributed as dist
from accelerate import Accelerator
from accelerate.utils import DistributedType
from torch import Tensor
from transformers import PreTrainedModel

from diffinfo.cli import UserError
from diffinfo.train.checkpoint import load_model
from diffinfo.train.logprobs import micro_batches


def use_cpu_well() -> None:
    """As many threads as the job was given; denormals slow small models down badly."""
    torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", "1")))
    torch.set_flush_denormal(True)


def epoch_order(rows: int, seed: int, epoch: int) -> list[int]:
    """A permutation of the rows that depends on nothing but ``seed`` and ``epoch``: a resumed run sees the same one."""
    generator = torch.Generator().manual_seed(seed * 1_000_003 + epoch)
    return torch.randperm(rows, generator=generator).tolist()


class Loop:
    """A model, its optimiser and the ranks that train it.

    Master weights are float32; with ``dtype`` bfloat16 the forward pass runs under autocast.

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
        micro_batch_tokens: int,
        processes: int = 1,
        decay_until: int | None = None,
    ) -> None:
        use_cpu_well()
        self.accelerator = Accelerator(
            cpu=not torch.cuda.is_available(), mixed_precision="bf16" if dtype == "bfloat16" else "no"
        )
        if self.accelerator.num_processes != processes:
            raise UserError(
                f"{self.accelerator.num_processes} process(es) are training where preference.processes says {processes}: "
                "the launcher did not start the group it was asked for."
            )
        self.sharded = self.accelerator.distributed_type == DistributedType.FSDP
        model = load_model(folder, attention)
        model.train()
        self.module: PreTrainedModel = model
        self.model: PreTrainedModel = self.accelerator.prepare(model) if self.sharded else model.to(self.device)
        self.parameters = [parameter for parameter in self.model.parameters() if parameter.requires_grad]
        self.optimizer = optimizer(self.parameters, lr=learning_rate)  # type: ignore[call-arg]
        self.learning_rate, self.warmup_steps = learning_rate, warmup_steps
        self.max_grad_norm, self.micro_batch_tokens = max_grad_norm, micro_batch_tokens
        self.decay_until = decay_until
        self.step = 0

    @property
    def device(self) -> torch.device:
        """Where this rank computes."""
        device: torch.device = self.accelerator.device
        return device

    def share(self, lengths: list[int]) -> Iterator[tuple[list[int], float]]:
        """This rank's micro-batches of a batch, with the weight that makes gradients sum to the whole batch's.

        Every rank gets the same number, since sharded backward passes are collective; a rank without work of its own
        repeats a micro-batch with weight zero.
        """
        ranks, rank = self.accelerator.num_processes, self.accelerator.process_index
        groups = [(group, 1.0) for group in micro_batches(lengths, self.micro_batch_tokens)]
        while len(groups) % ranks:
            groups.append((groups[-1][0], 0.0))
        scale = float(ranks) if self.sharded else 1.0  # FSDP averages over ranks where a sum is wanted
        for group, weight in groups[rank::ranks]:
            yield group, weight * scale

    def backward(self, loss: Tensor) -> None:
        """Add the gradient of ``loss`` to this rank's."""
        self.accelerator.backward(loss)

    def autocast(self) -> torch.autocast:
        """The precision of forward passes."""
        return torch.autocast(self.device.type, torch.bfloat16, enabled=self.accelerator.mixed_precision == "bf16")

    def take_gradients(self) -> list[Tensor]:
        """Gradients summed over the ranks, one a parameter; the parameters' own are cleared."""
        gradients = [p.grad if p.grad is not None else torch.zeros_like(p) for p in self.parameters]
        if self.accelerator.num_processes > 1 and not self.sharded:
            for gradient in gradients:
                dist.all_reduce(gradient)
        self.optimizer.zero_grad(set_to_none=True)
        return gradients

    def update(self, gradients: list[Tensor]) -> float:
        """Clip, step with linear warm-up to a constant rate; returns the norm before clipping."""
        for parameter, gradient in zip(self.parameters, gradients, strict=True):
            parameter.grad = gradient
        norm = torch.nn.utils.clip_grad_norm_(self.parameters, self.max_grad_norm)
        norm = norm.full_tensor() if hasattr(norm, "full_tensor") else norm  # type: ignore[operator]
        self.step += 1
        for group in self.optimizer.param_groups:
            group["lr"] = self.rate()
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        return float(norm)

    def rate(self) -> float:
        """Learning rate of the current step: linear warm-up, then constant, or falling to zero at ``decay_until``."""
        rate = self.learning_rate * min(1.0, self.step / max(1, self.warmup_steps))
        return rate * max(0.0, 1 - self.step / self.decay_until) if self.decay_until else rate

    def total(self, *values: float | Tensor) -> list[float]:
        """Sums over the ranks."""
        sums = torch.stack([torch.as_tensor(value, dtype=torch.float64).cpu() for value in values]).to(self.device)
        if self.accelerator.num_processes > 1:
            dist.all_reduce(sums)
        return [float(value) for value in sums]
