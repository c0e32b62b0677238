"""Text arrives at a stage as it was written, whatever YAML or a parser would make of it."""

import json
import sys
from pathlib import Path

import pytest

from diffinfo.cli import run
from diffinfo.config.benchmarks import Qa
from diffinfo.models.fetch import Source

TEXTS = [
    "123", "[x]", "{x}", "true", "1e5", "@file", "-x", "--config", "a: b", "~", "${oc.env:HOME}", "$HOME", '"q"', "'q'",
    "# x", "&a", "*a", "!!python/object", "é😀", "a,b", "\\", "env:HOME", "2020-01-01", "0x10", ".inf", "here.json", "a=b",
]  # fmt: skip


@pytest.mark.parametrize("text", TEXTS)
def test_text_is_not_interpreted(tmp_path, monkeypatch, text):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "here.json").write_text('{"source": "a file that was not asked for"}')
    told = {}

    def stage(*, source: str, path: Path, files: list[Path], spec: Source, names: list[str] | None = None) -> None:
        told.update(source=source, path=path, files=files, spec=spec, names=names)

    spec = Source(source=text, chat_template=text)
    values = {
        "source": text, "path": text, "files": json.dumps([text, text]), "names": json.dumps([text]),
        "spec": spec.model_dump_json(),
    }  # fmt: skip
    monkeypatch.setattr(sys, "argv", ["stage", *(f"--{name}={value}" for name, value in values.items())])
    run(stage)
    assert told == {"source": text, "path": Path(text), "files": [Path(text)] * 2, "spec": spec, "names": [text]}


@pytest.mark.parametrize("text", ["\x00", "\x7f", "\x85", "\u2028", "\n", "", " x ", '"\\ud800'])
def test_prompts_may_hold_any_character(monkeypatch, text):
    told = []

    def stage(*, settings: Qa) -> None:
        told.append(settings.system_prompt)

    monkeypatch.setattr(sys, "argv", ["stage", f"--settings={Qa(system_prompt=text).model_dump_json()}"])
    run(stage)
    assert told == [text]
