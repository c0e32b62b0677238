"""What the plan assumes of hardware, datasets, benchmarks and judges: assumptions.yaml, checked."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from pydantic import Field, ValidationError

from diffinfo.cli import UserError
from diffinfo.config.strict_yaml import read_yaml
from diffinfo.config.values import Positive, Section, Share

ASSUMPTIONS = Path(__file__).with_name("assumptions.yaml")
NotNegative = Annotated[float, Field(ge=0)]


class Hardware(Section):
    """A GPU type, or a core."""

    tflops: Positive  # dense bf16 peak
    train: Share  # shares of the peak that training, reading and writing reach
    read: Share
    write: Share
    memory_gb: NotNegative
    cpus: Annotated[int, Field(ge=1)]  # cores a GPU
    dollars_per_hour: NotNegative
    start_minutes: NotNegative  # imports, process groups, loading


class Data(Section):
    """Size of a dataset."""

    rows: Annotated[int, Field(ge=0)]
    prompt_tokens: Positive
    response_tokens: Positive


class Benchmarks(Section):
    """Size of the public benchmarks."""

    arena_hard: int
    arena_hard_v2: int
    wildbench: int
    answer_tokens: Positive
    qa_tokens: Positive


class Tokens(Section):
    """Tokens of a judge's call, or dollars a million of them."""

    read: NotNegative
    written: NotNegative


class Judges(Section):
    """What judging costs."""

    price: Tokens
    call: Tokens


class Assumptions(Section):
    """The whole of assumptions.yaml."""

    hardware: dict[str, Hardware]
    eager_share: Share
    libraries_gb: Positive
    datasets: dict[str, Data]
    benchmarks: Benchmarks
    judges: Judges


def read_assumptions(file: Path = ASSUMPTIONS) -> Assumptions:
    """Read and check the assumptions.

    Raises:
        UserError: naming each key that is missing, unknown or wrong.
    """
    try:
        return Assumptions.model_validate(read_yaml(file))
    except ValidationError as error:
        faults = [f"{'.'.join(map(str, fault['loc']))}: {fault['msg']}" for fault in error.errors()]
        raise UserError(f"{file} has {len(faults)} fault(s): " + "; ".join(faults)) from error
