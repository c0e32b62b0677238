"""What made an output: a digest of its stage's command and of what it read, kept in the output itself.

Snakemake's records are lost when a run is killed and are not copied with results; what a file holds is kept.
Tables have it in their footer, folders in a hidden file, other files in a hidden file beside them.
"""

from __future__ import annotations

import hashlib
import json
import shlex
import sys
from collections.abc import Collection
from pathlib import Path
from typing import Any

PACE = ("--progress_dir", "--save_minutes", "--events", "--cache")  # say where and how fast, not what
NOTE = ".provenance.json"
FOOTER = b"diffinfo"

Made = dict[str, Any]  # "command": a digest; "read": the mark of each path that was there when the stage began
_here: list[Made] = []  # of the stage that this process runs
_words: list[str] = []  # of its command


def begin(arguments: list[str]) -> str:
    """Note what this process was passed and is about to read, for all it will write; returns the digest of both."""
    spec = sys.modules["__main__"].__spec__
    _words[:] = [spec.name if spec else arguments[0], *arguments[1:]]
    _here[:] = [_made(_words)]
    return digest(_here[0])


def end() -> None:
    """Forget it: what this process writes from now on belongs to no stage."""
    _here.clear()
    _words.clear()


def here() -> Made | None:
    """What this process was passed and has read; None where no stage runs."""
    return _here[0] if _here else None


def command() -> str:
    """The command of this process as a shell line, without what says where and how fast; empty where no stage runs."""
    return shlex.join(_decisive(_words))


def note(folder: Path) -> None:
    """Leave it in a folder."""
    if _here:
        (folder / NOTE).unlink(missing_ok=True)  # it may be a link to another folder's
        (folder / NOTE).write_text(json.dumps(_here[0]))


def note_beside(file: Path) -> None:
    """Write it beside a file that cannot hold it, with the file's digest."""
    if _here:
        file.with_name(f".{file.name}{NOTE}").write_text(json.dumps({**_here[0], "content": _content(file)}))


def _carries(path: Path) -> bool:
    """Whether an output carries provenance. Outputs that cannot are written before one of the same job that can."""
    return path.suffix in (".parquet", ".jsonl") or path.is_dir()


def made_by(command: str, outputs: Collection[str]) -> bool:
    """Whether the outputs that are there were made by a shell command, from what it would read now.

    What is not there any more cannot be compared and counts as the same.
    """
    words = shlex.split(command)
    stage = next(number for number, word in enumerate(words) if word.startswith("diffinfo."))
    wanted = _made(words[stage : len(words) - 1 - words[::-1].index("2>")])
    there = [Path(output) for output in outputs if Path(output).exists()]
    carriers = [path for path in there if _carries(path)]
    if not carriers or (len(there) < len(outputs) and len(carriers) < len(there)):
        return False
    return all(_same(_read(path), wanted, outputs) for path in carriers)


def _same(made: Made | None, wanted: Made, outputs: Collection[str]) -> bool:
    if made is None or made["command"] != wanted["command"]:
        return False
    now = {path: mark for path, mark in wanted["read"].items() if path not in outputs}
    return now == {path: made["read"].get(path) for path in now}


def _made(words: list[str]) -> Made:
    words = _decisive(words)
    paths = {path for word in words for path in (_listed(word) if word.startswith("[") else [word]) if _exists(path)}
    command = digest(words)
    own = {
        path for path in paths if (_read(Path(path)) or {}).get("command") == command
    }  # of an attempt that was killed
    read = {path: mark for path in sorted(paths - own) if (mark := _mark(Path(path)))}
    return {"command": command, "read": read}


def _decisive(words: list[str]) -> list[str]:
    words = [part for word in words for part in (word.split("=", 1) if word.startswith("--") else [word])]
    skipped = {number + step for number, word in enumerate(words) if word in PACE for step in (0, 1)}
    return [word for number, word in enumerate(words) if number not in skipped]


def _listed(word: str) -> list[str]:
    """The texts of a list, as rules pass several paths."""
    try:
        return [item for item in json.loads(word) if isinstance(item, str)]
    except ValueError:
        return []


def digest(value: Any) -> str:
    """A short, stable digest of a JSON-able value."""
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()[:16]


def _exists(name: str) -> bool:
    try:
        return Path(name).exists()
    except (OSError, ValueError):  # too long, or no path at all
        return False


def _mark(path: Path) -> str:
    """Fingerprint of an input: its provenance, that of the folder around it, or its content."""
    made = _read(path) or next(filter(None, (_json(folder / NOTE) for folder in path.parents)), None)
    return digest(made) if made else _content(path) if path.is_file() else ""


def _read(path: Path) -> Made | None:
    """An output's own record of what made it."""
    if path.is_dir():
        return _json(path / NOTE)
    if path.suffix != ".parquet":
        made = _json(path.with_name(f".{path.name}{NOTE}"))
        return made if made and made.pop("content", "") == _content(path) else None
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        metadata = pq.read_schema(path).metadata or {}
        made = json.loads(metadata.get(FOOTER, b"{}")).get("made")
    except (pa.ArrowException, OSError, ValueError):
        return None
    return made if isinstance(made, dict) else None


def _json(file: Path) -> Made | None:
    try:
        made = json.loads(file.read_text())
    except (OSError, ValueError):
        return None
    return made if isinstance(made, dict) and {"command", "read"} <= made.keys() else None


def _content(path: Path) -> str:
    with open(path, "rb") as handle:
        return hashlib.file_digest(handle, "sha256").hexdigest()[:16]
