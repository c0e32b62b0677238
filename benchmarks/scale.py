"""Seconds and peak memory of the stages that read whole tables, by the number of prompts: ``python benchmarks/scale.py``.

The tables are synthetic, in the project's schemas, with five responses a prompt of the lengths that the paper's have.
"""

import argparse
import math
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pandas as pd
import pyarrow.parquet as pq

from diffinfo.tables import artifacts

SIZES, SAMPLES = (10_000, 31_000, 98_000), 5
PROMPT_CHARS, RESPONSE_CHARS, CHARS_A_TOKEN = 600, 2_000, 4.2
STAGES = {
    "ingest": "diffinfo.data.ingest --dataset x --source {o}/source.parquet --prompts {o}/i.parquet"
    " --test_prompts {o}/t.parquet --quarantine {o}/iq.parquet --preferences {o}/ip.parquet --heldout {o}/h.parquet"
    ' --spec {{"format":"preference","source":"{o}/source.parquet","test_prompts":1000}}',
    "sampling: the table from finished parts": "sampled {o}",
    "scoring but the reward model": "scored {o}",
    "pairs": "diffinfo.data.pairs --completions {c} --scores {s} --preferences {o}/p.parquet --quarantine {o}/q.parquet",
    "ideal pairs": "diffinfo.data.rejected --completions {c} --scores {s} --preferences {o}/d/p.parquet"
    ' --resampled {o}/r.parquet --settings {{"rejected":"ideal","sharpness":1.0,"seed":1}}',
    "entropy": "diffinfo.entropy.policy --completions {c} --out {o}/e.parquet",
    "permuted labels": "diffinfo.data.permuted --pairs {o}/p.parquet --seed 1 --out {o}/m/p.parquet",
    "scoring under π_ref but the model and its tokenizer": "referenced {o}",
    "permuted labels of these": "diffinfo.data.permuted --pairs {o}/l.parquet --seed 1 --out {o}/n/l.parquet",
}


