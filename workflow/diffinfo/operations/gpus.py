"""Whether this machine has a GPU, told without torch."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

DEVICES = ("nvidia[0-9]*", "kfd", "dxg")  # of NVIDIA, of AMD, and of Windows' Linux


def has_gpu(environment: Mapping[str, str], devices: Path = Path("/dev")) -> bool:
    """Whether jobs that start here find a GPU: what CUDA_VISIBLE_DEVICES says, else whether there is a device file."""
    said = environment.get("CUDA_VISIBLE_DEVICES")
    if said is not None:
        return said.strip() not in ("", "-1", "NoDevFiles")
    return any(next(devices.glob(pattern), None) for pattern in DEVICES)
