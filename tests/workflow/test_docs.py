"""README.md and docs/: commands run, and every file, key, module, link and test that they name exists."""

import importlib.util
import json
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from diffinfo.config.reading import load
from diffinfo.operations.assumptions import read_assumptions
from diffinfo.operations.cost import Costs
from diffinfo.operations.jobs import parsed
from diffinfo.operations.plan import summary

ROOT = Path(__file__).resolve().parents[2]
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]
TEXT = {page.relative_to(ROOT).as_posix(): page.read_text() for page in PAGES}
SCHEMA = json.loads((ROOT / "workflow/schemas/config.schema.json").read_text())
FOLDERS = [ROOT / name for name in ("benchmarks", "docs", "envs", "profiles", "slurm", "tests", "workflow")]
FILES = [file.relative_to(ROOT) for folder in FOLDERS for file in folder.rglob("*")]


def blocks(kind: str, text: str) -> list[str]:
    return re.findall(rf"^```{kind}\n(.*?)^```", text, re.M | re.S)


def commands() -> list[tuple[str, str, list[str]]]:
    """Page, the mine.yaml above it, and words of every command; a command on several pages counts once."""
    found = {}
    for page, text in TEXT.items():
        mine = ""
        for kind, block in re.findall(r"^```(bash|yaml)\n(.*?)^```", text, re.M | re.S):
            mine = block if kind == "yaml" else mine
            for line in block.splitlines() if kind == "bash" else ():
                words = shlex.split(line.removeprefix("PYTHONPATH=workflow ").removeprefix(".venv/bin/"), comments=True)
                found.setdefault((mine if "mine.yaml" in line else "", *words), page)
    return [(page, mine, words) for (mine, *words), page in found.items()]


COMMANDS = commands()
BY_TOOL = {tool: [c for c in COMMANDS if c[2][0] == tool] for tool in ("make", "snakemake", "python", "pip", "pytest")}
TICKED = {(page, word) for page, text in TEXT.items() if page != "docs/config.md"
          for word in re.findall(r"`([^`\n]+)`", re.sub(r"^```.*?^```", "", text, flags=re.M | re.S))}  # fmt: skip


def names(commands: list[tuple[str, str, list[str]]]) -> list[str]:
    return [f"{page}: {' '.join(words)}" for page, _, words in commands]


def test_every_command_is_of_a_kind_that_is_tested() -> None:
    assert sum(map(len, BY_TOOL.values())) == len(COMMANDS) > 15


@pytest.fixture(scope="module")
def project(project_factory):
    project = project_factory()
    (project.folder / "tests").symlink_to(ROOT / "tests")
    return project


@pytest.mark.parametrize(("page", "mine", "words"), BY_TOOL["snakemake"], ids=names(BY_TOOL["snakemake"]))
def test_snakemake_plans_it(project, page, mine, words) -> None:
    (project.folder / "mine.yaml").write_text(mine)
    if shutil.which("conda") is None:  # which even a dry run with --sdm conda asks
        words = [word for word in words if word not in ("--sdm", "conda")]
    said = project.snakemake("-n", *words[1:])
    assert "This was a dry-run" in said
    if promised := re.search(r"by plan (\d+ GPU hours), (\d+ h) at the least, (\$[\d,]+)", mine):
        config = load(None, *(project.folder / word for word in words if word.endswith(".yaml")))
        planned = "\n".join(summary(parsed(said), config, Costs(config, read_assumptions())))
        ends = (" of a100", " from the first job", ", of it")
        assert all(number + end in planned for number, end in zip(promised.groups(), ends, strict=True)), planned


