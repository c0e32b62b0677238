"""Nothing of the configuration is ever run as code, and local files are inputs."""

import copy
import json
import os
import re
import subprocess
from pathlib import Path
from typing import Any, get_args, get_origin

import pytest
import yaml
from pydantic import BaseModel

from diffinfo.cli import UserError
from diffinfo.config.reading import parse
from diffinfo.config.strict_yaml import ConfigError
from diffinfo.config.types import Config
from diffinfo.operations.assumptions import read_assumptions
from diffinfo.operations.cost import Costs
from project import ROOT, Project

PLAIN = "-x '\"$(touch pwned)`touch pwned` ; touch pwned && touch pwned | {x} {{y}} <z> [a,b] ${HOME} ~ * \\ %s # é😀"
HOSTILE = [f"{PLAIN}\ntouch pwned\n", PLAIN, f"hf://datasets/{PLAIN}", "http://h/" + PLAIN.replace(" ", "")[:-2]]
RECORDER = """#!{python}
import json, os, sys
with open(os.environ["RECORD"], "a") as record:
    record.write(json.dumps(sys.argv) + "\\n")
if sys.argv[0].endswith("srun"):
    inner = sys.argv[sys.argv.index("bash"):]
    os.execvp(inner[0], inner)
"""


def base() -> dict[str, Any]:
    """A configuration in which every string key may be set: a model, data and a judge of their own, on two machines."""
    values = yaml.safe_load((ROOT / "config.yaml").read_text())
    values["models"]["hostile"] = {
        "source": "someone/model", "revision": "r", "chat_template": "c", "chat_template_revision": "r", "billions": 0.1,
    }  # fmt: skip
    values["datasets"]["hostile"] = {
        "format": "magpie", "source": "someone/data", "revision": "r", "test_split": "t", "disjoint_from": ["magpie-pro"],
    }  # fmt: skip
    values["judges"]["hostile"] = {"kind": "openai", "model": "m", "base_url": "http://h"}
    for key in ("arena_hard", "wildbench"):
        values[key]["judge"] = "hostile"
    values["wildbench"]["anchors"] = {"ratings": "config.yaml", "key": "k", "scores": "workflow/presets"}
    values["wildbench"]["reward"] = {"judge": "hostile", "baselines": {"hostile": "config.yaml"}}
    values["grid"][0]["measures"] = ["expected_reward", "entropy", "did", "smc", "update", "benchmarks", "qa"]
    values["grid"].append(values["grid"][0] | {"model": "hostile", "dataset": "hostile"})
    values["train_nodes"] = values["preference"]["processes"] = 2
    return values


def string_keys(annotation: Any, path: tuple[Any, ...] = ()) -> list[tuple[tuple[Any, ...], bool]]:
    """Paths of all keys that hold text of any kind, and whether each holds a list of it."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        fields = annotation.model_fields.items()
        return [found for name, field in fields for found in string_keys(field.annotation, (*path, name))]
    if annotation is str:
        return [(path, False)]
    if get_origin(annotation) is dict:
        return string_keys(get_args(annotation)[1], (*path, "hostile"))
    if get_origin(annotation) is list and path != ("grid",):
        return [(path, True)] if string_keys(get_args(annotation)[0]) else []
    inner = [argument for argument in get_args(annotation) if argument not in (type(None), list)]
    where = (*path, -1) if path == ("grid",) else path
    return [found for argument in inner if not isinstance(argument, str) for found in string_keys(argument, where)]


KEYS = string_keys(Config)


def put(values: dict[str, Any], path: tuple[Any, ...], value: Any) -> dict[str, Any]:
    values = copy.deepcopy(values)
    holder: Any = values
    for part in path[:-1]:
        holder = holder.setdefault(part, {}) if isinstance(holder, dict) else holder[part]
    holder[path[-1]] = value
    return values


def refused(values: dict[str, Any], path: tuple[Any, ...]) -> str | None:
    """What the configuration says against a value; None where it takes it."""
    try:
        Costs(parse(values), read_assumptions(), None)
    except UserError as error:
        return str(error)
    return None


def texts(value: Any) -> set[str]:
    """Every text in an argument: itself, and what it holds as JSON."""
    if isinstance(value, dict):
        return set().union(*map(texts, value.values()))
    if isinstance(value, list):
        return set().union(*map(texts, value))
    return {value} if isinstance(value, str) else set()


def arguments_of(record: Path) -> set[str]:
    found: set[str] = set()
    for line in record.read_text().splitlines():
        for argument in json.loads(line):
            value = argument.partition("=")[2] if argument.startswith("--") else argument
            found |= {argument, value}
            if value[:1] in ("{", "["):
                try:
                    found |= texts(json.loads(value))
                except ValueError:  # text that only looks like JSON
                    continue
    return found


def test_every_placeholder_is_quoted():
    """In each shell command of each rule: placeholders end in :q, and nothing else of the shell's is in it."""
    commands = 0
    plain = r"[-\w/. ]|{RESULTS}|{CONFIG\.results}"  # a run's name is a plain word
    for file in (ROOT / "workflow/rules").glob("*.smk"):
        text = file.read_text()
        constants = set(
            re.findall(rf'^([A-Z]+) = f?"(?:{plain})+"', text + (ROOT / "workflow/rules/common.smk").read_text(), re.M)
        )
        for block in re.findall(r"shell:\n((?:\s+f?\".*\"\n?)+)", text):
            commands += 1
            for prefix, literal in re.findall(r'(f?)"(.*)"', block):
                if prefix:
                    assert set(re.findall(r"(?<!{){(\w+)}(?!})", literal)) <= constants, literal
                    literal = re.sub(r"(?<!{){\w+}(?!})", "", literal).replace("{{", "{").replace("}}", "}")
                assert all(found.endswith(":q") for found in re.findall(r"{(.*?)}", literal)), f"{file}: {literal}"
                assert not re.search(r"['\"`$;&|]", re.sub(r"{.*?}", "", literal)), f"{file}: {literal}"
        assert len(re.findall(r"^ +shell:", text, re.M)) == len(re.findall(r"shell:\n(?:\s+f?\".*\"\n?)+", text)), file
    assert commands >= 35


