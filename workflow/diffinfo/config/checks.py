"""What is wrong with a configuration: every fault at once, each with its key path and its remedy."""

from __future__ import annotations

import copy
import re
from collections.abc import Iterable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal, get_args, get_origin

from pydantic import BaseModel, ValidationError, model_validator
from pydantic_core import ErrorDetails

from diffinfo.cli import UserError, nearest
from diffinfo.config import columns, local
from diffinfo.config.strict_yaml import ConfigError
from diffinfo.config.types import Config, Dataset, Model, Row
from diffinfo.methods import BETA, METHODS, parse

MAKING = {"labels", "labels_seed", "rejected", "model"}  # keys that say how a dataset is made from another


class CheckedConfig(Config):
    """A configuration whose keys also fit each other."""

    @model_validator(mode="after")
    def _fit(self) -> CheckedConfig:
        if faults := references(self):
            raise ValueError("\n".join(faults))
        return self


def listed(error: ValidationError, values: dict[str, Any]) -> list[str]:
    """One line per fault of a configuration that did not validate.

    Pydantic compares keys with each other (``references``) only where each is right by itself. So that one run shows all,
    wrong values are removed or replaced, and what ``references`` says of the others is added.
    """
    faults = error.errors()
    lines = [line for fault in faults for line in _lines(fault)]
    values = copy.deepcopy(values)
    misjudged: list[str] = []
    for _ in range(2):  # a value taken out may leave a required key missing
        if not any(fault["loc"] for fault in faults):
            break
        for fault in reversed(faults):
            misjudged += _repaired(values, fault)
        try:
            CheckedConfig.model_validate(values)
            return lines
        except ValidationError as again:
            faults = again.errors()
    compared = [line for fault in faults if not fault["loc"] for line in _lines(fault)]
    return lines + [line for line in compared if line not in lines and not line.startswith(tuple(misjudged))]


def references(config: Config) -> list[str]:
    """Faults between keys: unknown names, duplicates, options that exclude each other."""
    return [
        *_pointers(config),
        *(fault for name, dataset in config.datasets.items() for fault in _dataset(name, dataset, config)),
        *(fault for name, model in config.models.items() for fault in _model(name, model)),
        *_grid(config),
        *_files(config),
        *_sizes(config),
    ]


def _known(path: str, value: str, among: Iterable[str]) -> Iterator[str]:
    if value not in among:
        yield f"{path}: '{value}' is not defined{nearest(value, among)}"


def _pointers(config: Config) -> Iterator[str]:
    scorers = {"reward_model": config.reward_model}
    scorers |= {f"judges.{k}.model": judge.model for k, judge in config.judges.items() if judge.kind == "reward-model"}
    writers = {"sampling.model": config.sampling.model}
    writers |= {f"grid.{index}.model": row.model for index, row in enumerate(config.grid)}
    writers |= {f"judges.{k}.model": judge.model for k, judge in config.judges.items() if judge.serve}
    writers |= {f"datasets.{k}.model": dataset.model for k, dataset in config.datasets.items() if dataset.model}
    for path, name in (scorers | writers).items():
        yield from _known(path, name, config.models)
        architecture = config.models[name].architecture if name in config.models else None
        if architecture is not None and (architecture == "reward") != (path in scorers):
            needed = "a model whose architecture is 'reward'" if path in scorers else "a model that writes"
            yield f"{path}: '{name}' has the architecture '{architecture}'; name {needed}"
    for name, judge in config.judges.items():
        if judge.kind == "world":
            yield from _known(f"judges.{name}.model", judge.model, ("multifaceted", "correctness"))
    judges = {f"arena_hard.{key}": getattr(config.arena_hard, key) for key in ("select_judge", "judge")}
    judges["wildbench.judge"] = config.wildbench.judge
    if config.wildbench.reward:
        judges["wildbench.reward.judge"] = config.wildbench.reward.judge
    for path, name in judges.items():
        yield from _known(path, name, config.judges)
        asked = config.wildbench.tasks if path.startswith("wildbench") else config.arena_hard.questions
        if name in config.judges and config.judges[name].kind == "world" and asked != "world":
            yield f"{path}: '{name}' knows the micro world's questions alone; name a judge of another kind"


