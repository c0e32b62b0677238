import json
import multiprocessing
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch.nn.attention import flex_attention

from diffinfo.config.types import Objectives, Preference, Sft, Training
from diffinfo.tables import artifacts
from diffinfo.train import preference, reference, sft
from stages import stage, with_settings

# Jobs that are killed begin as forks of a process that has imported everything and done nothing: no thread is lost in them.
FORKS = multiprocessing.get_context("forkserver")
FORKS.set_forkserver_preload(["diffinfo.train.preference", "diffinfo.train.sft"])
STAGES = {"sft": sft.main, "preference": preference.main}
SETTINGS = Preference(batch_size=16, learning_rate=1e-3, warmup_steps=2, max_prompt_tokens=64, max_tokens=256)
TRAINING = Training(micro_batch_tokens=512)


def attention_of(model: Path) -> str:
    return "eager" if "gemma" in str(model) else "sdpa"


@pytest.fixture
def flex_on_cpu(monkeypatch):
    """FlexAttention with gradients on a CPU: not compiled, for compiled it has no backward pass there."""
    monkeypatch.setattr(flex_attention, "_validate_device", lambda *_: None)  # which refuses gradients
    torch._dynamo.reset()  # sizes and caps that earlier tests made dynamic cannot be traced


@pytest.fixture(autouse=True)
def no_group_is_left():
    """A trainer in bfloat16 makes a process group of one, in which other trainers would shard."""
    yield
    if torch.distributed.is_initialized():
        torch.distributed.destroy_process_group()


@pytest.fixture(scope="session")
def score(pairs_table, tmp_path_factory):
    """Reference log-probabilities of the forty pairs under a model."""

    def make(model: Path, dtype: str = "float32") -> Path:
        out = tmp_path_factory.mktemp("reference") / "reference.parquet"
        stage(reference.main,
            model=model, preferences=pairs_table, micro_batch_tokens=512, attention=attention_of(model), dtype=dtype,
            max_prompt_tokens=64, max_tokens=256, out=out,
        )  # fmt: skip
        return out

    return make


class Job:
    """A training job in a folder of its own, run here or by ``accelerate launch``.

    Attributes:
        folder: where its outputs, and below ``progress`` its states, lie.
        stage: "sft" or "preference".
        arguments: of the stage's ``main``.
    """

    def __init__(self, folder: Path, stage: str, arguments: dict) -> None:
        self.folder, self.stage = folder, stage
        outputs = {"model_out" if stage == "sft" else "models_out": "models"}
        outputs |= {"log_out": "log.parquet", "speed_out": "speed.parquet", "progress_dir": "progress"}
        self.arguments = {**arguments, **{key: folder / name for key, name in outputs.items()}}

    def here(self) -> None:
        stage(STAGES[self.stage], **self.arguments)

    def start(self) -> multiprocessing.Process:
        """Start in a process of its own."""
        child = FORKS.Process(
            target=STAGES[self.stage], kwargs=with_settings(STAGES[self.stage], self.arguments), daemon=True
        )  # ends with the tests
        child.start()
        return child

    def launch(self, processes: int) -> subprocess.Popen:
        """Start: plain Python, or several processes under ``accelerate launch``."""
        arguments = dict(self.arguments)
        if self.stage == "preference":
            arguments["preference"] = arguments["preference"].model_copy(update={"processes": processes})
        else:
            arguments["processes"] = processes
        flat = []
        for key, value in with_settings(STAGES[self.stage], arguments).items():
            value = value.model_dump_json() if hasattr(value, "model_dump_json") else value
            flat += [f"--{key}", json.dumps(value) if isinstance(value, bool) else str(value)]
        several = [
            "-m", "accelerate.commands.launch", "--multi_gpu", "--num_processes", str(processes), "--num_machines", "1",
            "--mixed_precision", "no", "--dynamo_backend", "no", "--main_process_port", "0",
        ]  # fmt: skip
        command = [sys.executable, *(several if processes > 1 else []), "-m", f"diffinfo.train.{self.stage}", *flat]
        environment = {**os.environ, "PYTHONPATH": str(Path(preference.__file__).parents[2])}
        return subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, env=environment)

    def log(self):
        return artifacts.read(self.folder / "log.parquet", "train_log")

    def bytes(self) -> dict[str, bytes]:
        """Everything that must not depend on how often the job was killed."""
        files = [*(self.folder / "models").rglob("*.safetensors"), self.folder / "log.parquet"]
        return {str(file.relative_to(self.folder)): file.read_bytes() for file in files}

    def states(self) -> list[Path]:
        return sorted((self.folder / "progress").glob("*/step-*"))


@pytest.fixture
def job(tiny_mistral, pairs_table, tmp_path, request):
    """Makes jobs: ``job("a", "dpo-b0.1", epochs=2)``, or ``job("b", "sft")``."""

    def make(name: str, method: str, epochs: int = 2, model: Path = tiny_mistral, dtype="float32", **changes) -> Job:
        common = {"model": model, "training": TRAINING, "attention": attention_of(model), "dtype": dtype}
        if method == "sft":
            settings = Sft(batch_size=8, learning_rate=1e-3, epochs=epochs)
            arguments = {"preferences": pairs_table, "sft": settings, "max_tokens": 256}
            return Job(tmp_path / name, "sft", common | arguments | changes)
        key = f"{model} {dtype}"
        cache = request.config.stash.setdefault(SCORED, {})
        if key not in cache:
            cache[key] = request.getfixturevalue("score")(model, dtype)
        arguments = {
            "reference": cache[key], "method": method, "preference": SETTINGS, "objectives": Objectives(),
            "first_epoch": 1, "last_epoch": epochs,
        }  # fmt: skip
        return Job(tmp_path / name, "preference", common | arguments | changes)

    return make


SCORED = pytest.StashKey[dict]()
