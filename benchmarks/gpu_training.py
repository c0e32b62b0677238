"""Attention kernels on a GPU: exactness, then speed and memory of SFT, DPO and DPO-PG through the project's own trainer.

PYTHONPATH=workflow python benchmarks/gpu_training.py --device cuda --out gpu_training.jsonl

A process for each case, so that one that fails leaves an ``error`` line and the rest run; ``--budget`` seconds in all,
after which cases are ``skipped``. ``--device cpu --tiny`` is a smoke run whose numbers mean nothing.

Kernels: ``loop`` (torch's own attention, document by document), ``flex`` (FlexAttention), ``dense`` (transformers' own
attention, given a mask of all tokens by all tokens). Model: random weights in bfloat16 over float32 masters, under FSDP2 as
always. MFU is ``diffinfo.train.speed.flops`` (6 a parameter and token, and causal attention within documents) over seconds
and the card's dense bfloat16 peak (989 TFLOP/s for H100 SXM and H200).
"""

import argparse
import json
import os
import random
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", str(os.cpu_count()))
os.environ.setdefault("HF_HUB_OFFLINE", "1")

import pandas as pd
import torch
import transformers
from torch.nn.attention import flex_attention
from transformers import AutoConfig, AutoModelForCausalLM

from diffinfo.config.types import Objectives, Training
from diffinfo.methods import parse
from diffinfo.models.attention import FLEX, PACKED, flex_packed_attention, packed_attention
from diffinfo.models.exactness import load_scorer, record
from diffinfo.models.folders import SCORING, read_config
from diffinfo.train.preference import Pairs, train_step
from diffinfo.train.sft import sft_step
from diffinfo.train.speed import Speed
from diffinfo.train.trainer import Trainer

