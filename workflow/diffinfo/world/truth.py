"""The language's own reward of completions: what the labels of the micro world's pairs follow.

``python -m diffinfo.world.truth``
"""

from __future__ import annotations

from pathlib import Path

from diffinfo.cli import UserError, run
from diffinfo.tables import artifacts
from diffinfo.world.language import parse, reward


def rewards(completions: Path, kind: str) -> list[float]:
    """The true reward of every completion of a table.

    Raises:
        UserError: for a prompt that is not the micro world's.
    """
    table = artifacts.read(completions, "completions", columns=["messages", "completion"])
    try:
        asked = [parse(messages[-1]["content"]) for messages in table.messages]
    except ValueError as error:
        raise UserError(f"{completions}: {error}; only its true reward is known.") from None
    return [reward(prompt, answer, kind) for prompt, answer in zip(asked, table.completion, strict=True)]


def main(*, completions: Path, kind: str, out: Path) -> None:
    """Score completions by their true reward, as a reward model would.

    Args:
        completions: completions of the micro world's prompts.
        kind: ``datasets.<name>.reward``.
        out: scores table to write.
    """
    table = artifacts.read(completions, "completions")
    scored = table.assign(score=rewards(completions, kind), tokens=table.token_ids.map(len))
    artifacts.write(out, scored, "scores", inputs={"completions": completions}, reward=kind)


if __name__ == "__main__":
    run(main)
