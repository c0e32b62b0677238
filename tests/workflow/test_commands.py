"""Every command that the rules make is one that its stage understands."""

import re
import runpy
import shlex
import subprocess
import sys
from collections import defaultdict

import pytest
from jsonargparse import auto_cli, capture_parser

from diffinfo import cli
from project import ROOT


@pytest.mark.filterwarnings("ignore:.*found in sys.modules:RuntimeWarning")
def test_stages_understand_their_rules(project_factory, monkeypatch):
    output = project_factory().snakemake("-n", "-p", "all")
    commands = {}
    for command in re.findall(r"^\s*Shell command: python -m (.* 2> \S+)$", output, re.M):
        stage, *arguments = shlex.split(command)[:-2]
        options = tuple(re.sub("=.*", "", word, flags=re.S) for word in arguments if word.startswith("--"))
        commands[stage, options, arguments[0]] = arguments
    assert len({stage for stage, *_ in commands}) >= 20
    for (stage, *_), arguments in commands.items():
        monkeypatch.setattr(sys, "argv", [stage])
        found = []
        monkeypatch.setattr(cli, "run", lambda components, positional=False, found=found: found.append(components))
        runpy.run_module(stage, run_name="__main__")
        parser = capture_parser(lambda found=found: auto_cli(found[0], as_positional=False, parser_mode="json"))
        try:
            parser.parse_args(arguments)
        except SystemExit:
            pytest.fail(f"{stage} does not understand {shlex.join(arguments)}")


def test_the_workflow_is_read_without_torch(project_factory):
    """Snakemake reads it at each start, also in each job on a cluster: torch and transformers take seconds to import."""
    project = project_factory()
    code = (
        "import atexit, sys; from snakemake.cli import main; heavy = {'torch', 'transformers', 'datasets', 'matplotlib'};"
        "atexit.register(lambda: print(sorted(heavy & set(sys.modules)))); main()"
    )
    command = [sys.executable, "-c", code, "results/tables/table1.md", "-n", "--quiet", "all"]
    done = subprocess.run(
        command, cwd=project.folder, env=project.environment, capture_output=True, text=True, check=True
    )
    assert done.stdout.splitlines()[-1] == "[]"


def test_no_name_is_defined_in_two_rule_files():
    """Rule files share one name space, and functions look names up when jobs run: the last file to define one would win."""
    places = defaultdict(set)
    for file in [ROOT / "Snakefile", *ROOT.glob("workflow/rules/*.smk")]:
        for constant, function in re.findall(r"^(?:([A-Z_]+) *=|def (\w+)\()", file.read_text(), re.M):
            places[constant or function].add(file.name)
    assert {name: files for name, files in places.items() if len(files) > 1} == {}
