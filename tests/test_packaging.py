"""What people outside get: locks that agree, Pythons that are supported, an installable package, a CI that runs."""

import os
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from diffinfo.__main__ import stages
from project import Project

ROOT = Path(__file__).resolve().parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
SUPPORTED = ["3.11", "3.12", "3.13"]


def lock(name: str) -> dict[str, str]:
    """Versions by package in envs/NAME.txt, each line checked."""
    versions: dict[str, str] = {}
    for line in (ROOT / f"envs/{name}.txt").read_text().splitlines():
        if not line.startswith(("#", "-r ")):
            found = re.fullmatch(r"([a-z0-9-]+)==(\S+)((?: --hash=sha256:[0-9a-f]{64})+)", line)
            assert found, f"envs/{name}.txt: {line[:60]}"
            assert found[1] not in versions, f"envs/{name}.txt has {found[1]} twice"
            versions[found[1]] = found[2]
    return versions


def test_every_locked_package_has_hashes_and_one_place():
    torch, base, dev, vllm = map(lock, ("torch", "base", "dev", "vllm"))
    assert "torch" in torch
    for one, other in ((torch, base), (torch, dev), (base, dev), (torch, vllm)):
        assert not set(one) & set(other)


@pytest.mark.parametrize("groups", [("project",), ("project", "dev")])
def test_the_locks_hold_what_pyproject_asks_for(groups):
    asked = list(PROJECT["project"]["dependencies"])
    versions = lock("torch") | lock("base")
    if "dev" in groups:
        asked += PROJECT["dependency-groups"]["dev"]
        versions |= lock("dev")
    for line in asked:
        requirement = Requirement(line)
        version = versions[canonicalize_name(requirement.name)]
        assert requirement.specifier.contains(version), f"{line}: {version} is locked; run envs/lock"


def test_vllm_reads_and_writes_with_the_runtimes_versions():
    runtime, vllm = lock("torch") | lock("base"), lock("vllm")
    asked = [Requirement(line) for line in (ROOT / "envs/vllm.in").read_text().splitlines() if not line.startswith("#")]
    for requirement in asked:
        name = canonicalize_name(requirement.name)
        assert requirement.specifier.contains(vllm[name])
        if name != "vllm":
            assert vllm[name] == runtime[name]


@pytest.mark.parametrize("name", ["base", "vllm"])
def test_conda_installs_the_locks(name):
    """In full: the path of another file would not survive Snakemake's copy of this one."""
    environment = yaml.safe_load((ROOT / f"envs/{name}.yaml").read_text())
    *conda, pip = environment["dependencies"]
    lines = [(ROOT / f"envs/{part}.txt").read_text().splitlines() for part in ("torch", name)]
    assert conda == ["python =3.11", "pip"]
    assert pip["pip"] == [line for part in lines for line in part if not line.startswith("#")]


def test_supported_pythons_are_the_same_everywhere():
    classifiers = [c.rpartition(" ")[2] for c in PROJECT["project"]["classifiers"] if "Python :: 3." in c]
    jobs = yaml.safe_load((ROOT / ".github/workflows/ci.yml").read_text())["jobs"]
    assert classifiers == jobs["checks"]["strategy"]["matrix"]["python"] == SUPPORTED
    supported = Requirement(f"x{PROJECT['project']['requires-python']}").specifier
    assert [f"3.{minor}" for minor in range(8, 20) if supported.contains(f"3.{minor}.1")] == SUPPORTED
    for file in ("Snakefile", "Makefile"):
        assert "(3, 11) <=" in (ROOT / file).read_text(), file


@pytest.mark.parametrize("minor", [10, 14])
def test_another_python_is_refused_in_one_sentence(minor, tmp_path):
    pretend = f"import sys\nsys.version_info = (3, {minor}, 0, 'final', 0)\n"
    sentence = f"Python 3.{minor} is not supported: use 3.11 to 3.13"
    (tmp_path / "sitecustomize.py").write_text(pretend)
    made = subprocess.run(
        ["make", "-C", ROOT, f"PYTHON={sys.executable}", f"VENV={tmp_path}/venv", f"{tmp_path}/venv/.ready"],
        env={**os.environ, "PYTHONPATH": str(tmp_path)}, capture_output=True, text=True,
    )  # fmt: skip
    assert made.returncode != 0
    assert f"{sentence} (make PYTHON=python3.11 ...).\n" in made.stderr
    assert not (tmp_path / "venv").exists()

    project = Project(tmp_path / "project")
    snakefile = project.folder / "Snakefile"
    snakefile.write_text(snakefile.read_text().replace("import sys\n", pretend, 1))
    assert f"{sentence}.\n" in project.snakemake("-n", check=False)


def test_every_action_of_the_public_ci_is_pinned_and_every_target_exists():
    text = (ROOT / ".github/workflows/ci.yml").read_text()
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.M))
    for job in yaml.safe_load(text)["jobs"].values():
        for step in job["steps"]:
            if "uses" in step:
                assert re.fullmatch(r"[\w/-]+@[0-9a-f]{40}", step["uses"])
            elif step["run"].startswith("make "):
                assert set(step["run"].split()[1:]) <= targets


def test_pre_commit_runs_what_lint_runs():
    (repo,) = yaml.safe_load((ROOT / ".pre-commit-config.yaml").read_text())["repos"]
    linted = (ROOT / "Makefile").read_text()
    for hook in repo["hooks"]:
        command = hook["entry"].removeprefix(".venv/bin/").removesuffix(" --fix")
        assert f"\t{command}" in linted


def python(code: str) -> subprocess.CompletedProcess:
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)


def test_the_command_runs_a_stage_as_python_m_does():
    """Its name and arguments decide the digest in its outputs."""
    noted = python(
        "import sys; from diffinfo import cli, __main__ as command;"
        "cli.run = lambda *_, **__: print(sys.modules['__main__'].__spec__.name, sys.argv[1:]);"
        "sys.argv = ['diffinfo', 'data.pairs', '--scores', 'x y']; command.main()"
    )
    assert noted.stdout == "diffinfo.data.pairs ['--scores', 'x y']\n", noted.stderr


def test_the_command_lists_its_stages():
    assert {"train.preference", "reward", "operations.plan"} <= set(stages())
    call = "import sys; from diffinfo.__main__ import main; sys.argv = {}; main()".format
    assert python(call(["diffinfo"])).stdout.split()[-len(stages()) :] == stages()
    wrong = python(call(["diffinfo", "train.nothing"]))
    assert wrong.returncode == 1
    assert wrong.stderr.startswith("error: train.nothing is not a stage.\n")
