"""Kinds of values and of sections: what the configuration's keys and the stages' settings are made of."""

from __future__ import annotations

import re
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationInfo, field_validator

Positive = Annotated[float, Field(gt=0)]
Share = Annotated[float, Field(ge=0, le=1)]
Count = Annotated[int, Field(ge=1)]
Name = Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9.-]*$", max_length=64)]
LINE = re.compile(r"[^\s\x00-\x1f\x7f-\x9f\ud800-\udfff](?:[^\x00-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff]*\S)?")


def matches(pattern: str | re.Pattern[str], what: str) -> AfterValidator:
    """A text must match the whole of ``pattern``."""

    def check(value: str) -> str:
        if not re.fullmatch(pattern, value):
            raise ValueError(f"must be {what}")
        return value

    return AfterValidator(check)


Line = Annotated[str, matches(LINE, "one line of text, without control characters or white space around it")]
Revision = Annotated[str, matches(r"(?!-|.*\.\.)[\w.+@/-]+", "a branch, tag or commit")]
Variable = Annotated[str, matches(r"[A-Za-z_][A-Za-z0-9_]*", "a name of letters, digits and _")]
Attention = Literal["eager", "sdpa", "flash_attention_2"]
Dtype = Literal["float32", "bfloat16"]


class Section(BaseModel):
    """A section of a YAML file: unknown keys are refused, values never change."""

    model_config = ConfigDict(extra="forbid", strict=False, frozen=True, allow_inf_nan=False)

    @field_validator("*", mode="before")
    @classmethod
    def _fits_no_key(cls, value: Any, info: ValidationInfo) -> Any:
        """YAML reads yes and no as truth values, which pydantic would take for 1 and 0; hardly any key is one."""
        items = value if isinstance(value, list) else [value]
        if cls.model_fields[str(info.field_name)].annotation is bool:
            return value
        if any(isinstance(item, bool) for item in items):
            raise ValueError("a truth value (yes, no, true, false) does not fit here; quote it where it is text")
        if any(isinstance(item, int) and abs(item) >= 2**53 for item in items):
            raise ValueError("fits no key: the number must be smaller than 2^53")
        if any(isinstance(item, str) and item.strip() == "null" for item in items):  # a stage would read it as null
            raise ValueError("the text 'null' fits no key; remove its quotes")
        return value


class Computation(Section):
    """How a model's log-probabilities or scores are computed (settings of stages, not keys of a file)."""

    attention: Attention = "eager"
    dtype: Dtype = "float32"
    micro_batch_tokens: Count = 16_384  # of one forward pass
