"""Whether a machine has a GPU."""

from pathlib import Path

import pytest

from diffinfo.operations.gpus import has_gpu


@pytest.mark.parametrize("file", ["nvidia0", "nvidia11", "kfd", "dxg"])
def test_a_device_file_is_a_gpu(tmp_path: Path, file: str) -> None:
    assert not has_gpu({}, tmp_path)
    (tmp_path / file).touch()
    assert has_gpu({}, tmp_path)


@pytest.mark.parametrize("file", ["nvidiactl", "nvidia-uvm", "null"])
def test_a_driver_without_a_device_is_none(tmp_path: Path, file: str) -> None:
    (tmp_path / file).touch()
    assert not has_gpu({}, tmp_path)


@pytest.mark.parametrize(
    ("said", "found"), [("", False), ("-1", False), ("NoDevFiles", False), ("0", True), ("GPU-1f", True)]
)
def test_what_cuda_is_told_wins(tmp_path: Path, said: str, found: bool) -> None:
    assert has_gpu({"CUDA_VISIBLE_DEVICES": said}, tmp_path) is found
    (tmp_path / "nvidia0").touch()
    assert has_gpu({"CUDA_VISIBLE_DEVICES": said}, tmp_path) is found
