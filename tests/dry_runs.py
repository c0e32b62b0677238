"""Snakemake without its start-up: a process that has imported it forks for each run that makes nothing.

It has imported nothing of the project, whose code tests change. Runs that make something are processes of their own, as a
user's are.
"""

import json
import os
import select
import subprocess
import sys
from functools import cache
from pathlib import Path

SERVER = """
import gc, json, os, sys
import pandas, pydantic, scipy.stats, yaml
from snakemake.cli import get_argument_parser, main

from snakemake.executors.touch import Executor

get_argument_parser()  # finds the plugins
Executor.SLEEPING_TIME = 0  # before each touch, so that no input is as new as an output; as new is not newer
gc.freeze()
for line in sys.stdin:
    asked = json.loads(line)
    child = os.fork()
    if not child:
        os.chdir(asked["folder"])
        os.environ.clear()
        os.environ.update(asked["environment"])
        log = os.open(asked["log"], os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
        os.dup2(log, 1)
        os.dup2(log, 2)
        sys.argv = ["snakemake", *asked["arguments"]]
        main()
    print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)
"""


@cache
def _server() -> subprocess.Popen:
    calm = {**os.environ, "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}  # no thread may be there when it forks
    return subprocess.Popen([sys.executable, "-c", SERVER], stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=calm)


def answers(arguments: list[str], environment: dict[str, str]) -> bool:
    """Whether these arguments make nothing, in an environment that starts Python as this one does."""
    makes_nothing = {"-n", "--dry-run", "--summary", "--touch"} & set(arguments)
    return bool(makes_nothing) and environment.get("PYTHONPATH") == os.environ.get("PYTHONPATH")


def run(arguments: list[str], folder: Path, environment: dict[str, str], log: Path, seconds: float = 600) -> int:
    """Run ``snakemake`` with these arguments; its exit status. What it prints goes to ``log``."""
    server = _server()
    asked = {"arguments": arguments, "folder": str(folder), "environment": environment, "log": str(log)}
    server.stdin.write(json.dumps(asked).encode() + b"\n")
    server.stdin.flush()
    if not select.select([server.stdout], [], [], seconds)[0]:
        server.kill()
        _server.cache_clear()
        raise AssertionError(f"not within {seconds:.0f} s: Snakemake ends. It said:\n{log.read_text()[-4000:]}")
    return int(server.stdout.readline())
