"""Safe by default: no code of others, no pickle, nothing sent anywhere."""

import json
import os
import pickle
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
EVIL = "import pathlib\npathlib.Path({marker!r}).touch()\n"


def sources():
    folders = ("workflow", "slurm", "profiles", "benchmarks")
    files = [
        path for folder in folders for path in (ROOT / folder).rglob("*") if path.suffix in (".py", ".smk", ".yaml")
    ]
    return [*files, ROOT / "Snakefile", ROOT / "Makefile", ROOT / "config.yaml"]


@pytest.mark.parametrize(
    "forbidden",
    [
        r"trust_remote_code\s*=\s*(?!False\b)\S", r"\bpickle\.|import pickle|torch\.(load|save)\(|joblib|allow_pickle",
        r"yaml\.(load|full_load|unsafe_load)\((?!handle, _StrictLoader)", r"(?<![.\w])(eval|exec)\(|shell\s*=\s*True",
        r"(?<!^        )import wandb|comet_ml|mlflow|push_to_hub|upload_|create_(repo|commit)",
        r"use_safetensors\s*=\s*False|safe_serialization\s*=\s*False",
    ],
)  # fmt: skip
def test_no_source_does_what_is_forbidden(forbidden):
    found = [
        f"{path.relative_to(ROOT)}:{number}: {line.strip()}"
        for path in sources()
        for number, line in enumerate(path.read_text().splitlines(), 1)
        if re.search(forbidden, line)
    ]
    assert found == []
    assert len(sources()) > 80


def test_every_loader_of_a_folder_refuses_its_code():
    calls = []
    for path in sources():
        text = path.read_text()
        for match in re.finditer(r"Auto(Tokenizer|Model\w*)\.from_pretrained\(|\bLLM\(", text):
            call = text[match.start() : match.start() + 400]
            calls.append(call)
            assert "trust_remote_code=False" in call, f"{path}: {call.splitlines()[0]}"
    assert len(calls) >= 5


class Payload:
    """Unpickling it touches a file."""

    def __init__(self, marker):
        self.marker = str(marker)

    def __reduce__(self):
        return Path.touch, (Path(self.marker),)


@pytest.fixture
def hostile(tiny_mistral, tmp_path):
    """A model folder that would run code of its own in every way that a folder can; and the file that would tell."""
    folder, marker = tmp_path / "hostile", tmp_path / "marker"
    shutil.copytree(tiny_mistral, folder)
    for name in ("configuration_evil", "modeling_evil", "tokenization_evil", "custom_generate/generate"):
        file = folder / f"{name}.py"
        file.parent.mkdir(exist_ok=True)
        file.write_text(EVIL.format(marker=str(marker)))
    edit(folder / "config.json", auto_map={
        "AutoConfig": "configuration_evil.Config", "AutoModelForCausalLM": "modeling_evil.Model",
        "AutoModelForSequenceClassification": "modeling_evil.Model",
    })  # fmt: skip
    edit(folder / "tokenizer_config.json", auto_map={"AutoTokenizer": ["tokenization_evil.T", "tokenization_evil.T"]})
    (folder / "pytorch_model.bin").write_bytes(pickle.dumps(Payload(marker)))
    (folder / "training_args.bin").write_bytes(pickle.dumps(Payload(marker)))
    pickle.loads((folder / "training_args.bin").read_bytes())  # the trap works
    marker.unlink()
    return folder, marker


def edit(file, **values):
    file.write_text(json.dumps(json.loads(file.read_text()) | values))


def test_code_in_a_model_folder_does_not_run(hostile, tmp_path):
    from diffinfo.chat import Chat
    from diffinfo.models.fetch import Source
    from diffinfo.models.fetch import main as fetch
    from diffinfo.models.folders import load_model
    from diffinfo.sample.engine import Decoding
    from diffinfo.sample.transformers import TransformersEngine

    folder, marker = hostile
    load_model(folder, "sdpa")
    chat = Chat(folder)
    TransformersEngine("eager", "float32", 1000)(
        folder, [chat.prompt_ids([{"role": "user", "content": "x"}])], chat.stop_ids, Decoding(1, 0.0, 1.0, 2, 0)
    )
    fetch(spec=Source(source=str(folder)), out=tmp_path / "out")
    assert not marker.exists()
    assert not [path for path in (tmp_path / "out").rglob("*") if path.suffix in (".py", ".bin")]


