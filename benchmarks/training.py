"""The trainer against TRL's DPOTrainer: the same model, pairs and hyper-parameters, in one run, in turn.

PYTHONPATH=workflow OMP_NUM_THREADS=2 python benchmarks/training.py

Prints what it measures and, last, one JSON line of medians. ``--rounds`` alternating measurements of each contestant;
``--quick`` is a smoke run of a minute whose numbers mean nothing.
"""

import argparse
import json
import math
import os
import random
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "2")
os.environ.setdefault("HF_HUB_OFFLINE", "1")

import pandas as pd
import torch
from transformers import MistralConfig, MistralForCausalLM, TrainerCallback

from diffinfo.config.types import Objectives, Training
from diffinfo.methods import parse
from diffinfo.models.exactness import load_scorer
from diffinfo.train.preference import Pairs, train_step
from diffinfo.train.speed import Speed, flops
from diffinfo.train.trainer import Trainer

RATE, BETA = 1e-5, 0.1


def make_model(folder: Path, vocabulary: int, layers: int = 11) -> None:
    torch.manual_seed(0)
    config = MistralConfig(
        vocab_size=vocabulary, hidden_size=256, intermediate_size=704, num_hidden_layers=layers, num_attention_heads=4,
        num_key_value_heads=2, head_dim=64, sliding_window=None, max_position_embeddings=8192, initializer_range=0.05,
    )  # fmt: skip
    MistralForCausalLM(config).save_pretrained(folder)


def make_pairs(count: int, vocabulary: int, seed: int = 1) -> pd.DataFrame:
    """Magpie-like lengths: prompts of 20 to 200 tokens, responses of 50 to 800, log-uniform."""
    rng = random.Random(seed)

    def tokens(low: int, high: int) -> list[int]:
        length = round(math.exp(rng.uniform(math.log(low), math.log(high))))
        return [rng.randrange(10, vocabulary) for _ in range(length)]

    rows = [(tokens(20, 200), tokens(50, 800), tokens(50, 800)) for _ in range(count)]
    return pd.DataFrame(rows, columns=["prompt_ids", "chosen_ids", "rejected_ids"])


def with_reference(table: pd.DataFrame, folder: Path) -> pd.DataFrame:
    scorer = load_scorer(folder, "sdpa").eval()
    columns = {}
    with torch.inference_mode():
        for side in ("chosen", "rejected"):
            pairs = zip(table.prompt_ids, table[f"{side}_ids"], strict=True)
            columns[f"{side}_logp"] = [scorer([p + c], [len(p)]).item() for p, c in pairs]
    return table.assign(**columns)


class Ours:
    """Steps of this project's trainer, one after the other."""

    def __init__(self, folder: Path, table: pd.DataFrame, method: str, batch: int, training: Training) -> None:
        self.table, self.batch, self.method = table, batch, parse(method)
        self.trainer = Trainer(
            folder, attention="sdpa", dtype="float32", optimizer=torch.optim.RMSprop, learning_rate=RATE,
            warmup_steps=0, max_grad_norm=1.0, training=training,
        )  # fmt: skip
        self.speed = Speed(self.trainer)
        self.at = 0

    def steps(self, count: int) -> tuple[list[float], list[float]]:
        """Losses and seconds of each step."""
        losses, seconds = [], []
        for _ in range(count):
            start = time.perf_counter()
            with self.speed.watching():
                part = self.table.iloc[self.at : self.at + self.batch]
                losses.append(train_step(self.trainer, self.speed, self.method, Objectives(), Pairs(part))["loss"])
            self.at = (self.at + self.batch) % len(self.table)
            seconds.append(time.perf_counter() - start)
        return losses, seconds


class Clock(TrainerCallback):
    def __init__(self) -> None:
        self.seconds: list[float] = []

    def on_step_begin(self, *_, **__):
        self.start = time.perf_counter()

    def on_step_end(self, *_, **__):
        self.seconds.append(time.perf_counter() - self.start)


