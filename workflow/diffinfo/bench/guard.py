"""Run a program for as long as the job that started this one: ``python guard.py SECONDS PROGRAM ARGUMENTS...``.

Standard input is the job's end of a pipe, which the system closes however the job ends. The program then gets SIGTERM, and
SECONDS later, with all that it started, SIGKILL: vLLM does not hear SIGTERM while it compiles, and would keep its GPUs.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import threading
import time


def main() -> None:
    """See above; ends as the program does."""
    program = subprocess.Popen(sys.argv[2:], stdin=subprocess.DEVNULL, start_new_session=True)

    def end(number: int) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(program.pid, number)

    def watch() -> None:
        sys.stdin.read()
        end(signal.SIGTERM)
        time.sleep(float(sys.argv[1]))
        end(signal.SIGKILL)

    threading.Thread(target=watch, daemon=True).start()
    status = program.wait()
    end(signal.SIGKILL)  # what it left
    sys.exit(status)


if __name__ == "__main__":
    main()