COMMON = {"max_position_embeddings": 8192, "bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0}
SHAPES = {
    "mistral": ("mistral", {
        "hidden_size": 2048, "intermediate_size": 7168, "num_hidden_layers": 24, "num_attention_heads": 16,
        "num_key_value_heads": 8, "head_dim": 128, "vocab_size": 32768, "sliding_window": None,
    }),  # 1.5 billion parameters
    "gemma2": ("gemma2", {
        "hidden_size": 2304, "intermediate_size": 9216, "num_hidden_layers": 18, "num_attention_heads": 8,
        "num_key_value_heads": 4, "head_dim": 256, "query_pre_attn_scalar": 256, "vocab_size": 256000,
        "sliding_window": 4096, "attn_logit_softcapping": 50.0, "final_logit_softcapping": 30.0,
    }),  # 2.0 billion: Gemma-2-2B with 18 of its 26 layers
}  # fmt: skip
TINY = {"hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 2, "num_attention_heads": 4,
        "num_key_value_heads": 2, "head_dim": 16, "vocab_size": 512}  # fmt: skip
CASES = [
    "exact mistral", "exact gemma2",
    "train mistral flex", "train gemma2 flex", "train mistral loop", "train gemma2 loop",
    "train mistral flex compile", "train gemma2 flex compile", "train mistral dense", "train gemma2 dense",
]  # fmt: skip


class Bench:
    """One case."""

    def __init__(self, options: argparse.Namespace) -> None:
        self.scratch, self.out, self.tiny = options.scratch, options.out, options.tiny
        self.size = 1 if options.tiny else 16
        self.device = torch.device(options.device)
        if self.device.type == "cpu":
            flex_attention._validate_device = lambda *_: (
                None
            )  # refuses gradients, which it can compute when not compiled

    def say(self, **row: object) -> None:
        with self.out.open("a") as out:
            out.write(json.dumps(row) + "\n")
        print(json.dumps(row), flush=True)

    def folder(self, shape: str, name: str, **changes: object) -> Path:
        """A random model of the shape, made on the device."""
        folder = self.scratch / f"{shape}-{name}"
        if not folder.exists():
            kind, sizes = SHAPES[shape]
            config = AutoConfig.for_model(kind, **{**COMMON, **sizes, **(TINY if self.tiny else {}), **changes})
            torch.manual_seed(0)
            with self.device:
                model = AutoModelForCausalLM.from_config(config, dtype=torch.bfloat16)
            model.save_pretrained(folder)
        return folder

    def probe(self, shape: str) -> Path:
        """Two layers of the shape, with a window that binds; packing is exact whatever the number of layers."""
        folder = self.folder(shape, "probe", num_hidden_layers=2, sliding_window=32 * self.size)
        if not (folder / SCORING).exists():
            record(folder)
        return folder

    def exact(self, shape: str) -> None:
        """Attention alone against the loop in float64, and a model of two layers against the loop in float32."""
        lengths = [self.size * length for length in (44, 94, 1, 4, 69, 44)]
        for dtype in ("float32", "bfloat16"):
            for compare in (self.attention, self.model):
                try:
                    compare(shape, dtype, lengths)
                except Exception as error:  # a kernel that this card or version lacks
                    self.say(case="exact", of=compare.__name__, shape=shape, dtype=dtype, error=repr(error)[:1500])

    def attention(self, shape: str, dtype: str, lengths: list[int]) -> None:
        sizes = {**SHAPES[shape][1], **(TINY if self.tiny else {})}
        generator = torch.Generator(self.device).manual_seed(1)
        heads = [sizes["num_attention_heads"]] * 2 + [sizes["num_key_value_heads"]] * 2
        slope, *inputs = (
            3 * torch.randn(1, count, sum(lengths), sizes["head_dim"], generator=generator, device=self.device)
            for count in heads
        )

        def results(attend: Callable, precision: str) -> list[torch.Tensor]:
            exactly, cast = getattr(torch, dtype), getattr(torch, precision)  # the same numbers, at another precision
            at, *qkv = (part.to(exactly).to(cast).detach().requires_grad_() for part in (slope, *inputs))
            made, _ = attend(
                None, *qkv, None, scaling=sizes["head_dim"] ** -0.5, lengths=torch.tensor(lengths),
                softcap=sizes.get("attn_logit_softcapping"), sliding_window=32 * self.size,
            )  # fmt: skip
            return [made, *torch.autograd.grad((made * at.detach().transpose(1, 2)).sum(), qkv)]

        truth = results(packed_attention, "float64")
        for kernel, attend in (("loop", packed_attention), ("flex", flex_packed_attention)):
            errors = [
                float(((made - true).norm() / true.norm()).detach())
                for made, true in zip(results(attend, dtype), truth, strict=True)
            ]
            self.say(
                case="exact", of="attention", shape=shape, dtype=dtype, kernel=kernel,
                **dict(zip(("output", "q", "k", "v"), errors, strict=True)),
                ok=max(errors) < (1e-5 if dtype == "float32" else 1e-2),
            )  # fmt: skip

    def model(self, shape: str, dtype: str, lengths: list[int]) -> None:
        folder = self.probe(shape)
        rng = random.Random(2)

        def results(kernel: str, precision: str) -> tuple[torch.Tensor, list[torch.Tensor]]:
            scorer = load_scorer(folder, "eager", precision).to(self.device)
            scorer.model.set_attn_implementation(kernel)
            values = scorer(sequences, [1] * len(sequences))
            (values.sum() / sum(lengths)).backward()
            return values.detach(), [parameter.grad.float() for parameter in scorer.parameters()]

        words = read_config(folder).vocab_size
        sequences = [[rng.randrange(3, words) for _ in range(length)] for length in lengths]
        expected, slopes = results(PACKED, "float32")
        for name, kernel in (("loop", PACKED), ("flex", FLEX)):
            values, found = results(kernel, dtype)
            apart = sum(float((f - s).square().sum()) for f, s in zip(found, slopes, strict=True)) ** 0.5
            apart /= sum(float(slope.square().sum()) for slope in slopes) ** 0.5
            self.say(
                case="exact", of="model", shape=shape, dtype=dtype, kernel=name,
                nats_a_token=float((values - expected).abs().max() / max(lengths)), gradient=apart,
                ok=apart < (1e-4 if dtype == "float32" else 5e-2),
            )  # fmt: skip

    def train(self, shape: str, kernel: str, *changes: str) -> None:
        """SFT, DPO and DPO-PG steps: the median of three, after one that compiles."""
        folder = self.folder(shape, "whole")
        shutil.copyfile(self.probe(shape) / SCORING, folder / SCORING)
        training = Training(micro_batch_tokens=256 if self.tiny else 4096, compile="layers" if changes else "none")
        start = time.perf_counter()
        trainer = Trainer(
            folder, attention="eager", dtype="bfloat16", optimizer=torch.optim.RMSprop, learning_rate=1e-6,
            warmup_steps=1, max_grad_norm=1.0, training=training,
        )  # fmt: skip
        stock = "eager" if shape == "gemma2" else "sdpa"
        trainer.module.set_attn_implementation({"loop": PACKED, "flex": FLEX, "dense": stock}[kernel])
        speed = Speed(trainer)
        row = {
            "case": "train", "shape": shape, "kernel": kernel, "compile": training.compile,
            "parameters": sum(parameter.numel() for parameter in trainer.module.parameters()),
            "loaded": round(time.perf_counter() - start, 1),
        }  # fmt: skip
        pairs = self.pairs(trainer)
        row["reference_logp"] = float((pairs.reference_w + pairs.reference_l).mean())  # to be the same for all kernels
        chosen = pairs.chosen + pairs.rejected
        everything = list(range(len(chosen)))
        steps = {
            "dpo": lambda: train_step(trainer, speed, parse("dpo-b0.1"), Objectives(), pairs),
            "dpo-pg": lambda: train_step(trainer, speed, parse("dpo-pg"), Objectives(), pairs),
            "sft": lambda: sft_step(trainer, speed, chosen)(everything),
        }
        for objective, step in steps.items():
            speed.rows.clear()
            for number in range(2 if self.tiny else 4):
                if number == 1 and self.device.type == "cuda":
                    torch.cuda.reset_peak_memory_stats()
                with speed.watching():
                    loss = step()["loss"]
                if number == 0:
                    first = loss
            timed = pd.DataFrame(speed.rows[1:])
            self.say(
                **row, objective=objective, first_loss=first, first_seconds=round(speed.rows[0]["seconds"], 2),
                **{name: round(float(timed[name].median()), 4) for name in ("seconds", "tokens_per_second", "mfu")},
                seconds_all=[round(value, 3) for value in timed.seconds], tokens=sum(speed.lengths),
                peak_gib=round(float(timed.peak_memory_mb.max()) / 1024, 2),
            )  # fmt: skip
        self.profile(trainer, pairs, row)

    def pairs(self, trainer: Trainer) -> Pairs:
        """Pairs whose packs are nearly full, prompts of 60 to 250 tokens, responses of 200 to 1,100; with reference values."""
        rng = random.Random(1)

        def tokens(low: int, high: int) -> list[int]:
            return [
                rng.randrange(3, trainer.module.config.vocab_size)
                for _ in range(rng.randint(low, high) * self.size // 16)
            ]

        rows = [(tokens(60, 250), tokens(200, 1100), tokens(200, 1100)) for _ in range(4 if self.tiny else 32)]
        table = pd.DataFrame(rows, columns=["prompt_ids", "chosen_ids", "rejected_ids"])
        pairs = Pairs(table.assign(chosen_logp=0.0, rejected_logp=0.0))
        with torch.no_grad():
            for pack, _ in trainer.rank_packs(pairs.lengths()):
                both = trainer.scorer(
                    [pairs.chosen[i] for i in pack] + [pairs.rejected[i] for i in pack],
                    [pairs.starts[i] for i in pack] * 2,
                ).view(2, -1)
                pairs.reference_w[pack], pairs.reference_l[pack] = both.cpu()
        return pairs

    def profile(self, trainer: Trainer, pairs: Pairs, row: dict) -> None:
        """Where a pack's forward and backward pass spend the GPU's time."""
        if self.device.type != "cuda":
            return
        pack, _ = next(iter(trainer.rank_packs([len(sequence) for sequence in pairs.chosen])))
        torch.cuda.synchronize()
        with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CUDA]) as seen:
            start = time.perf_counter()
            trainer.scorer([pairs.chosen[i] for i in pack], [pairs.starts[i] for i in pack]).sum().backward()
            torch.cuda.synchronize()
            wall = time.perf_counter() - start
        kernels = sorted(seen.key_averages(), key=lambda event: -event.self_device_time_total)
        self.say(
            **row | {"case": "profile"}, wall_ms=round(1e3 * wall, 1),
            busy_ms=round(sum(event.self_device_time_total for event in kernels) / 1e3, 1),
            kernels=[
                (event.key[:90], round(event.self_device_time_total / 1e3, 2), event.count) for event in kernels[:20]
            ],
        )  # fmt: skip


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", choices=["cuda", "cpu"], default="cuda")
    parser.add_argument("--tiny", action="store_true")
    parser.add_argument("--out", type=Path, default=Path("gpu_training.jsonl"))
    parser.add_argument("--budget", type=float, default=360, help="seconds in all")
    parser.add_argument("--limit", type=float, default=150, help="seconds a case")
    parser.add_argument("--only", default="", help="cases whose name holds one of these words, such as compile,dense")
    parser.add_argument("--case", help="run this one, in this process")
    parser.add_argument("--scratch", type=Path, help="folder for models, kept; only with --case")
    options = parser.parse_args(arguments)
    if options.case:
        what, *words = options.case.split()
        getattr(Bench(options), what)(*words)
        return
    with tempfile.TemporaryDirectory() as scratch:
        options.scratch = Path(scratch)
        schedule(options)