@pytest.mark.parametrize("attention", ["eager", "sdpa"])
def test_a_model_type_of_its_own_is_refused(hostile, attention):
    from diffinfo.cli import UserError
    from diffinfo.models.folders import load_model

    folder, marker = hostile
    edit(folder / "config.json", model_type="evil", architectures=["Evil"])
    with pytest.raises(UserError, match=r"config\.json cannot be read: .* contains custom code"):
        load_model(folder, attention)
    assert not marker.exists()


def test_pickled_weights_are_refused(hostile, tmp_path):
    from diffinfo.cli import UserError
    from diffinfo.config.values import Computation
    from diffinfo.models.fetch import Source
    from diffinfo.models.fetch import main as fetch
    from diffinfo.models.folders import load_model
    from diffinfo.reward import score

    folder, marker = hostile
    for weights in folder.glob("*.safetensors"):
        weights.unlink()
    with pytest.raises(UserError, match=r"no \.safetensors file; weights in pickle formats are not read"):
        fetch(spec=Source(source=str(folder)), out=tmp_path / "out")
    for load in (
        lambda: load_model(folder, "eager"),
        lambda: score(folder, [[{"role": "user", "content": "x"}]], Computation()),
    ):
        with pytest.raises(UserError, match="safetensors"):
            load()
    assert not marker.exists()


def test_a_chat_template_cannot_reach_out(hostile):
    from diffinfo.chat import Chat

    folder, marker = hostile
    for file in folder.glob("chat_template*"):
        file.unlink()
    edit(folder / "tokenizer_config.json", chat_template=(
        "{{ cycler.__init__.__globals__.os.system('touch " + str(marker) + "') }}"
    ))  # fmt: skip
    with pytest.raises(Exception, match=r"unsafe|undefined"):
        Chat(folder).prompt_ids([{"role": "user", "content": "x"}])
    assert not marker.exists()


def test_nothing_is_sent_anywhere(tiny_mistral, pairs_table, tmp_path):
    """A stage that may use the network opens no connection; every library's telemetry is switched off."""
    (tmp_path / "sitecustomize.py").write_text(
        "import socket\n"
        "def refuse(self, address):\n    raise SystemExit(f'a connection to {address}')\n"
        "socket.socket.connect = socket.socket.connect_ex = refuse\n"
    )
    environment = {key: value for key, value in os.environ.items() if not key.startswith(("HF_", "VLLM_"))}
    environment["PYTHONPATH"] = f"{tmp_path}:{ROOT / 'workflow'}"

    def python(*arguments):
        return subprocess.run(
            [sys.executable, *arguments], env=environment, capture_output=True, text=True, check=False
        )

    assert "a connection to" in python("-c", "import socket; socket.create_connection(('127.0.0.1', 9))").stderr
    out = tmp_path / "reference.parquet"
    done = python(
        "-m", "diffinfo.train.reference", "--model", str(tiny_mistral), "--preferences", str(pairs_table),
        "--settings", '{"max_prompt_tokens": 512, "max_tokens": 1024}',
        "--out", str(out),
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert out.exists()
    code = "import diffinfo, os; {}from huggingface_hub import constants as c; print(c.HF_HUB_DISABLE_TELEMETRY, "
    code += "os.environ.get('VLLM_NO_USAGE_STATS'), os.environ.get('DO_NOT_TRACK'))"
    assert python("-c", code.format("")).stdout.split() == ["False", "None", "None"]  # an import changes nothing
    assert python("-c", code.format("diffinfo.begin_stage(); ")).stdout.split() == ["True", "1", "1"]
