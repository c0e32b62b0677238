"""Files are merged key by key; grid+ adds to a list."""

from __future__ import annotations

from pathlib import Path

import pytest

from config.test_config import ROOT
from diffinfo.config.reading import load
from diffinfo.config.strict_yaml import ConfigError, merge, read_yaml


def test_merge_keys_of_yaml_work(tmp_path: Path) -> None:
    file = tmp_path / "config.yaml"
    file.write_text("a: &base {x: 1, y: 2}\nb:\n  <<: *base\n  y: 3\n")
    assert read_yaml(file) == {"a": {"x": 1, "y": 2}, "b": {"x": 1, "y": 3}}


def test_later_files_win_key_by_key() -> None:
    assert merge({"a": {"x": 1, "y": 2}, "b": [1]}, {"a": {"y": 3}, "b": [2]}) == {"a": {"x": 1, "y": 3}, "b": [2]}
    base = {"a": {"x": [1]}, "b": [1]}
    assert merge(base, {"a": {"x+": [2]}, "b+": [2, [3]]}) == {"a": {"x": [1, 2]}, "b": [1, 2, [3]]}
    assert base == {"a": {"x": [1]}, "b": [1]}


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("betas+: 0.3", "betas+: must be a list, which is added to 'betas', got 0.3."),
        ("betas+: [0.3]\nbetas: [0.1]", "betas+: the same file gives 'betas' too; write all into 'betas'."),
        ("epochs+: [3]", "epochs+: no file before gives a list 'epochs' to add to; write 'epochs'."),
        (
            "synthetic: {seds+: [3]}",
            "synthetic.seds+: no file before gives a list 'seds' to add to; did you mean 'seeds+'?",
        ),
        ("betas+: [0.1]", "betas: a value is listed twice; list each once"),
        ("grid+: [{model: micro-mistral, dataset: magpie-pro, methods: [dpo]}]", "on magpie-pro is in grid."),
        ("world+: {seed: 3}", "world+: unknown key; did you mean 'world'?"),
    ],
)
def test_what_cannot_be_added_is_refused(tmp_path: Path, text: str, said: str) -> None:
    (tmp_path / "mine.yaml").write_text(text)
    with pytest.raises(ConfigError) as refused:
        load(ROOT / "config.yaml", tmp_path / "mine.yaml")
    assert said in str(refused.value)
    assert "mine.yaml" in str(refused.value)


def test_added_rows_stand_behind_the_others(tmp_path: Path) -> None:
    files = [tmp_path / "one.yaml", tmp_path / "two.yaml"]
    for file, method in zip(files, ("orpo", "simpo"), strict=True):
        file.write_text(f"grid+: [{{model: micro-gemma2, dataset: magpie-pro, methods: [{method}]}}]\nbetas+: []\n")
    before, after = load(ROOT / "config.yaml"), load(ROOT / "config.yaml", *files)
    assert after.grid[:-2] == before.grid
    assert [row.methods for row in after.grid[-2:]] == [["orpo"], ["simpo"]]
    assert after.betas == before.betas