def make(folder: Path, prompts: int) -> None:
    """Completions and their scores; and pairs as people publish them."""
    (folder / "model").mkdir()
    rng = np.random.default_rng(prompts)
    words = [f"word{i:04d}" for i in range(5_000)]
    text = " ".join(words[i] for i in rng.integers(0, len(words), 200_000))

    def cut(mean: int) -> str:
        start = int(rng.integers(0, len(text) // 2))
        return text[start : start + max(1, int(rng.gamma(4, mean / 4)))]

    rows = []
    for number in range(prompts):
        messages = [{"role": "user", "content": cut(PROMPT_CHARS)}]
        read = rng.integers(0, 32_000, int(len(messages[0]["content"]) / CHARS_A_TOKEN)).astype(np.int32)
        for sample in range(SAMPLES):
            response = cut(RESPONSE_CHARS)
            written = rng.integers(0, 32_000, int(len(response) / CHARS_A_TOKEN)).astype(np.int32)
            rows.append(("", 0, f"p{number}", sample, messages, read, response, written, -float(len(written)), "stop"))
    frame = pd.DataFrame(rows, columns=artifacts.SCHEMAS["completions"][1].names)
    completions, scores = folder / "completions.parquet", folder / "scores.parquet"
    decoding = {"temperature": 1.0, "top_p": 1.0}
    artifacts.write(completions, frame, "completions", decoding=decoding)
    given = frame[["epoch", "prompt_id", "sample"]].assign(score=rng.normal(size=len(frame)), tokens=1)
    artifacts.write(scores, given, "scores")
    best, worst = frame[::SAMPLES], frame[1::SAMPLES]
    public = pd.DataFrame({"chosen": best.completion.to_numpy(), "rejected": worst.completion.to_numpy()})
    public["prompt"] = [f"{number} {messages[0]['content']}" for number, messages in enumerate(best.messages)]
    public.to_parquet(folder / "source.parquet")


def sampled(folder: Path) -> None:
    """The stage of sampling, where an engine that takes no time gives the rows of the completions table."""
    from diffinfo.config.types import Engine
    from diffinfo.sample import complete

    rows = pq.ParquetFile(folder / "completions.parquet").metadata.num_rows
    prompts = pd.DataFrame({"prompt_id": [f"p{i}" for i in range(rows // SAMPLES)], "source": ""})
    prompts["messages"] = [[{"role": "user", "content": "x"}]] * len(prompts)
    artifacts.write(folder / "prompts.parquet", prompts, "prompts")

    def completed(*arguments: Any) -> pd.DataFrame:
        part = arguments[-2] * SAMPLES // artifacts.GROUP  # the stage's parts are as long as the file's groups
        return artifacts.frame(pq.ParquetFile(folder / "completions.parquet").read_row_group(part))

    complete.Chat = lambda folder: SimpleNamespace(folder=folder)  # type: ignore[assignment, misc]
    complete._tokenised = lambda _, asked: ([[1] * 143] * len(asked), [])
    complete._completed = completed
    settings = complete.Settings(engine=Engine(), attention="sdpa", dtype="bfloat16", max_tokens=2048, n=SAMPLES)
    complete.main(
        models=folder / "model", prompts=[folder / "prompts.parquet"], out=folder / "c.parquet", settings=settings,
        progress_dir=folder / "progress",
    )  # fmt: skip
    shutil.rmtree(folder / "progress")
    (folder / "c.parquet").unlink()


def scored(folder: Path) -> None:
    """The stage of scoring, with a reward model that takes no time."""
    from diffinfo import chat, reward
    from diffinfo.config.values import Computation

    chat.Chat = lambda folder: SimpleNamespace(folder=folder, conversation_ids=lambda messages: [1])  # type: ignore
    reward.score = lambda model, conversations, settings: [0.0] * len(conversations)  # type: ignore[assignment]
    reward.main(
        model=folder / "model", completions=folder / "completions.parquet", out=folder / "own_scores.parquet",
        settings=Computation(attention="sdpa", dtype="bfloat16"), progress_dir=folder / "progress",
    )  # fmt: skip
    shutil.rmtree(folder / "progress")


def referenced(folder: Path) -> None:
    """The stage that scores pairs under pi_ref, with a tokenizer and a model that take no time."""
    from diffinfo.train import reference

    def tokenised(_: Any, pairs: pd.DataFrame, source: Path) -> tuple[pd.DataFrame, pd.DataFrame]:
        prompts = [messages[0]["content"] for messages in pairs.messages]
        texts = {"prompt_ids": prompts, "chosen_ids": pairs.chosen, "rejected_ids": pairs.rejected}
        ids = {
            key: [np.ones(int(1 + len(text) / CHARS_A_TOKEN), np.int32) for text in side] for key, side in texts.items()
        }
        quarantine = pd.DataFrame(columns=artifacts.SCHEMAS["quarantine"][1].names)
        return pd.DataFrame({"prompt_id": pairs.prompt_id.to_numpy(), **ids}), quarantine

    reference.Chat, reference.tokenised = lambda folder: None, tokenised  # type: ignore
    reference.score_completions = lambda folder, prompts, completions, settings: [0.0] * len(prompts)  # type: ignore
    reference.main(
        model=folder / "model", preferences=folder / "p.parquet", out=folder / "l.parquet", progress_dir=folder / "progress",
        settings=reference.Settings(attention="sdpa", dtype="bfloat16", max_prompt_tokens=10**6, max_tokens=10**6),
    )  # fmt: skip
    shutil.rmtree(folder / "progress")


STAND_INS = {"make": make, "sampled": sampled, "scored": scored, "referenced": referenced}


def measure(command: list[str]) -> tuple[float, float]:
    """Seconds of CPU and GiB at the peak, those that Python and the libraries take included."""
    child = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
    said = child.stderr.read()
    _, status, used = os.wait4(child.pid, 0)
    if status:
        raise SystemExit(f"{command}: {said.decode()[-2000:]}")
    return used.ru_utime + used.ru_stime, used.ru_maxrss / 2**20


def main() -> None:
    """Measure every stage at every size and print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--prompts", type=int, nargs="+", default=SIZES)
    parser.add_argument("--folder", type=Path, default=None, help="where the tables lie while it runs (2 GB)")
    sizes = parser.parse_args()
    found: dict[str, list[tuple[float, float]]] = {stage: [] for stage in STAGES}
    for prompts in sizes.prompts:
        folder = Path(tempfile.mkdtemp(dir=sizes.folder))
        try:
            with_tables = [sys.executable, __file__, "make", str(folder), str(prompts)]
            subprocess.run(with_tables, check=True)
            for stage, command in STAGES.items():
                words = command.format(c=folder / "completions.parquet", s=folder / "scores.parquet", o=folder).split()
                how = [__file__] if words[0] in STAND_INS else ["-m"]
                found[stage].append(measure([sys.executable, *how, *words]))
                print(prompts, stage, *found[stage][-1], file=sys.stderr, flush=True)
        finally:
            shutil.rmtree(folder)
    print("| stage |", " | ".join(f"{n * SAMPLES:,} rows" for n in sizes.prompts), "| exponent |")
    print("|---" * (len(sizes.prompts) + 2) + "|")
    for stage, results in found.items():
        cells = [f"{seconds:.1f} s, {gib:.2f} GiB" for seconds, gib in results]
        logs = [(math.log(n), math.log(seconds)) for n, (seconds, _) in zip(sizes.prompts, results, strict=True)]
        exponent = np.polyfit(*zip(*logs, strict=True), 1)[0] if len(logs) > 1 else math.nan
        print(f"| {stage} | {' | '.join(cells)} | {exponent:.2f} |")


if __name__ == "__main__":
    if sys.argv[1:2] and sys.argv[1] in STAND_INS:
        STAND_INS[sys.argv[1]](Path(sys.argv[2]), *map(int, sys.argv[3:]))
    else:
        main()
