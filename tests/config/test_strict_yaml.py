"""YAML that is not a configuration: broken, endless or too large; one sentence each."""

from pathlib import Path

import pytest

from diffinfo.config.strict_yaml import ConfigError, read_yaml


def laughs(line: str) -> str:
    """Thirty levels, each of which names the one above nine times."""
    return "a0: &a0 {k0: 1}\n" + "".join(f"a{i}: &a{i} " + line.replace("A", f"*a{i - 1}") + "\n" for i in range(1, 30))


BOMBS = {
    "lists": (laughs("[A, A, A, A, A, A, A, A, A]"), "expands to more than 100000 values"),
    "mappings": (
        laughs("{a: A, b: A, c: A, d: A, e: A, f: A, g: A, h: A, i: A}"),
        "expands to more than 100000 values",
    ),
    "merges": (laughs("{<<: [A, A, A, A, A, A, A, A, A]}"), "expands to more than 100000 values"),
    "deep-lists": ("a: " + "[" * 5000 + "]" * 5000, "is nested too deeply"),
    "deep-mappings": ("a: " + "{a: " * 3000 + "1" + "}" * 3000, "is nested too deeply"),
    "circle": ("a: &a [*a]", "an alias refers to what contains it"),
    "circle-of-mappings": ("a: &a {b: *a}", "an alias refers to what contains it"),
    "large": ("a: " + "x" * 1_000_000, "is larger than 1000000 bytes"),
    "digits": ("epochs: " + "9" * 5000, "is not valid YAML: Exceeds the limit"),
    "hexadecimal": ("epochs: 0x" + "f" * 5000, "line 1: the number is too large."),
    "python": (
        "a: !!python/object/apply:os.system ['touch pwned']",
        "is not valid YAML: could not determine a constructor",
    ),
    "python-name": ("!!python/name:os.system : 1", "is not valid YAML: could not determine a constructor"),
    "no-such-day": ("a: 2020-99-99", "is not valid YAML: month must be"),
    "no-integer": ("a: !!int x", "is not valid YAML: invalid literal"),
    "empty-integer": ("a: !!int ''", "is not valid YAML: string index"),
    "no-truth": ("a: !!bool x", "is not valid YAML: 'x'"),
    "no-time": ("a: !!timestamp x", "is not valid YAML"),
}


@pytest.mark.parametrize(("text", "said"), BOMBS.values(), ids=BOMBS)
def test_yaml_that_is_no_configuration_is_one_sentence(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: str, said: str
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "bomb.yaml").write_text(text)
    with pytest.raises(ConfigError) as caught:
        read_yaml(Path("bomb.yaml"))
    assert said in str(caught.value)
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 400
    assert not (tmp_path / "pwned").exists()