def trl_steps(folder: Path, table: pd.DataFrame, batch: int, count: int, out: Path, **options):
    """Losses and seconds of TRL's steps on the same token ids in the same order."""
    from datasets import Dataset, disable_progress_bars
    from tokenizers import Tokenizer, models
    from transformers import PreTrainedTokenizerFast
    from trl import DPOConfig, DPOTrainer

    disable_progress_bars()

    class Trainer(DPOTrainer):
        def _prepare_dataset(self, dataset, *_):
            return dataset  # token ids already

    word = Tokenizer(models.WordLevel({"<pad>": 0, "<eos>": 1}, unk_token="<pad>"))
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=word, pad_token="<pad>", eos_token="<eos>")
    per_device = options.pop("per_device_train_batch_size", min(batch, 8))  # 8 is TRL's default
    settings = {
        "output_dir": str(out), "per_device_train_batch_size": per_device, "gradient_accumulation_steps": batch // per_device,
        "max_steps": count, "learning_rate": RATE, "lr_scheduler_type": "constant", "warmup_steps": 0, "optim": "rmsprop",
        "weight_decay": 0.0, "max_grad_norm": 1.0, "beta": BETA, "max_length": None, "bf16": False, "seed": 1,
        "train_sampling_strategy": "sequential", "logging_steps": 1, "save_strategy": "no", "report_to": "none",
        "use_cpu": True, "disable_tqdm": True, "dataloader_pin_memory": False,
    }  # fmt: skip
    clock = Clock()
    trainer = Trainer(
        model=MistralForCausalLM.from_pretrained(folder, attn_implementation="sdpa", dtype=torch.float32),
        args=DPOConfig(**(settings | options)),
        train_dataset=Dataset.from_pandas(table[["prompt_ids", "chosen_ids", "rejected_ids"]].head(batch * count)),
        processing_class=tokenizer,
        callbacks=[clock],
    )
    logged = []
    trainer.log = lambda values, *_, **__: logged.append(values)
    trainer.train()
    return [row["loss"] for row in logged if "loss" in row], clock.seconds


BEST = {"precompute_ref_log_probs": True, "gradient_checkpointing": False}


