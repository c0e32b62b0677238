"""Python imports this on start where the folder is on its path: the test cluster's Snakemake looks at its jobs every second.

The SLURM plugin looks ever more rarely while nothing ends, every 180 s at last, and that cannot be configured.
"""

import asyncio

_sleep = asyncio.sleep


async def _short(delay, result=None):
    return await _sleep(min(delay, 1.0), result)


asyncio.sleep = _short