def _dataset(name: str, dataset: Dataset, config: Config) -> Iterator[str]:
    here = f"datasets.{name}"
    if dataset.of is not None:
        yield from _derived(here, dataset, config)
        return
    for key in sorted(MAKING):
        if getattr(dataset, key) != Dataset.model_fields[key].default:
            yield f"{here}.{key}: has no meaning without of; name the dataset that the pairs come from, or remove it"
    if dataset.format is None:
        yield f"{here}.format: this key is missing; add it"
    for other in dataset.disjoint_from:
        yield from _known(f"{here}.disjoint_from", other, config.datasets)
        if other in config.datasets and config.datasets[other].of:
            yield f"{here}.disjoint_from: '{other}' has no prompts of its own; name '{config.datasets[other].of}'"
    path = _way_back(name, config.datasets)
    if path:
        way = " -> ".join(path)
        yield f"{here}.disjoint_from: a dataset cannot be disjoint from itself ({way}); remove one of these"
    if dataset.source is None:
        yield f"{here}.source: this key is missing; add it"
        return
    yield from _source(here, dataset.source, dataset)
    yield from columns.faults(here, dataset)
    if dataset.source != "world" and dataset.reward != "multifaceted":
        yield f"{here}.reward: ranks the writers of the micro world alone; remove it where source is not 'world'"


def _source(here: str, source: str, dataset: Dataset) -> Iterator[str]:
    """Faults of where a dataset is read from, and of options that do not apply there."""
    if re.match(r"https?://|s3://|gs://", source):
        page = re.match(r"https?://huggingface\.co/datasets/([^/]+/[^/?#]+)", source)
        remedy = f"name its hub id, {page[1]}" if page else "download it and name the local file"
        yield f"{here}.source: '{source}' is a web address, which may change unseen; {remedy}"
        return
    local_file = "://" not in source and (Path(source).is_file() or Path(source).suffix in local.SUFFIXES)
    pattern = local.is_pattern(source)
    if pattern and not local.files(source):
        yield f"{here}.source: the pattern '{source}' matches no file"
    elif local_file and not pattern and not Path(source).is_dir():
        if not Path(source).is_file():
            yield f"{here}.source: the file '{source}' does not exist"
        elif not local.DATA_FILE.fullmatch(Path(source).name):
            kinds = ", ".join(local.TABLES[:-1])
            yield f"{here}.source: '{source}' is not a {kinds} or {local.TABLES[-1]} file; convert it"
    one = source in ("world", "magpie") or (local_file and not pattern and not Path(source).is_dir())
    useless = ("split", "test_split", "revision", "subset") if one else ("revision", "subset") if pattern else ()
    for key in useless:
        value, default = getattr(dataset, key), Dataset.model_fields[key].default
        if value != default:
            unset = "null" if default is None else f"'{default}'"
            yield f"{here}.{key}: '{value}' has no meaning where source is '{source}'; set it to {unset}"
    if dataset.revision and "@" in source:
        yield f"{here}.revision: '{dataset.revision}' is given in source too; remove one"


def _derived(here: str, dataset: Dataset, config: Config) -> Iterator[str]:
    """Faults of a dataset that is made from another."""
    of = str(dataset.of)
    yield from _known(f"{here}.of", of, config.datasets)
    if of in config.datasets and (origin := config.datasets[of].of):
        yield f"{here}.of: '{of}' is itself made from '{origin}'; name a dataset that has a source"
    for key, field in Dataset.model_fields.items():
        if key not in {"of", *MAKING} and getattr(dataset, key) != field.get_default():
            yield f"{here}.{key}: is that of '{of}'; remove it, or remove of"
    if (dataset.labels is None) == (dataset.rejected is None):
        yield f"{here}.of: either labels or rejected says how pairs are made from '{of}'; give one of them"
    elif dataset.rejected and dataset.model is None:
        yield f"{here}.model: this key is missing; add it"
    elif dataset.labels and dataset.model:
        yield f"{here}.model: has no meaning without rejected; remove it"


def _way_back(name: str, datasets: dict[str, Dataset]) -> list[str]:
    """A chain of ``disjoint_from`` that leads from a dataset to itself, else an empty list."""
    chains, seen = [[name]], set()
    while chains:
        chain = chains.pop()
        for other in datasets[chain[-1]].disjoint_from:
            if other == name:
                return [*chain, name]
            if other in datasets and other not in seen:
                seen.add(other)
                chains.append([*chain, other])
    return []


def _model(name: str, model: Model) -> Iterator[str]:
    here = f"models.{name}"
    if (model.source == "world") != (model.architecture is not None):
        yield f"{here}.architecture: is given exactly where source is 'world'"
    if model.chat_template_revision is not None and model.chat_template is None:
        yield f"{here}.chat_template_revision: has no meaning without chat_template; give that key or remove this one"
    for key in {"messages", "add_generation_prompt", "tools", "documents"} & set(model.chat_template_kwargs):
        yield f"{here}.chat_template_kwargs.{key}: is what the workflow itself tells a template; remove it"
    if model.source == "world":
        for key in ("revision", "chat_template", "chat_template_kwargs", "chat_template_date"):
            if getattr(model, key) != type(model).model_fields[key].default:
                yield f"{here}.{key}: has no meaning where source is 'world'; remove it"


