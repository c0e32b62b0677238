"""Host memory of ranks that train one model together: ``accelerate launch --num_processes 2 --cpu benchmarks/ranks.py FOLDER``.

The first call makes a Mistral of random weights in FOLDER, alone: ``python benchmarks/ranks.py FOLDER``.
"""

import os
import sys
from pathlib import Path

import psutil
import torch
import torch.distributed as dist
from transformers import MistralConfig, MistralForCausalLM

from diffinfo.config.types import Training
from diffinfo.models.exactness import record
from diffinfo.train.trainer import Trainer

folder = Path(sys.argv[1])
if not (folder / "model.safetensors").exists():
    config = MistralConfig(
        vocab_size=32_000, hidden_size=1536, intermediate_size=4096, num_hidden_layers=16, num_attention_heads=12,
        num_key_value_heads=4, torch_dtype="float32",
    )  # fmt: skip
    MistralForCausalLM(config).save_pretrained(folder)
    record(folder)
    print(f"{(folder / 'model.safetensors').stat().st_size / 2**20:,.0f} MiB of float32 weights")
    sys.exit()


def peak(what: str) -> None:
    """Print this rank's own memory at its highest so far, above what it had before."""
    with open("/proc/self/status", encoding="ascii") as lines:
        found = {line.split(":")[0]: int(line.split()[1]) for line in lines if line.startswith(("VmHWM", "RssFile"))}
    print(f"rank {os.environ['RANK']}: {what}: {found['VmHWM'] / 1024 - before:,.0f} MiB", flush=True)


before = psutil.Process().memory_info().rss / 2**20
trainer = Trainer(
    folder, attention="eager", dtype="bfloat16", optimizer=torch.optim.RMSprop, learning_rate=1e-5, warmup_steps=0,
    max_grad_norm=1.0, training=Training(), processes=int(os.environ["WORLD_SIZE"]),
)  # fmt: skip
peak("loaded and sharded, at most")
Path("/proc/self/clear_refs").write_text("5")  # the highest begins anew
weights = trainer.weights("bfloat16")
peak("whole weights gathered for a file, at most")
dist.barrier()