def schedule(options: argparse.Namespace) -> None:
    bench = Bench(options)
    end = time.monotonic() + options.budget
    card = torch.cuda.get_device_name() if options.device == "cuda" else "cpu"
    bench.say(case="machine", card=card, torch=torch.__version__, transformers=transformers.__version__)
    for case in CASES:
        if not any(word in case for word in options.only.split(",")):
            continue
        left = end - time.monotonic()
        if left < 20:
            bench.say(case=case, skipped="no time left")
            continue
        command = [sys.executable, __file__, "--device", options.device, "--out", str(options.out), "--case", case]
        command += ["--scratch", str(options.scratch), *["--tiny"] * options.tiny]
        start = time.monotonic()
        log = options.out.with_suffix(".log")  # warnings, and why something failed
        with log.open("a") as errors:
            errors.write(f"--- {case}\n")
            errors.flush()
            before = errors.tell()
            try:
                done = subprocess.run(command, stderr=errors, timeout=min(left, options.limit), check=False)
                fault = log.read_bytes()[before:].decode()[-1500:] if done.returncode else None
            except subprocess.TimeoutExpired:
                fault = "out of time"
        if fault:
            bench.say(case=case, error=fault)
        print(f"{case}: {time.monotonic() - start:.0f} s", flush=True)


if __name__ == "__main__":
    main()