def test_no_value_of_any_string_key_is_run(project_factory, tmp_path):
    """Each key takes a hostile value or refuses it in a sentence; what is taken arrives in one piece in some argument."""
    values, expected = base(), {}
    assert refused(values, ()) is None
    assert len(KEYS) >= 25
    for path, many in KEYS:
        for text in HOSTILE:
            text = f"{text}{'.'.join(map(str, path))}"
            changed = put(values, path, [text] if many else text)
            said = refused(changed, path)
            if said is None:
                values, expected[path] = changed, text
                break
            assert "Traceback" not in said
            assert str(path[-1]) in said
    assert ("judges", "hostile", "model") in expected
    assert {path[-1] for path in expected} >= {
        "source", "split", "test_split", "chat_template", "system_prompt", "base_url", "questions", "baseline", "tasks",
    }  # fmt: skip
    project: Project = project_factory()
    (project.folder / "config.yaml").write_text(yaml.safe_dump(values))
    output = project.snakemake("-n", "-p", "all")
    commands = re.findall(r"^\s*Shell command: (.* .*)$", output, re.M)
    stages = {command.split(" diffinfo.")[1].split()[0] for command in commands if " diffinfo." in command}
    assert len(stages) >= 20, stages
    tools, record = tmp_path / "bin", tmp_path / "record"
    tools.mkdir()
    for name in ("python", "accelerate", "srun", "touch"):
        (tools / name).write_text(RECORDER.replace("{python}", os.sys.executable))
        (tools / name).chmod(0o755)
    environment = {**os.environ, "PATH": f"{tools}:{os.environ['PATH']}", "RECORD": str(record), "SLURM_JOB_ID": "1"}
    seen: dict[str, str] = {}
    for command in commands:  # of each stage, the commands of the hostile cells
        key = re.sub(r"\S*(results/\S*|epoch)\S*", "", command)
        seen.setdefault(key, command)
    script = tmp_path / "script"
    script.write_text("\n".join(re.sub(r" 2> \S+$", " 2> /dev/null", command) for command in seen.values()))
    subprocess.run(["bash", "-euo", "pipefail", str(script)], cwd=tmp_path, env=environment, check=True)
    assert not list(tmp_path.rglob("pwned"))
    assert not any(json.loads(line)[0].endswith("touch") for line in record.read_text().splitlines())
    found = arguments_of(record)
    unread = {"gpu"}  # read by the plan alone
    missing = [path for path, text in expected.items() if text not in found and path[-1] not in unread]
    assert missing == []
    ranks = [json.loads(line) for line in record.read_text().splitlines() if '"launch"' in line]
    assert all("diffinfo.train" in " ".join(command) for command in ranks)
    assert len(ranks) >= 2


@pytest.mark.parametrize(
    "name", ["..", ".", "", "-x", "a/b", "a b", "$(x)", "a'b", "~", "a\n", "A", "é", "a" * 65, "{x}", "a\x00"]
)
@pytest.mark.parametrize("part", ["models", "datasets", "judges"])
def test_a_name_that_is_no_plain_word_is_refused(part, name):
    values = base()
    values[part][name] = values[part]["hostile"]
    with pytest.raises(ConfigError, match=rf"{part}\."):
        parse(values)


