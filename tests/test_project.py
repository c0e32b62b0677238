"""What the tests wait with, a deadline and a look at the child; the shape of the package; mutations that apply."""

import ast
import subprocess
import sys
import time

import pytest
import yaml

from project import ROOT, wait_until


def test_waiting_ends_when_the_child_has_died():
    child = subprocess.Popen([sys.executable, "-c", "raise SystemExit(3)"])
    before = time.monotonic()
    with pytest.raises(AssertionError, match="ended before: a file that never comes"):
        wait_until(lambda: False, "a file that never comes", 60, alive=lambda: child.poll() is None, every=0.01)
    assert time.monotonic() - before < 30
    assert child.wait(5) == 3


def test_waiting_ends_at_its_deadline():
    with pytest.raises(TimeoutError, match="not within 0 s: nothing"):
        wait_until(lambda: False, "nothing", 0.05, every=0.01)


def test_what_came_with_the_childs_end_counts():
    there = iter([False, True])
    wait_until(lambda: next(there), "its last words", alive=lambda: False)


def imports(file):
    """The package's modules that a file imports, at its head or within functions."""
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("diffinfo"):
            yield node.module
            yield from (f"{node.module}.{name.name}" for name in node.names)
        elif isinstance(node, ast.Import):
            yield from (name.name for name in node.names if name.name.startswith("diffinfo"))


def test_no_module_imports_itself_by_way_of_others():
    package = ROOT / "workflow"
    files = {".".join(f.relative_to(package).with_suffix("").parts): f for f in package.glob("diffinfo/**/*.py")}
    left = {name: set(imports(file)) & files.keys() - {name} for name, file in files.items()}
    while free := {name for name, wanted in left.items() if not wanted & left.keys()}:
        left = {name: wanted for name, wanted in left.items() if name not in free}
    assert left == {}


def test_files_are_short():
    files = [f for pattern in ("workflow/**/*.py", "workflow/**/*.smk", "tests/**/*.py") for f in ROOT.glob(pattern)]
    assert {str(f): n for f in files if (n := len(f.read_text().splitlines())) > 400} == {}


def test_every_mutation_applies():
    """What a mutation changes is there, once, and so are the files of its tests."""
    groups = [group for file in (ROOT / "tests/mutation").glob("*.yaml") for group in yaml.safe_load(file.read_text())]
    lost = []
    for group in groups:
        text = (ROOT / "workflow/diffinfo" / group["file"]).read_text()
        for what, old, _, *tests in group["mutations"]:
            files = [word for word in (tests or [""])[0].split() or group["tests"].split() if word.startswith("tests/")]
            if text.count(old) != 1 or not files or not all((ROOT / file.split("::")[0]).exists() for file in files):
                lost.append((group["file"], what))
    assert lost == []
    assert len(groups) > 50