def memory(who: str, folder: Path, out: Path) -> float:
    """Peak MiB that one step on a pair of two 2,048-token sequences adds to a process that has imported everything."""
    script = f"""
import re, sys
sys.path.insert(0, {str(Path(__file__).parent)!r})
import training as t, torch, trl, datasets, pandas as pd
from trl import DPOTrainer
from pathlib import Path
row = [[10] * 100, [11] * 1948, [12] * 1948]
table = pd.DataFrame([row] * 2, columns=["prompt_ids", "chosen_ids", "rejected_ids"])
table = table.assign(chosen_logp=-1.0, rejected_logp=-1.0)
status = Path("/proc/self/status")  # getrusage would count what the parent held before it started this process
peak = lambda: int(re.search(r"VmHWM:\\s+(\\d+)", status.read_text())[1]) / 1024
before = peak()
if {who!r} in ("dpo-b0.1", "dpo-pg"):
    t.Ours(Path({str(folder)!r}), table, {who!r}, 1, t.Training(micro_batch_tokens=2048)).steps(2)
else:
    t.trl_steps(Path({str(folder)!r}), table, 1, 2, Path({str(out)!r}), **{BEST if who == "best" else {}})
print(peak() - before)
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(done.stderr)
    return float(done.stdout.split()[-1])


def median(values) -> float:
    return statistics.median(values)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--steps", type=int, default=2, help="timed steps of each measurement")
    parser.add_argument("--curve", type=int, default=50, help="steps of the loss curves, of two pairs each")
    parser.add_argument("--batch", type=int, default=4, help="pairs a timed step")
    parser.add_argument("--quick", action="store_true")
    options = parser.parse_args()
    if options.quick:
        options.rounds, options.steps, options.curve, options.batch = 1, 1, 2, 2
    with tempfile.TemporaryDirectory() as scratch:
        report(Path(scratch), options)


def report(scratch: Path, options: argparse.Namespace) -> None:
    folder, wide, out = scratch / "model", scratch / "wide", scratch / "out"
    make_model(folder, 32_000, 2 if options.quick else 11)
    make_model(wide, 128_000, 2)
    count = max(2 * options.curve, options.batch * (options.steps + 1))
    table = with_reference(make_pairs(count, 32_000), folder)
    model = MistralForCausalLM.from_pretrained(folder)
    size = sum(p.numel() for p in model.parameters()) / 1e6
    mean = Pairs(table).tokens() / 2 / count
    threads = torch.get_num_threads()
    print(
        f"{size:.1f} M parameters, {count} pairs, {mean:.0f} tokens a sequence, {threads} threads, torch {torch.__version__}"
    )

    plain = Training(micro_batch_tokens=2048)
    ours = Ours(folder, table, "dpo-b0.1", 2, plain)
    losses, _ = ours.steps(options.curve)
    theirs, _ = trl_steps(folder, table, 2, options.curve, out, **BEST)
    difference = max(abs(a - b) for a, b in zip(losses, theirs, strict=True))
    print(
        f"loss over {options.curve} steps: {losses[0]:.6f} -> {losses[-1]:.6f}, largest difference from TRL {difference:.1e}"
    )

    contestants = {
        "ours": lambda n: Ours(folder, table, "dpo-b0.1", options.batch, plain).steps(n),
        "ours, DPO-PG": lambda n: Ours(folder, table, "dpo-pg", options.batch, plain).steps(n),
        "TRL default": lambda n: trl_steps(folder, table, options.batch, n, out),
    }
    for size in (1, 2, 4):
        if options.batch % size == 0:
            best = BEST | {"per_device_train_batch_size": size}
            contestants[f"TRL best, {size} a device"] = lambda n, best=best: trl_steps(
                folder, table, options.batch, n, out, **best
            )
    for name, changes in (("activation checkpointing", "activation_checkpointing"), ("compile", "compile")):
        changed = Training(micro_batch_tokens=2048, **{changes: "layers"})
        contestants[f"ours, {name}"] = lambda n, changed=changed: Ours(
            folder, table, "dpo-b0.1", options.batch, changed
        ).steps(n)
    seconds: dict[str, list[float]] = {name: [] for name in contestants}

    def measure(names: list[str], label: str) -> None:
        for name in names:
            times = contestants[name](options.steps + 1)[1][1:]  # the first step allocates
            seconds[name].append(sum(times) / len(times))
            print(f"{label}: {name}: {seconds[name][-1]:.2f} s a step", flush=True)

    measure(list(contestants), "once")  # then, in turn, those that the JSON line compares
    best = min((name for name in contestants if "best" in name), key=lambda name: seconds[name][0])
    paired = ["ours", "ours, DPO-PG", "TRL default", best]
    seconds |= {name: [] for name in paired}
    for number in range(options.rounds):
        measure(paired, f"round {number + 1}")

    def ratio(a: str, b: str) -> float:
        return median(x / y for x, y in zip(seconds[a], seconds[b], strict=False))

    timed = Pairs(table.iloc[options.batch : options.batch * (options.steps + 1)])
    rate = options.steps * median(seconds["ours"])
    gflops = flops(model, [len(sequence) for sequence in timed.chosen + timed.rejected]) / rate / 1e9
    print(f"{'contestant':32}{'s/step':>8}{'of ours':>9}")
    for name, values in seconds.items():
        print(f"{name:32}{median(values):8.2f}{ratio(name, 'ours'):9.2f}")
    product = matrix_product()
    print(
        f"ours: {timed.tokens() / rate:.0f} tokens/s, {gflops:.0f} model GFLOP/s; a matrix product alone: {product:.0f}"
    )

    tries = range(1 if options.quick else 3)
    peaks = {who: median([memory(who, wide, out) for _ in tries]) for who in ("dpo-b0.1", "dpo-pg", "default", "best")}
    weights = (wide / "model.safetensors").stat().st_size / 2**20
    print(f"peak of a step with 128,000 words and 2 x 2,048 tokens, weights of {weights:.0f} MiB:", end=" ")
    print(", ".join(f"{'TRL ' * (who in ('default', 'best'))}{who} {peak:.0f} MiB" for who, peak in peaks.items()))
    ours.steps(1)
    print(json.dumps({
        "throughput_vs_trl_default": round(ratio("TRL default", "ours"), 3),
        "throughput_vs_trl_best": round(ratio(best, "ours"), 3),
        "memory_vs_trl": round(peaks["dpo-b0.1"] / peaks["default"], 3),
        "dpo_pg_vs_dpo": round(ratio("ours, DPO-PG", "ours"), 3),
        "padding_share": max(row["padding_share"] for row in ours.speed.rows),
        "loss_max_abs_diff": difference,
    }))  # fmt: skip


def matrix_product() -> float:
    """GFLOP/s of the largest product of a step."""
    a, b = torch.randn(1024, 256), torch.randn(256, 32_000)
    times = []
    for _ in range(5):
        start = time.perf_counter()
        a @ b
        times.append(time.perf_counter() - start)
    return 2 * 1024 * 256 * 32_000 / median(times) / 1e9


if __name__ == "__main__":
    main()