def test_the_text_null_is_refused():
    with pytest.raises(ConfigError, match=r"models\.hostile\.revision: the text 'null' fits no key; remove its quotes"):
        parse(put(base(), ("models", "hostile", "revision"), "null"))


@pytest.mark.parametrize("name", ["{x}.jsonl", "<x>.jsonl", "{.jsonl", "folder/a{x}.jsonl", "folder/a\nb.jsonl"])
def test_a_file_whose_name_snakemake_reads_as_its_own_is_refused(tmp_path, name):
    file = tmp_path / name
    file.parent.mkdir(exist_ok=True)
    file.write_text("{}\n")
    source = str(file.parent if "/" in name else file)
    changed = put(base(), ("datasets", "hostile"), {"format": "magpie", "source": source})
    with pytest.raises(ConfigError, match=r"datasets\.hostile\.source: the name of the file .* holds .*; rename it"):
        parse(changed)


def rows(folder: Path, name: str, count: int) -> None:
    folder.mkdir(exist_ok=True, parents=True)
    lines = [json.dumps({"uuid": f"{name}{i}", "instruction": f"Question {i} of {name}?"}) for i in range(count)]
    (folder / name).write_text("\n".join(lines) + "\n")


@pytest.mark.parametrize("kind", ["file", "folder"])
def test_a_source_with_a_hostile_name_is_read_and_watched(project_factory, kind):
    """A job really runs; changed, new and removed files make it run again, nothing else does."""
    project = project_factory()
    name = "-it's $(touch pwned) `touch pwned` [a,b]; && $HOME \\ é"
    folder = project.folder / f"{name} d"
    rows(folder, f"{name}.jsonl", 8)
    rows(folder, "other.jsonl", 4)
    source = f"{folder.name}/{name}.jsonl" if kind == "file" else folder.name
    changes = {"datasets": {"mine": {"format": "prompts", "source": source, "test_prompts": 2}}}
    target = "results/data/mine/prompts.parquet"
    project.snakemake("--cores", "1", target, changes=changes)
    assert not list(project.folder.rglob("pwned"))
    assert (project.folder / target).exists()
    assert "Nothing to be done" in project.snakemake("-n", target, changes=changes)
    rows(folder, f"{name}.jsonl", 9)
    assert [rule for rule, _ in project.plan(target, changes=changes)] == ["ingest_prompts"]
    if kind == "folder":
        rows(folder, f"{name}.jsonl", 8)
        project.snakemake("--touch", "--cores", "1", target, changes=changes)
        (folder / "other.jsonl").unlink()
        assert [rule for rule, _ in project.plan(target, changes=changes)] == ["ingest_prompts"]


def test_local_models_templates_and_benchmarks_are_watched(project_factory):
    project = project_factory()
    files = ["model/config.json", "template/chat_template.jinja", "q.jsonl", "b.jsonl", "p.md", "w.jsonl", "v.md"]
    for name in files:
        (project.folder / name).parent.mkdir(exist_ok=True)
        (project.folder / name).write_text("{}")
    model = {"source": "model", "chat_template": "template", "billions": 0.1}
    changes = {
        "models": {"mine": model},
        "arena_hard": {"questions": "q.jsonl", "baseline": "b.jsonl", "prompt": "p.md", "judge": "embedded"},
        "wildbench": {"tasks": "w.jsonl", "prompt": "v.md", "judge": "embedded"},
    }  # fmt: skip
    targets = ["results/base/mine", "results/bench/arena-hard.parquet", "results/bench/wildbench.parquet"]
    (project.folder / targets[0]).mkdir(parents=True)
    for name in ("arena-hard", "wildbench"):
        for suffix in (".parquet", ".quarantine.parquet"):
            (project.folder / "results/bench").mkdir(exist_ok=True)
            (project.folder / f"results/bench/{name}{suffix}").touch()
    project.snakemake("--touch", "--forceall", "--cores", "1", *targets, changes=changes)
    made_from = {
        "base_model": files[:2], "arena_hard_questions": files[2:5], "wildbench_tasks": files[5:],
    }  # fmt: skip
    for rule, names in made_from.items():
        for name in names:
            (project.folder / name).write_text(f"changed for {rule}")
            assert rule in [planned for planned, _ in project.plan(*targets, changes=changes)], name
            project.snakemake("--touch", "--cores", "1", *targets, changes=changes)
