"""Kinds of values that keys of the configuration hold, and what no key holds."""

from __future__ import annotations

import re
from typing import Annotated, Any

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, field_validator

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


class Section(BaseModel):
    """Named values that are checked, complete and never changed."""

    model_config = ConfigDict(extra="forbid", strict=False, frozen=True, allow_inf_nan=False)

    @field_validator("*", mode="before")
    @classmethod
    def _fits_no_key(cls, value: Any) -> Any:
        """YAML reads yes and no as truth values, which pydantic would take for 1 and 0; no key is one."""
        items = value if isinstance(value, list) else [value]
        if any(isinstance(item, bool) for item in items):
            raise ValueError("a truth value (yes, no, true, false) fits no key; quote it where it is text")
        if any(isinstance(item, int) and abs(item) >= 2**53 for item in items):
            raise ValueError("fits no key: the number must be smaller than 2^53")
        if any(isinstance(item, str) and item.strip() == "null" for item in items):  # a stage would read it as null
            raise ValueError("the text 'null' fits no key; remove its quotes")
        return value
