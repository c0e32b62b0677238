"""A warm start for many small jobs on one machine: a server imports torch and transformers once and forks for each job.

With DIFFINFO_WARM=1 (as ``make results`` says) the workflow starts the server (``start``) and names its socket in
DIFFINFO_SERVER. ``python -m diffinfo.<stage>`` then passes its arguments, environment, working directory and open
files to the server and waits; a fork of the server runs the stage as if it had been started here. Signals are passed on, a
stage ends with whoever waits for it, and where no server answers the stage simply starts. Snakemake measures the memory
and CPU time of the process that waits.
"""

from __future__ import annotations

import atexit
import importlib
import json
import os
import runpy
import selectors
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
from contextlib import suppress
from pathlib import Path
from typing import Any, NoReturn

PRELOADED = (
    "torch", "torch.distributed.fsdp", "torch.distributed.tensor", "transformers", "transformers.cache_utils",
    "transformers.models.auto.modeling_auto", "transformers.models.auto.tokenization_auto",
    "transformers.models.mistral.modeling_mistral", "transformers.models.gemma2.modeling_gemma2", "accelerate",
    "pandas", "pyarrow.parquet", "jsonargparse", "pydantic", "safetensors.torch", "scipy.special", "lm_eval.evaluator",
    "matplotlib.figure", "matplotlib.backends.backend_agg", "matplotlib.backends.backend_svg", "threadpoolctl",
    "diffinfo.config.types", "diffinfo.tables.artifacts",
)  # fmt: skip
FORWARDED = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGUSR1)


def start() -> None:
    """Start the server, which ends with this process, and let all that this process starts use it."""
    address = os.path.join(
        tempfile.mkdtemp(prefix="diffinfo-"), "server"
    )  # of this user alone, and short enough for a socket
    command = [sys.executable, "-m", "diffinfo.operations.warm", address]
    subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, start_new_session=True)
    os.environ["DIFFINFO_SERVER"] = address


def call(address: str, words: list[str]) -> None:
    """Have the server run a stage, and end this process as the stage ends; returns where no server answers.

    Args:
        address: the server's socket.
        words: the module and its arguments.
    """
    with socket.socket(socket.AF_UNIX) as server:
        try:
            server.connect(address)
        except OSError:
            return
        for number in FORWARDED:
            signal.signal(number, lambda got, _: server.sendall(bytes([got])))
        request = json.dumps({"words": words, "environment": dict(os.environ), "folder": os.getcwd()}).encode()
        socket.send_fds(server, [len(request).to_bytes(8, "big")], [0, 1, 2])
        server.sendall(request)
        answer = server.recv(1)  # after a signal
        os._exit(answer[0] if answer else 1)


def serve(address: str) -> None:
    """Fork for each request until the parent is gone; every fork returns by running its stage."""
    parent, children = os.getppid(), dict[int, socket.socket]()
    for number in (signal.SIGINT, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    bell, ring = socket.socketpair()
    for end in (bell, ring):
        end.setblocking(False)
    signal.signal(signal.SIGCHLD, lambda *_: None)
    signal.set_wakeup_fd(ring.fileno(), warn_on_full_buffer=False)
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(address)
    listener.listen(64)
    selector = selectors.DefaultSelector()
    selector.register(bell, selectors.EVENT_READ)
    selector.register(listener, selectors.EVENT_READ)
    while children or os.getppid() == parent:
        for key, _ in selector.select(2):
            if key.fileobj is bell:
                bell.recv(4096)
            elif key.fileobj is listener:
                client, _ = listener.accept()
                pid = _forked(client, [selector, listener, bell, ring, *children.values()])
                children[pid] = client
                selector.register(client, selectors.EVENT_READ, pid)
            elif key.data in children:
                sent = b""
                with suppress(ConnectionError):
                    sent = children[key.data].recv(64)
                for wanted in sent or [signal.SIGKILL]:  # the waiting process is gone
                    with suppress(ProcessLookupError):
                        os.kill(key.data, wanted)
                if not sent:
                    selector.unregister(key.fileobj)
        while children:
            pid, status = os.waitpid(-1, os.WNOHANG)
            if not pid:
                break
            client = children.pop(pid)
            with suppress(KeyError, ValueError):
                selector.unregister(client)
            code = os.waitstatus_to_exitcode(status)
            with suppress(OSError):
                client.sendall(bytes([code if code >= 0 else 128 - code]))
            client.close()
    shutil.rmtree(Path(address).parent, ignore_errors=True)


def _forked(client: socket.socket, ours: list[Any]) -> int:
    """Read a request and fork; returns the child's number, in the server alone. The child closes what is the server's."""
    length, files, _, _ = socket.recv_fds(client, 8, 3)
    request = b""
    while len(request) < int.from_bytes(length, "big"):
        request += client.recv(1 << 20)
    if pid := os.fork():
        for file in files:
            os.close(file)
        return pid
    for opened in [*ours, client]:
        opened.close()
    _run(json.loads(request), files)


def _run(request: dict[str, Any], files: list[int]) -> NoReturn:
    """Become the process that was asked for."""
    signal.set_wakeup_fd(-1)
    for number in (*FORWARDED, signal.SIGCHLD):
        signal.signal(number, signal.default_int_handler if number == signal.SIGINT else signal.SIG_DFL)
    for place, file in enumerate(files):
        os.dup2(file, place)
        os.close(file)
    os.environ.clear()
    os.environ.update(request["environment"])
    os.environ.pop("DIFFINFO_SERVER", None)
    os.chdir(request["folder"])
    if limit := os.environ.get("OMP_NUM_THREADS"):  # read by libraries when they are loaded
        import threadpoolctl
        import torch

        torch.set_num_threads(int(limit))
        threadpoolctl.threadpool_limits(int(limit))
    module, *arguments = request["words"]
    sys.argv = [module, *arguments]
    sys.modules.pop(module, None)
    _run_to_the_end(module)


def _run_to_the_end(module: str) -> NoReturn:
    """Run a module and end as Python does, but leave the memory to the system.

    Freeing all that was imported copies it from the server page by page: longer than many jobs take.
    """
    code: Any = 1
    try:
        runpy.run_module(module, run_name="__main__", alter_sys=True)
        code = 0
    except SystemExit as asked:
        if isinstance(asked.code, str):
            print(asked.code, file=sys.stderr)
        else:
            code = asked.code or 0
    except KeyboardInterrupt:
        raise
    except BaseException:
        sys.excepthook(*sys.exc_info())
    threading._shutdown()  # type: ignore[attr-defined]  # threads that are no daemons end first
    atexit._run_exitfuncs()
    for stream in (sys.stdout, sys.stderr):
        stream.flush()
    os._exit(code)


if __name__ == "__main__":
    for name in PRELOADED:
        importlib.import_module(name)
    serve(sys.argv[1])
