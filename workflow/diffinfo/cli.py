"""What every ``python -m diffinfo.<stage>`` shares: arguments from signatures, one-sentence errors, progress bars."""

from __future__ import annotations

import difflib
import errno
import gc
import logging
import os
import re
import sys
from collections.abc import Callable, Iterable, Iterator
from typing import Any, TextIO, TypeVar, cast

from tqdm import tqdm

import diffinfo

T = TypeVar("T")
log = logging.getLogger("diffinfo")


class UserError(Exception):
    """A fault the user can fix: the message names the file, the key, the value and the remedy."""


def nearest(value: str, among: Iterable[str]) -> str:
    """The name a typing error probably meant, else all of them."""
    near = difflib.get_close_matches(value, list(among), n=1, cutoff=0.5)
    return f"; did you mean '{near[0]}'?" if near else f"; known: {', '.join(sorted(among)) or 'none'}"


def run(components: Callable[..., Any] | dict[str, Callable[..., Any]], positional: bool = False) -> None:
    """Call a stage with arguments parsed from the command line, unless another process is running the same job.

    A UserError, a full disk and a folder that may not be written become one sentence and exit 1.
    """
    from jsonargparse import auto_cli

    from diffinfo.tables import provenance
    from diffinfo.tables.locks import one_writer

    gc.freeze()
    gc.enable()
    logging.basicConfig(format="%(asctime)s %(message)s", datefmt="%H:%M:%S", level=logging.INFO, stream=sys.stderr)
    for chatty in ("httpx", "datasets", "lm_eval", "transformers", "matplotlib"):
        logging.getLogger(chatty).setLevel(logging.WARNING)
    try:
        with one_writer(sys.argv, provenance.begin(sys.argv)) as needed:
            if needed:
                # JSON: in YAML a text such as ~ or [x] would arrive as something else
                auto_cli(cast("Any", components), as_positional=positional, parser_mode="json")
        diffinfo.succeeded = True
    except UserError as error:
        sys.exit(f"error: {error}")
    except Exception as error:
        fault = _disk_fault(error)
        if fault is None:
            raise
        sys.exit(f"error: {fault}")
    finally:
        provenance.end()


def _disk_fault(error: Exception) -> str | None:
    """A disk error as a sentence; None for any other error. Safetensors has the error number only in its text."""
    found = re.search(r"\(os error (\d+)\)", str(error))
    number = error.errno if isinstance(error, OSError) else int(found[1]) if found else None
    remedy = {
        errno.ENOSPC: "free some space",
        errno.EDQUOT: "free some of your quota",
        errno.EROFS: "make that file system writable",
        errno.EACCES: "give yourself the right to write there",
    }.get(number or 0)
    if remedy is None:
        return None
    where = getattr(error, "filename", None) or os.getcwd()
    return f"{where}: {os.strerror(number or 0)}. Nothing that was finished is lost: {remedy} and run the same again."


class _Lines:
    """A log file in place of a terminal: tqdm's redrawn bar becomes sparse lines."""

    def __init__(self, stream: TextIO) -> None:
        self.stream = stream

    def write(self, text: str) -> None:
        text = text.strip("\r\n ")
        if text:
            self.stream.write(text + "\n")

    def flush(self) -> None:
        self.stream.flush()


def progress(items: Iterable[T], what: str, total: int | None = None, done: int = 0) -> Iterator[T]:
    """Iterate with a bar and an ETA: redrawn on a terminal, a line every 20 s in a log file.

    Args:
        items: what is left to do.
        what: name of the bar.
        total: how many there are in all.
        done: how many of them an earlier job did.
    """
    return cast("Iterator[T]", bar(items, what, total, done))


def bar(items: Iterable[T], what: str, total: int | None = None, done: int = 0) -> tqdm[T]:
    """The bar of ``progress``, which its caller moves where there are no ``items``."""
    terminal = sys.stderr.isatty()
    return tqdm(
        items,
        desc=what,
        total=total,
        initial=done,
        file=sys.stderr if terminal else cast("TextIO", _Lines(sys.stderr)),
        mininterval=0.2 if terminal else 20.0,
        dynamic_ncols=terminal,
        ascii=not terminal,
    )
