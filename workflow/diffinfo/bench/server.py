"""A server of a local judge: started where something must be asked, ended with the job."""

from __future__ import annotations

import os
import secrets
import shutil
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
import weakref
from pathlib import Path

from diffinfo.cli import UserError, log
from diffinfo.config.benchmarks import Judge as JudgeConfig

GUARD = str(Path(__file__).with_name("guard.py"))
# The only programs that are run: a configuration chooses among them.
PROGRAMS = {
    "vllm": ["vllm", "serve", "{model}", "--generation-config", "vllm", "--tensor-parallel-size", "{gpus}"],
    "transformers": ["transformers", "serve", "{model}"],
}
START = 1800.0  # seconds that a model has to be loaded
END = 20.0  # seconds that a server has to end


class Server:
    """A judge's server on this machine, at a port that was free.

    Args:
        judge: its program and GPUs.
        folder: the model's folder.
        name: what the model is called in requests.
        output: file of what the program says.

    Raises:
        UserError: when the program is not there, ends, or is not healthy in half an hour.
    """

    def __init__(self, judge: JudgeConfig, folder: Path, name: str, output: Path) -> None:
        self.output, self.secret = output, secrets.token_hex(16)
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        self.address = f"http://127.0.0.1:{port}"
        command = [part.format(model=name, gpus=judge.tensor_parallel) for part in PROGRAMS[judge.server]]
        program = shutil.which(command[0])
        if program is None:
            raise UserError(
                f"judge '{judge.model}' is to be served by {command[0]}, which is not there: install envs/vllm.txt, add --sdm "
                "conda, or set the judge's server."
            )
        # requests name the model as the program was told to: a link is a name that says which model it is
        self._place = tempfile.TemporaryDirectory()
        os.symlink(folder.resolve(), Path(self._place.name, name))
        output.parent.mkdir(parents=True, exist_ok=True)
        with open(output, "wb") as said:
            self._process = subprocess.Popen(
                [
                    sys.executable,
                    "-I",
                    GUARD,
                    str(END),
                    program,
                    *command[1:],
                    "--host",
                    "127.0.0.1",
                    "--port",
                    str(port),
                ],
                cwd=self._place.name,
                env=os.environ | {"HF_HUB_OFFLINE": "1", "VLLM_API_KEY": self.secret},
                stdin=subprocess.PIPE,
                stdout=said,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        self.end = weakref.finalize(self, _end, self._process)
        log.info("%s serves %s at %s, its log is %s", command[0], folder, self.address, output)
        self._wait(command[0])

    def _wait(self, program: str) -> None:
        before = time.monotonic()
        opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        while True:
            if self.ended:
                raise UserError(f"{program} ended before it answered: {self.last_words()}")
            try:
                with opener.open(f"{self.address}/health", timeout=5) as answer:
                    if answer.status == 200:
                        log.info("%s answers after %.0f s", program, time.monotonic() - before)
                        return
            except OSError:
                pass
            if time.monotonic() - before > START:
                self.end()
                raise UserError(f"{program} was not healthy in {START:.0f} s: {self.last_words()}")
            time.sleep(0.2)

    @property
    def ended(self) -> bool:
        """Whether the program is gone."""
        return self._process.poll() is not None

    def last_words(self) -> str:
        """The end of what the program said, in one line."""
        lines = self.output.read_text(errors="replace").split("\n")
        return f"{' '.join(' '.join(lines[-20:]).split())[-500:] or 'it said nothing'} (all of it: {self.output})"


def _end(process: subprocess.Popen[bytes]) -> None:
    """End the program and all that it started."""
    assert process.stdin
    process.stdin.close()
    process.wait()