def _grid(config: Config) -> Iterator[str]:
    names = [f"{beta:g}" for beta in config.betas]
    if len(set(names)) != len(names):
        yield "betas: a value is listed twice; list each once"
    for beta, name in zip(config.betas, names, strict=True):
        if not re.fullmatch(BETA, name) or float(name) != beta:
            yield f"betas: {beta!r} cannot be part of a name; write a number like 0.05, six digits at most"
    if len(set(config.seeds)) != len(config.seeds):
        yield "seeds: a value is listed twice; list each once"
    first: dict[tuple[str, str, str], int] = {}
    for index, row in enumerate(config.grid):
        yield from _known(f"grid.{index}.dataset", row.dataset, config.datasets)
        own = config.datasets[row.dataset].model if row.dataset in config.datasets else None
        if own not in (None, row.model):
            yield f"grid.{index}.model: the pairs of '{row.dataset}' are samples of {own}; name that model"
        found = {method: first.setdefault((row.model, row.dataset, method), index) for method in config.methods(row)}
        if twice := [method for method, place in found.items() if place != index]:
            cell = f"{', '.join(twice)} of {row.model} on {row.dataset}"
            yield f"grid.{index}.methods: {cell} is in grid.{found[twice[0]]} too; list each method in one row"
        yield from _methods(f"grid.{index}.methods", row, config)
        yield from _target(f"grid.{index}.measures", row, config)


def _methods(path: str, row: Row, config: Config) -> Iterator[str]:
    spread = config.methods(row)
    twice = sorted({method for method in spread if spread.count(method) > 1})
    if len(set(config.betas)) == len(config.betas) and twice:
        yield f"{path}: {', '.join(twice)} is listed twice ('dpo' means every beta of betas); list each once"
    for method in row.methods:
        if method in METHODS:
            continue
        try:
            parsed = parse(method)
            written = str(replace(parsed, seed=None) if parsed.seed == config.preference.seed else parsed)
        except UserError as error:
            yield f"{path}: {error}"
            continue
        if written != method:
            yield f"{path}: '{method}' must be written '{written}'"


def _target(path: str, row: Row, config: Config) -> Iterator[str]:
    """The target needs a known p*, and a method whose optimum it is. Of data from elsewhere it is not measured."""
    if "target" not in row.measures:
        return
    dataset = config.datasets.get(config.origin(row.dataset)) if row.dataset in config.datasets else None
    if dataset and dataset.format == "prompts":
        yield f"{path}: the true preferences of {row.dataset} are not known; remove 'target': it needs ready pairs of the world"
    for method in row.methods:
        name = re.sub(rf"(-b{BETA})?(-seed\d+)?$", "", method)
        if name in METHODS and not METHODS[name].tilts:
            yield (
                f"{path}: 'target' is the optimum of {', '.join(m.name for m in METHODS.values() if m.tilts)}, not of {name};"
                " remove it, or list the method in another row"
            )


def _files(config: Config) -> Iterator[str]:
    arena, wildbench = config.arena_hard, config.wildbench
    files = {"arena_hard.questions": arena.questions, "wildbench.tasks": wildbench.tasks}
    if not arena.categories:
        files["arena_hard.baseline"] = arena.baseline
    prompts = {"arena_hard": arena.prompt, "wildbench": wildbench.prompt}
    for name, category in (arena.categories or {}).items():
        prompts[f"arena_hard.categories.{name}"] = category.prompt
        files[f"arena_hard.categories.{name}.baseline"] = category.baseline
    if wildbench.reward:
        prompts["wildbench.reward"] = wildbench.reward.prompt
        files |= {f"wildbench.reward.baselines.{name}": file for name, file in wildbench.reward.baselines.items()}
    files |= {f"{key}.prompt": file or "world" for key, file in prompts.items()}
    for key, file in files.items():
        remote = ("hf://", "https://") if key.endswith("prompt") else "hf://"
        needed = file != "world" or ".baselines." in key or (".categories." in key and key.endswith("baseline"))
        if needed and not file.startswith(remote) and not Path(file).is_file():
            yield f"{key}: the file '{file}' does not exist"
    if (found := wildbench.anchors) and not Path(found.ratings).is_file():
        yield f"wildbench.anchors.ratings: the file '{found.ratings}' does not exist"
    if found and not Path(found.scores).is_dir():
        yield f"wildbench.anchors.scores: the folder '{found.scores}' does not exist"
    if found:
        files |= {"wildbench.anchors.ratings": found.ratings, "wildbench.anchors.scores": found.scores}
    files |= {f"datasets.{name}.source": dataset.source for name, dataset in config.datasets.items() if dataset.source}
    for benchmark, path in config.qa.data.items():
        files[f"qa.data.{benchmark}"] = path
        if config.qa.source == "world":
            yield f"qa.data.{benchmark}: has no meaning where qa.source is 'world'; remove it, or set qa.source to 'hub'"
        elif not Path(path).exists():
            yield f"qa.data.{benchmark}: '{path}' does not exist"
    for key, file in files.items():
        yield from _watched(key, file)
    for name, model in config.models.items():
        yield from _watched(f"models.{name}.source", model.source, within=False)
        yield from _watched(f"models.{name}.chat_template", model.chat_template or "", within=False)


