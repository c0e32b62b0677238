"""A QA job that is killed goes on with the next benchmark; its tables are those of a calm job."""

import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from bench.bigrams import PREFERS, SAYS_SEVEN, items, write_model
from diffinfo.bench import qa
from diffinfo.cli import UserError
from diffinfo.config.benchmarks import Qa
from diffinfo.world.qa_tasks import Item, write_tasks
from project import wait_until

SETTINGS = qa.Settings(qa=Qa(source="world", batch_size=16, system_prompt="be kind .", gsm8k_shots=2, max_gen_toks=6))


@pytest.fixture
def job(tmp_path: Path) -> dict[str, Any]:
    """Arguments of a job over two epochs, one of them random."""
    write_model(tmp_path / "epoch-1", None, seed=1)
    write_model(tmp_path / "epoch-2", SAYS_SEVEN | PREFERS)
    write_tasks(tmp_path / "tasks", items("gold", ("iron", "lead", "zinc")))
    return {
        "models": tmp_path, "epochs": [1, 2], "tasks": tmp_path / "tasks", "settings": SETTINGS,
        "progress_dir": tmp_path / "progress",
    }  # fmt: skip


def run(job: dict[str, Any], name: str, **changed: Any) -> tuple[bytes, bytes]:
    """Run the stage in this process; its two tables."""
    folder = job["models"]
    out, single = folder / f"{name}.parquet", folder / f"{name}.items.parquet"
    qa.main(**job | {"out": out, "items": single} | changed)
    return out.read_bytes(), single.read_bytes()


def parts(job: dict[str, Any]) -> dict[str, tuple[int, int]]:
    """The files that wait, each with what changes when it is written anew."""
    found = job["progress_dir"].glob("*/*.parquet")
    return {path.name.rsplit("-", 1)[0]: (path.stat().st_ino, path.stat().st_mtime_ns) for path in found
            if ".items" not in path.name and path.name[0] != "."}  # fmt: skip


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Benchmarks in the order in which models are asked."""
    real, names = qa._answer, []

    def spy(model: Any, benchmark: str, *others: Any) -> Any:
        names.append(benchmark)
        return real(model, benchmark, *others)

    monkeypatch.setattr(qa, "_answer", spy)
    return names


@pytest.fixture
def pretended(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The same without models."""
    names: list[str] = []

    def answer(_: Any, benchmark: str, *__: Any) -> Any:
        names.append(benchmark)
        row = {"benchmark": benchmark, "value": 1.0}
        return [{**row, "task": "", "metric": "", "stderr": None, "n": 1}], [{**row, "item": ""}]

    monkeypatch.setattr(qa, "_model", lambda *_: None)
    monkeypatch.setattr(qa, "_answer", answer)
    return names


def test_a_killed_job_goes_on_with_the_next_benchmark(job: dict[str, Any], tmp_path: Path, asked: list[str]) -> None:
    calm = run(job, "calm", progress_dir=None)
    assert len(asked) == 16
    words = {name: str(value) for name, value in job.items() if isinstance(value, Path)}
    words |= {"epochs": "[1,2]", "settings": SETTINGS.model_dump_json(), "out": str(tmp_path / "killed.parquet")}
    words |= {"items": str(tmp_path / "killed.items.parquet")}
    # slow enough to be killed between two benchmarks
    code = (
        "import sys, time; from diffinfo.bench import qa; real = qa._answer\n"
        "def slow(*given):\n"
        f"    while len(list(__import__('pathlib').Path({str(job['progress_dir'])!r}).glob('*/1-piqa*.parquet'))) > 1:\n"
        "        time.sleep(60)\n"
        "    return real(*given)\n"
        "qa._answer = slow; from diffinfo.cli import run; run(qa.main)"
    )
    command = [sys.executable, "-c", code, *(f"--{name}={value}" for name, value in words.items())]
    process = subprocess.Popen(command, env={**os.environ, "PYTHONPATH": str(Path(qa.__file__).parents[2])})
    wait_until(lambda: parts(job), "a benchmark has been saved", 120, alive=lambda: process.poll() is None)
    process.send_signal(signal.SIGKILL)
    process.wait()
    saved = parts(job)
    assert list(saved) == ["1-piqa"]
    assert not (tmp_path / "killed.parquet").exists()
    asked.clear()
    assert run(job, "resumed") == calm
    assert asked == [*list(qa.BENCHMARKS)[1:], *qa.BENCHMARKS]
    assert parts(job)["1-piqa"] == saved["1-piqa"], "what was saved is not written again"
    asked.clear()
    assert run(job, "again") == calm, "parts stay until the tables are recorded"
    assert asked == []


@pytest.mark.parametrize(
    "changed",
    [
        {"limit": 3}, {"gsm8k_shots": 1}, {"system_prompt": "it is"}, {"max_gen_toks": 5}, {"batch_size": 8},
        {"dtype": "bfloat16"}, {"attention": "eager"},
    ],
    ids=str,
)  # fmt: skip
def test_another_setting_takes_nothing_over(job: dict[str, Any], pretended: list[str], changed: dict[str, Any]) -> None:
    job["epochs"] = [2]
    run(job, "first")
    own = {name: value for name, value in changed.items() if name in ("dtype", "attention")}
    asking = SETTINGS.qa.model_copy(update={k: v for k, v in changed.items() if k not in own})
    pretended.clear()
    run(job, "second", settings=SETTINGS.model_copy(update={"qa": asking, **own}))
    assert pretended == list(qa.BENCHMARKS)


def test_another_model_template_version_or_seed_takes_nothing_over(
    job: dict[str, Any], pretended: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    import lm_eval

    from diffinfo.bench import qa_tasks

    job["epochs"] = [2]
    run(job, "first")
    write_model(job["models"] / "epoch-2", SAYS_SEVEN)
    pretended.clear()
    run(job, "second")
    template = job["models"] / "epoch-2/chat_template.jinja"
    template.write_text(template.read_text() + " ")
    run(job, "third")
    monkeypatch.setattr(lm_eval, "__version__", "0")
    run(job, "fourth")
    monkeypatch.setattr(qa_tasks, "_FEWSHOT_SEED", 4)
    run(job, "fifth")
    assert pretended == [*qa.BENCHMARKS] * 4


def test_another_question_asks_its_own_benchmark_anew(job: dict[str, Any], pretended: list[str]) -> None:
    job["epochs"] = [2]
    run(job, "first")
    pretended.clear()
    questions = items("gold", ("iron", "lead", "zinc"))
    write_tasks(job["tasks"], questions | {"siqa": [Item("what is it", ("lead", "gold", "iron"), 1)]})
    run(job, "second")
    assert pretended == ["siqa"]


def test_what_is_left_is_checked_before_a_model_is_loaded(job: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(qa, "_model", lambda *_: pytest.fail("a model was loaded"))
    (job["tasks"] / "boolq.parquet").unlink()
    with pytest.raises(UserError, match="cannot read the data files"):
        run(job, "broken")
