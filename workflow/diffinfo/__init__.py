"""Differential Information: the experiments of Won et al. as plain programs over Parquet tables and model folders."""

import atexit
import gc
import os
import sys

__version__ = "0.1.0"
succeeded = False  # the stage; cli.run says so


def begin_stage() -> None:
    """What a stage needs before its libraries are imported: no telemetry, and no garbage collection until ``cli.run``.

    What torch and transformers create on import lives until the end, and looking through it takes a fifth of the start.
    """
    for silenced in ("HF_HUB_DISABLE_TELEMETRY", "VLLM_NO_USAGE_STATS", "DO_NOT_TRACK"):
        os.environ.setdefault(silenced, "1")
    gc.disable()
    atexit.register(_end_stage)  # the first in is the last out


def _end_stage() -> None:
    """End a stage that succeeded at once: to free what torch imported takes Python half a second."""
    if succeeded:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(0)


if sys.argv[:1] == ["-m"]:  # python -m diffinfo.<stage>; a plain import changes nothing
    begin_stage()
    if "DIFFINFO_SERVER" in os.environ and "RANK" not in os.environ:
        from diffinfo.operations.warm import call

        call(os.environ["DIFFINFO_SERVER"], sys.orig_argv[sys.orig_argv.index("-m") + 1 :])
