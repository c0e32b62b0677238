"""Calls a stage's function with flat arguments: those that its settings hold are put into them."""

from collections.abc import Callable
from typing import Any, get_type_hints


def with_settings(function: Callable[..., None], arguments: dict[str, Any]) -> dict[str, Any]:
    """Arguments of a stage's function, one of which is ``settings``."""
    settings = get_type_hints(function)["settings"]
    inside = {name: arguments[name] for name in settings.model_fields if name in arguments}
    outside = {name: value for name, value in arguments.items() if name not in inside}
    return {**outside, "settings": settings(**inside)}


def stage(function: Callable[..., None], **arguments: Any) -> None:
    """Run a stage in this process."""
    function(**with_settings(function, arguments))
