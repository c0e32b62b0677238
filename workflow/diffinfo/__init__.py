"""Differential Information: the experiments of Won et al. as plain programs over Parquet tables and model folders."""

import gc
import os
import sys

__version__ = "0.1.0"

for _silenced in ("HF_HUB_DISABLE_TELEMETRY", "VLLM_NO_USAGE_STATS", "DO_NOT_TRACK"):
    os.environ.setdefault(_silenced, "1")

if sys.argv[:1] == ["-m"]:
    # A stage is starting: what torch and transformers create on import lives until the end, and looking through it for
    # garbage takes a fifth of the start. ``cli.run`` turns collection on again.
    gc.disable()
    if "DIFFINFO_SERVER" in os.environ and "RANK" not in os.environ:
        from diffinfo.operations.warm import call

        call(os.environ["DIFFINFO_SERVER"], sys.orig_argv[sys.orig_argv.index("-m") + 1 :])
