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
    "sampling: the table from finished parts": "--sampled {o}",
    "pairs": "diffinfo.data.pairs --completions {c} --scores {s} --preferences {o}/p.parquet --quarantine {o}/q.parquet",
    "ideal pairs": "diffinfo.data.rejected --completions {c} --scores {s} --preferences {o}/d/p.parquet"
    ' --resampled {o}/r.parquet --settings {{"rejected":"ideal","sharpness":1.0,"seed":1}}',
    "entropy": "diffinfo.entropy.policy --completions {c} --out {o}/e.parquet",
    "permuted labels": "diffinfo.data.permuted --pairs {o}/p.parquet --seed 1 --out {o}/m/p.parquet",
}


def make(folder: Path, prompts: int) -> tuple[Path, Path]:
    """Completions and their scores."""
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
    scored = frame[["epoch", "prompt_id", "sample"]].assign(score=rng.normal(size=len(frame)), tokens=1)
    artifacts.write(scores, scored, "scores")
    return completions, scores


def sampled(folder: Path) -> None:
    """The stage of sampling, where an engine that takes no time gives the rows of the completions table."""
    from diffinfo.config.types import Engine
    from diffinfo.sample import complete

    (folder / "model").mkdir()
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


def measure(command: list[str]) -> tuple[float, float]:
    """Seconds of CPU and gigabytes at the peak, those that Python and the libraries take included."""
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
            with_tables = [sys.executable, __file__, "--make", str(folder), str(prompts)]
            subprocess.run(with_tables, check=True)
            for stage, command in STAGES.items():
                words = command.format(c=folder / "completions.parquet", s=folder / "scores.parquet", o=folder).split()
                how = [__file__] if words[0].startswith("--") else ["-m"]
                found[stage].append(measure([sys.executable, *how, *words]))
                print(prompts, stage, *found[stage][-1], file=sys.stderr, flush=True)
        finally:
            shutil.rmtree(folder)
    print("| stage |", " | ".join(f"{n * SAMPLES:,} rows" for n in sizes.prompts), "| exponent |")
    print("|---" * (len(sizes.prompts) + 2) + "|")
    for stage, results in found.items():
        cells = [f"{seconds:.1f} s, {gigabytes:.2f} GB" for seconds, gigabytes in results]
        logs = [(math.log(n), math.log(seconds)) for n, (seconds, _) in zip(sizes.prompts, results, strict=True)]
        exponent = np.polyfit(*zip(*logs, strict=True), 1)[0] if len(logs) > 1 else math.nan
        print(f"| {stage} | {' | '.join(cells)} | {exponent:.2f} |")


if __name__ == "__main__":
    if sys.argv[1:2] == ["--make"]:
        make(Path(sys.argv[2]), int(sys.argv[3]))
    elif sys.argv[1:2] == ["--sampled"]:
        sampled(Path(sys.argv[2]))
    else:
        main()
