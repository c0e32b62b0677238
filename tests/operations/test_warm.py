"""Jobs that a warm server runs are the jobs that plain Python runs."""

import os
import signal
import subprocess
import sys

import psutil
import pytest

from diffinfo.operations import warm
from project import wait_until

SHOW = ["diffinfo.tables.artifacts", "show"]


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    """A server without what it usually loads; its address."""
    address = str(tmp_path_factory.mktemp("s") / "server")
    code = f"from diffinfo.operations.warm import serve; serve({address!r})"
    process = subprocess.Popen([sys.executable, "-c", code])
    wait_until(lambda: os.path.exists(address), "the server listens", 60, alive=lambda: process.poll() is None)
    yield address
    process.kill()
    process.wait()


def job(words, server=None, **options):
    environment = {name: value for name, value in os.environ.items() if name != "DIFFINFO_SERVER"}
    environment |= {"DIFFINFO_SERVER": server} if server else {}
    return subprocess.Popen([sys.executable, "-m", *words], env=environment, text=True, stdout=subprocess.PIPE,
                            stderr=subprocess.PIPE, **options)  # fmt: skip


@pytest.mark.parametrize(
    "words",
    [[*SHOW, "none.parquet"], [*SHOW, "--help"], ["diffinfo.report.paper"], [*SHOW, "--no_such_option"]],
    ids=["sentence", "help", "nothing", "usage"],
)
def test_output_and_status_are_those_of_plain_python(server, words, tmp_path):
    plain, warmed = job(words, cwd=tmp_path), job(words, server, cwd=tmp_path)
    assert warmed.communicate(timeout=60) == plain.communicate(timeout=60)
    assert warmed.returncode == plain.returncode


@pytest.mark.parametrize(
    "body",
    [
        "print('out'); sys.exit('a sentence')",
        "print('out'); sys.exit(3)",
        "sys.exit()",
        "print('out'); raise ValueError('wrong')",
        "atexit.register(print, 'last'); threading.Timer(0.3, print, ['a thread']).start(); print('first')",
    ],
)
def test_a_job_ends_as_python_does(server, tmp_path, body):
    (tmp_path / "diffinfo_ending.py").write_text(f"import atexit, sys, threading\n{body}\n")
    waiting = f"from diffinfo.operations.warm import call; call({server!r}, ['diffinfo_ending'])"
    plain, warmed = (
        subprocess.run([sys.executable, *words], cwd=tmp_path, capture_output=True, text=True, timeout=60, check=False)
        for words in (["-m", "diffinfo_ending"], ["-c", waiting])
    )
    assert (warmed.returncode, warmed.stdout) == (plain.returncode, plain.stdout)
    assert warmed.stderr.splitlines()[-1:] == plain.stderr.splitlines()[-1:]


def test_where_no_server_answers_the_job_starts_itself(tmp_path):
    lone = job([*SHOW, "none.parquet"], str(tmp_path / "nobody"), cwd=tmp_path)
    assert "none.parquet does not exist" in lone.communicate(timeout=60)[1]
    assert lone.returncode == 1


SLEEPER = "import os, sys, time\nprint(os.getpid(), os.environ['MARK'], os.getcwd(), flush=True)\ntime.sleep(60)\n"


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_a_job_ends_with_the_process_that_waits_for_it(server, tmp_path, number, monkeypatch):
    monkeypatch.setenv("MARK", "of this job")
    (tmp_path / "diffinfo_sleeper.py").write_text(SLEEPER)
    words = ["from diffinfo.operations.warm import call; call", server]
    code = f"{words[0]}({server!r}, ['diffinfo_sleeper'])"
    waiting = subprocess.Popen([sys.executable, "-c", code], text=True, stdout=subprocess.PIPE, cwd=tmp_path,
                               env={**os.environ, "PYTHONPATH": f"{tmp_path}:{os.environ['PYTHONPATH']}"})  # fmt: skip
    said = waiting.stdout.readline().split(" ", 1)
    assert said[1] == f"of this job {tmp_path}\n"
    stage = psutil.Process(int(said[0]))
    assert stage.pid != waiting.pid
    waiting.send_signal(number)
    wait_until(lambda: not stage.is_running() or stage.status() == "zombie", "the stage has ended", 30)
    assert waiting.wait(30) == (-9 if number == signal.SIGKILL else 128 + 15)


def test_what_is_loaded_ahead_exists_and_starts_no_thread():
    code = (
        "import importlib, threading\nfrom diffinfo.operations.warm import PRELOADED\n"
        "for name in PRELOADED: importlib.import_module(name)\n"
        "assert threading.active_count() == 1, threading.enumerate()\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=300)
    assert "torch" in warm.PRELOADED


STAGE = """
import atexit, diffinfo
diffinfo.begin_stage()
from diffinfo.cli import run
atexit.register(print, "last")
def main(fail: bool = False) -> None:
    print("out")
    assert not fail
run(main)
"""


@pytest.mark.parametrize(("words", "code"), [([], 0), (["--fail=true"], 1)])
def test_a_stage_that_ends_at_once_has_said_all(tmp_path, words, code):
    (tmp_path / "stage.py").write_text(STAGE)
    done = subprocess.run(
        [sys.executable, "stage.py", *words], cwd=tmp_path, capture_output=True, text=True, timeout=60, check=False
    )
    assert (done.returncode, done.stdout) == (code, "out\nlast\n")