@pytest.mark.parametrize(("page", "mine", "words"), BY_TOOL["make"], ids=names(BY_TOOL["make"]))
def test_make_has_the_target_and_the_files(page, mine, words) -> None:
    said = subprocess.run(["make", "-n", *words[1:]], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    for file in (file for word in words if "=" in word for file in word.partition("=")[2].split()):
        assert f" {file}" in said
        assert (ROOT / file).is_file() or (file == "mine.yaml" and mine)


def test_bare_make_lists_its_targets() -> None:
    said = subprocess.run(["make"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    targets = re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.M)
    assert {line.split()[0] for line in said.splitlines() if line.startswith("  ")} == {*targets} - {"help"}


@pytest.mark.parametrize(("page", "mine", "words"), BY_TOOL["python"], ids=names(BY_TOOL["python"]))
def test_python_has_the_module_and_its_options(page, mine, words) -> None:
    subcommand = words[3:4] if not words[3].startswith("-") else []
    done = subprocess.run([sys.executable, *words[1:3], *subcommand, "--help"], capture_output=True, text=True,
                          env={"PYTHONPATH": str(ROOT / "workflow"), "PATH": ""})  # fmt: skip
    assert done.returncode == 0, done.stderr
    for option in (word for word in words[3:] if word.startswith("--")):
        assert option in done.stdout


def test_what_pip_and_pytest_are_given_exists() -> None:
    for _, _, words in BY_TOOL["pip"] + BY_TOOL["pytest"]:
        for word in words[1:]:
            if "/" in word:
                assert (ROOT / word).exists()
            if "==" in word:
                assert f"\n{word} --hash" in (ROOT / "envs/torch.txt").read_text()


@pytest.mark.parametrize("block", [block for text in TEXT.values() for block in blocks("yaml", text)])
def test_yaml_is_a_part_of_a_configuration(block) -> None:
    assert {key.removesuffix("+") for key in yaml.safe_load(block)} <= set(SCHEMA["properties"])


def test_files_exist() -> None:
    """A path from the root, from workflow/, or a file's bare name. Those under results/ are planned, not looked for."""
    for page, word in TICKED:
        if word.startswith("python ") and "<" not in word:
            word = word.split()[1]
        looks = re.fullmatch(r"[\w.*/-]+\.(py|smk|yaml|md|txt|json|png|parquet|html)|[\w.-]+/[\w./-]*", word)
        if looks and not word.startswith("results/") and not word.endswith("parquet") and "*" not in word:
            places = (
                [word, f"workflow/{word}"] if "/" in word else [word] + [file for file in FILES if file.name == word]
            )
            assert any((ROOT / place).exists() for place in places), f"{page}: {word}"


def test_results_that_are_named_are_made(project) -> None:
    named = {word for _, word in TICKED if re.fullmatch(r"results/[\w./-]+\.(md|parquet|png)", word)}
    assert named >= {"results/claims.md", "results/tables/theorems.md"}
    project.snakemake("-n", *named)


def test_modules_and_keys_exist() -> None:
    for page, word in TICKED:
        if re.fullmatch(r"diffinfo(\.\w+)+", word):
            assert importlib.util.find_spec(word), f"{page}: {word}"
        section, _, key = word.partition(".")
        if re.fullmatch(r"[a-z_]+\.(?!(py|yaml|md|smk)$)[a-z_]+", word) and section in SCHEMA["properties"]:
            where = SCHEMA["properties"][section]["$ref"].rpartition("/")[2]
            assert key in SCHEMA["$defs"][where]["properties"], f"{page}: {word}"


def test_rooms_import_only_what_the_drawing_puts_below_them() -> None:
    drawing = re.search(r"^run by.*?^```", TEXT["docs/architecture.md"], re.M | re.S)[0].splitlines()[2:-1]
    levels = {room: level for level, line in enumerate(drawing) for room in re.findall(r"\w+", line[16:])}
    package = ROOT / "workflow/diffinfo"
    assert levels.keys() == {path.stem for path in package.iterdir() if not path.stem.startswith("__")}
    for file in package.rglob("*.py"):
        room = file.relative_to(package).parts[0].removesuffix(".py")
        if room.startswith("__"):  # where stages start
            continue
        used = re.findall(r"^\s*(?:from|import) diffinfo\.(?!world\.language )(\w+)", file.read_text(), re.M)
        used += re.findall(r"^\s*from diffinfo import (?!__)(\w+)", file.read_text(), re.M)
        assert not used or file.name != "language.py"
        for other in {*used} - {room}:
            assert levels[room] < levels[other] or (room, other) == ("cli", "tables"), f"{file} imports {other}"


def test_links_lead_somewhere() -> None:
    for page, text in TEXT.items():
        for link in re.findall(r"\]\((?!https:)([^)]+)\)", text):
            file, _, anchor = link.partition("#")
            target = (ROOT / page).parent / file
            assert target.exists(), f"{page}: {link}"
            headings = [re.sub(r"[^\w -]", "", head.lower()).replace(" ", "-")
                        for head in re.findall(r"^#+ (.*)", target.read_text(), re.M)] if anchor else [anchor]  # fmt: skip
            assert anchor in headings, f"{page}: {link}"


def test_faults_are_tested_by_what_the_table_names() -> None:
    rows = [line.split("|") for line in TEXT["docs/cluster.md"].splitlines() if line.count("|") == 5 and "`" in line]
    assert len(rows) == 15
    tests = "".join(
        file.read_text() for folder in ("slurm", "faults") for file in (ROOT / "tests" / folder).glob("*.py")
    )
    files = {file.stem for file in (ROOT / "tests/faults").glob("*.py")}
    for row in rows:
        for name in re.findall(r"`(\w+)`", row[4]):
            assert re.search(rf"def (test_nothing_is_lost_when_)?{name}\(", tests) or name in files, name


def test_readme_is_one_page() -> None:
    assert len(TEXT["README.md"].split()) <= 700