def _watched(key: str, source: str, within: bool = True) -> Iterator[str]:
    """Why local files cannot be watched for changes."""
    try:
        local.files(source, within)
    except ConfigError as error:
        yield f"{key}: {error}"


def _sizes(config: Config) -> Iterator[str]:
    if config.preference.max_prompt_tokens >= config.preference.max_tokens:
        yield "preference.max_prompt_tokens: must be smaller than preference.max_tokens"
    trained = {row.model for row in config.grid if row.model in config.models}
    whole = sorted(name for name in trained if config.models[name].dtype != "bfloat16")
    if config.training.master_weights == "bfloat16" and whole:
        yield f"training.master_weights: bfloat16 has no meaning for {', '.join(whole)}, whose dtype is float32; set float32"
    if config.preference.processes % config.train_nodes:
        shared = f"preference.processes = {config.preference.processes}"
        yield f"train_nodes: {config.train_nodes} machines cannot share {shared} evenly"
    if config.engine.name == "transformers" and config.engine.tensor_parallel > 1:
        yield "engine.tensor_parallel: has no meaning for the transformers engine; set it to 1 or engine.name to vllm"


def _lines(fault: ErrorDetails) -> list[str]:
    """A pydantic error as one of our sentences."""
    where = [part for part in fault["loc"] if part != "[key]"]
    path = ".".join(map(str, where))
    shown = repr(fault["input"])
    shown = shown if len(shown) <= 80 else shown[:77] + "..."
    match fault["type"]:
        case "extra_forbidden":
            said = f"unknown key{nearest(str(where[-1]), _keys(tuple(where[:-1])))}"
        case "missing":
            said = "this key is missing; add it"
        case "model_type" | "dict_type":
            said = f"must be a mapping of keys, got {shown}"
        case "string_pattern_mismatch":
            said = f"{shown} is not a name; use lower-case letters, digits, '.' and '-'"
        case "value_error":
            messages = str(fault["ctx"]["error"]).splitlines()
            return [f"{path}: {message}, got {shown}" if path else message for message in messages]
        case _:
            said = f"{fault['msg']}, got {shown}"
    return [f"{path}: {said}"]


def _annotation(location: tuple[int | str, ...]) -> Any:
    """The declared type at ``location``."""
    found: Any = Config
    for part in location:
        if isinstance(found, type) and issubclass(found, BaseModel):
            found = found.model_fields[str(part)].annotation
        else:  # dict[Name, Model] or list[Row]: an item of it
            found = get_args(found)[-1]
    return found


def _keys(location: tuple[int | str, ...]) -> list[str]:
    return list(_annotation(location).model_fields)


def _repaired(values: dict[str, Any], fault: ErrorDetails) -> list[str]:
    """Remove a wrong value or insert a placeholder for a missing one; returns the paths that ``references`` now misjudges."""
    *parents, last = (part for part in fault["loc"] if part != "[key]")
    holder: Any = values
    try:
        for part in parents:
            holder = holder[part]
        if fault["type"] == "missing":
            holder[last] = _stand_in((*parents, last))
        else:
            del holder[last]
    except (KeyError, IndexError, TypeError):  # gone with another fault
        return []
    if fault["type"] == "extra_forbidden":
        return []
    return [".".join(map(str, parents)) + "." if parents else f"{last}:"]


def _stand_in(location: tuple[int | str, ...]) -> Any:
    """Any valid value, where there is a simple one."""
    annotation = _annotation(location)
    if get_origin(annotation) is Literal:
        return get_args(annotation)[0]
    return {float: 1.0, str: "?", list[str]: ["dpo-pg"]}.get(annotation)
