import json
import os
import re
import shutil
import subprocess
import sys
from fnmatch import fnmatch
from pathlib import Path

import pytest
from safetensors.torch import load_file, save_file
from tokenizers import AddedToken
from transformers import AutoModelForCausalLM, AutoTokenizer, GenerationConfig

import templates
from diffinfo.chat import Chat
from diffinfo.cli import UserError
from diffinfo.models import fetch
from diffinfo.models.folders import copy_tokenizer
from diffinfo.world.training import start


@pytest.fixture
def bare(tiny, tmp_path):
    """A base model as hubs hold them: weights and tokenizer, no chat template."""
    folder = tmp_path / "bare"
    shutil.copytree(tiny, folder)
    (folder / "chat_template.jinja").unlink(missing_ok=True)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    tokenizer.chat_template = None
    tokenizer.save_pretrained(folder)
    return folder


def test_weights_of_one_folder_and_template_of_another(tiny, bare, tmp_path):
    out = tmp_path / "out"
    fetch.main(spec=fetch.Source(source=str(bare), chat_template=str(tiny)), out=out)
    assert AutoTokenizer.from_pretrained(out).chat_template == AutoTokenizer.from_pretrained(tiny).chat_template
    assert (out / "model.safetensors").read_bytes() == (tiny / "model.safetensors").read_bytes()
    AutoModelForCausalLM.from_pretrained(out)


def test_a_model_without_template_is_refused(bare, tmp_path):
    with pytest.raises(UserError, match="has no chat template; name one in models"):
        fetch.main(spec=fetch.Source(source=str(bare)), out=tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_sibling_with_another_vocabulary_is_refused(bare, tiny, tmp_path):
    start(tmp_path / "other", "mistral" if "gemma" in str(tiny) else "gemma2", hidden=32, layers=1, seed=0)
    with pytest.raises(UserError, match="its vocabulary differs"):
        fetch.main(spec=fetch.Source(source=str(bare), chat_template=str(tmp_path / "other")), out=tmp_path / "out")


def test_pickled_weights_are_never_read(bare, tmp_path):
    (bare / "model.safetensors").rename(bare / "pytorch_model.bin")
    with pytest.raises(UserError, match="weights in pickle formats are not read"):
        fetch.main(spec=fetch.Source(source=str(bare)), out=tmp_path / "out")


@pytest.mark.parametrize("whole", [True, False])
@pytest.mark.parametrize("names", [["adapter_config.json", "adapter_model.safetensors"], ["adapter_model.bin"]])
def test_an_adapter_is_neither_applied_nor_ignored(names, whole, tiny, tmp_path):
    source = shutil.copytree(tiny, tmp_path / "source")
    for name in names:
        (source / name).write_text("{}")
    if not whole:
        (source / "model.safetensors").unlink()
    with pytest.raises(
        UserError, match=rf"source: {', '.join(names)}: .* merge it into them \(peft's merge_and_unload\)"
    ):
        fetch.main(spec=fetch.Source(source=str(source)), out=tmp_path / "out")
    assert any(fnmatch(names[0], pattern) for pattern in fetch.WEIGHTS), "the hub's are seen too"


def test_an_unreachable_repository_is_one_sentence(tmp_path):
    with pytest.raises(
        UserError, match=r"is not a local folder, nor in the hub's cache .*HF_HUB_OFFLINE is set: unset it"
    ):
        fetch.main(spec=fetch.Source(source="nobody/nothing", revision="main"), out=tmp_path / "out")


def spec(source, template, **changes):
    return fetch.Source(source=str(source), chat_template=str(template), **changes)


def test_a_base_model_stops_where_its_siblings_turns_end(tmp_path):
    """As Llama 3's base, whose configs name <|end_of_text|> alone: the template ends turns with <|eot_id|>."""
    source = templates.folder(tmp_path / "base", "chatml", weights=True)
    sibling = templates.folder(tmp_path / "sibling", "llama-3.2")
    ids = AutoTokenizer.from_pretrained(source).convert_tokens_to_ids
    (sibling / "generation_config.json").write_text(json.dumps({"eos_token_id": [ids("<|end|>")]}))
    fetch.main(spec=spec(source, sibling), out=tmp_path / "out")
    wanted = [ids("<|eot_id|>"), ids("<|end|>"), ids("</s>")]
    assert Chat(tmp_path / "out").stop_ids == wanted
    assert GenerationConfig.from_pretrained(tmp_path / "out").eos_token_id == wanted  # vLLM's own server reads it


def test_date_and_variables_of_the_configuration_hold_wherever_the_folder_is_read(tmp_path):
    sibling = templates.folder(tmp_path / "llama", "llama-3.2")
    source = templates.folder(tmp_path / "base", "chatml", weights=True)
    user = [{"role": "user", "content": "hello"}]

    def rendered(folder):
        return AutoTokenizer.from_pretrained(folder).apply_chat_template(
            user, tokenize=False, add_generation_prompt=True
        )

    fetch.main(spec=spec(source, sibling), out=tmp_path / "a")
    assert "Today Date: 26 Jul 2024\n" in rendered(tmp_path / "a")
    fetch.main(spec=spec(source, sibling, chat_template_date="2025-01-02"), out=tmp_path / "b")
    assert "Today Date: 02 Jan 2025\n" in rendered(tmp_path / "b")
    own = (
        templates.TEMPLATES["llama-3.2"]
        .replace("strftime_now is defined", "false")
        .replace('strftime_now("%d %b %Y")', "0")
    )
    assert "strftime_now" not in own  # as in Llama 3.1, whose own date is fixed
    sibling = templates.folder(tmp_path / "llama-3.1", own)
    fetch.main(spec=spec(source, sibling, chat_template_date="2025-01-02"), out=tmp_path / "d")
    assert "Today Date: 02 Jan 2025\n" in rendered(tmp_path / "d")
    (tmp_path / "copy").mkdir()
    copy_tokenizer(tmp_path / "b", tmp_path / "copy")
    assert Chat(tmp_path / "copy").tokenizer.chat_template == Chat(tmp_path / "b").tokenizer.chat_template
    assert "02 Jan 2025" in Chat(tmp_path / "copy").tokenizer.decode(Chat(tmp_path / "copy").prompt_ids(user))
    sibling = templates.folder(tmp_path / "qwen", "qwen3")
    values = {"enable_thinking": False}
    job = [sys.executable, "-m", "diffinfo.models.fetch", "--out", str(tmp_path / "c"), "--spec"]
    wanted = spec(source, sibling, chat_template_kwargs=values, chat_template_date="2025-01-02").model_dump_json()
    subprocess.run([*job, wanted], check=True, env={**os.environ, "PYTHONPATH": str(Path(fetch.__file__).parents[2])})
    assert rendered(tmp_path / "c").endswith("assistant\n<think>\n\n</think>\n\n")


def test_a_template_that_forgets_bos_is_written_with_it(tmp_path):
    source = templates.folder(tmp_path / "base", "chatml", weights=True, adds_bos=True)
    fetch.main(spec=fetch.Source(source=str(source)), out=tmp_path / "out")
    made = AutoTokenizer.from_pretrained(tmp_path / "out")
    assert made.apply_chat_template([{"role": "user", "content": "x"}], tokenize=False).startswith("<s><|im_start|>")


@pytest.mark.parametrize(
    "template", ["{{ raise_exception('never') }}", "{% if", "{{ bos_token }}{{ bos_token }}x", "no answer"]
)
def test_a_template_that_cannot_be_used_is_one_sentence(template, tmp_path):
    source = templates.folder(tmp_path / "base", template, weights=True)
    with pytest.raises(UserError, match=r"set models\.<name>\.chat_template to another"):
        fetch.main(spec=fetch.Source(source=str(source)), out=tmp_path / "out")


def templated(folder, template):
    """The folder, with this chat template."""
    tokenizer = AutoTokenizer.from_pretrained(folder)
    tokenizer.chat_template = template
    tokenizer.save_pretrained(folder)
    return folder


ENDLESS = "{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}{% endfor %}"
HOSTILE = {
    "endless": ENDLESS,
    "endless-later": "{% if messages|length > 2 %}" + ENDLESS + "{% endif %}x",
    "power": "{{ (10 ** (10 ** 10)) % 7 }}",
    "memory": "{% set n = namespace(x='x' * 1000) %}{% for a in range(40) %}{% set n.x = n.x ~ n.x %}{% endfor %}",
    "large": "{{ 'x' * 10 ** 11 }}",
    "long": "{% for a in range(99999) %}{{ 'x' * 100 }}{% endfor %}",
}


@pytest.mark.parametrize("template", HOSTILE.values(), ids=HOSTILE)
def test_a_template_without_end_is_refused(bare, tmp_path, monkeypatch, template):
    monkeypatch.setattr(fetch, "SECONDS", 1)
    with pytest.raises(UserError, match="its chat template needs more than 1 s or 1024 MiB for one short conversation"):
        fetch.main(spec=fetch.Source(source=str(templated(bare, template))), out=tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("template", ["{{ raise_exception('no chat') }}", "{% for %}", "{{ [].append.__globals__ }}"])
def test_a_template_that_fails_is_refused(bare, tmp_path, template):
    with pytest.raises(UserError, match=r"set models\.<name>\.chat_template to another"):
        fetch.main(spec=fetch.Source(source=str(templated(bare, template))), out=tmp_path / "out")


def test_a_broken_tokenizer_is_one_sentence(bare, tmp_path):
    (bare / "tokenizer.json").write_text("{")
    with pytest.raises(UserError, match="its tokenizer cannot be loaded: "):
        fetch.main(spec=fetch.Source(source=str(bare)), out=tmp_path / "out")


@pytest.mark.parametrize(
    "name", ["../../other.safetensors", "/etc/passwd", "model-00002.safetensors", "config.json", 3]
)
def test_weights_outside_the_folder_are_not_read(bare, tmp_path, name):
    (bare / "model.safetensors.index.json").write_text(json.dumps({"weight_map": {"w": name}}))
    shutil.copyfile(bare / "model.safetensors", tmp_path / "other.safetensors")
    with pytest.raises(UserError, match=r"index\.json names .*, which is not a \.safetensors file of this folder"):
        fetch.main(spec=fetch.Source(source=str(bare)), out=tmp_path / "out")


@pytest.mark.parametrize("sibling", [False, True])
@pytest.mark.parametrize(
    ("text", "said"),
    [
        *((text, "is not a JSON object") for text in ("{", "[]", "3", "[3]", "\x00", "[" * 100_000)),
        *(
            (f'{{"eos_token_id": {ids}}}', "is not a token's id")
            for ids in ('"x"', "[true]", "-1", "[2, null]", "{}", "1.5")
        ),
    ],
)
def test_a_broken_generation_config_is_one_sentence(text, said, sibling, tiny, tmp_path):
    source = shutil.copytree(tiny, tmp_path / "source")
    (source / "generation_config.json").write_text(text)
    for role in [{"source": str(source)}, {"source": str(tiny), "chat_template": str(source)}]:
        chosen = role | ({"chat_template": str(tiny)} if sibling and len(role) == 1 else {})
        with pytest.raises(UserError, match=rf"source/generation_config\.json: .*{said}"):
            fetch.main(spec=fetch.Source(**chosen), out=tmp_path / "out")


NAMED = [{"name": name, "template": templates.TEMPLATES["chatml"]} for name in ("tool_use", "rag")]


@pytest.mark.parametrize("template", [NAMED, 3, True])
def test_a_template_that_is_no_text_is_one_sentence(template, bare, tiny, tmp_path):
    file = bare / "tokenizer_config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"chat_template": template}))
    for one in ({"source": str(bare)}, {"source": str(tiny), "chat_template": str(bare)}):
        with pytest.raises(
            UserError, match=rf"{bare}: its chat template cannot be read \(.*\); set models\.<name>\.chat_template"
        ):
            fetch.main(spec=fetch.Source(**one), out=tmp_path / "out")
    with pytest.raises(UserError, match=r"set models\.<name>\.chat_template to another"):
        Chat(bare)


@pytest.mark.parametrize("index", ["{", "[]", "{}", '{"weight_map": 1}', "[" * 100_000])
def test_a_broken_index_is_one_sentence(bare, tmp_path, index):
    (bare / "model.safetensors.index.json").write_text(index)
    with pytest.raises(UserError, match=r"index\.json has no weight_map of files"):
        fetch.main(spec=fetch.Source(source=str(bare)), out=tmp_path / "out")


def test_what_is_not_a_file_is_not_copied(tiny, tmp_path):
    """An endless device, a pipe, a folder and a link to nothing: none is opened."""
    source = shutil.copytree(tiny, tmp_path / "source")
    (source / "zero.json").symlink_to("/dev/zero")
    (source / "gone.json").symlink_to("nowhere")
    (source / "folder.json").mkdir()
    os.mkfifo(source / "pipe.json")
    fetch.main(spec=fetch.Source(source=str(source)), out=tmp_path / "out")
    assert not {"zero.json", "gone.json", "folder.json", "pipe.json"} & {
        file.name for file in (tmp_path / "out").iterdir()
    }


def cut(folder, rows):
    """The folder, with so many rows of its embedding and head."""
    config = json.loads((folder / "config.json").read_text())
    weights = load_file(folder / "model.safetensors")
    weights = {k: v[:rows].contiguous() if len(v) == config["vocab_size"] else v for k, v in weights.items()}
    save_file(weights, folder / "model.safetensors", {"format": "pt"})
    (folder / "config.json").write_text(json.dumps(config | {"vocab_size": rows}))
    return folder


@pytest.mark.parametrize(
    ("token", "special", "fits"),
    [("<mask>", True, True), ("word", False, False), ("<|im_end|>", True, False), ("[PAD]", True, False)],
)
def test_a_token_that_the_embedding_has_no_row_for_is_refused(token, special, fits, tmp_path):
    source = templates.folder(tmp_path / "base", weights=True)
    tokenizer = AutoTokenizer.from_pretrained(source)
    tokenizer.add_tokens([AddedToken(token, special=special, normalized=False)])
    if token == "[PAD]":
        tokenizer.pad_token = token
    tokenizer.save_pretrained(source)
    rows = tokenizer.convert_tokens_to_ids(token)  # the last, but for <|im_end|>
    cut(source, rows)
    job = {"spec": fetch.Source(source=str(source)), "out": tmp_path / "out"}
    if fits:
        return fetch.main(**job)
    with pytest.raises(
        UserError, match=rf"base: the embedding has {rows} rows .* first '{re.escape(token)}' \({rows}\)"
    ):
        fetch.main(**job)


def test_more_rows_than_tokens_are_usual_and_a_stop_token_without_one_is_refused(tmp_path):
    source = templates.folder(tmp_path / "base", weights=True)
    model = AutoModelForCausalLM.from_pretrained(source)
    model.resize_token_embeddings(400)
    model.save_pretrained(source)
    fetch.main(spec=fetch.Source(source=str(source)), out=tmp_path / "out")
    (source / "generation_config.json").write_text('{"eos_token_id": [2, 400]}')
    with pytest.raises(UserError, match=r"has 400 rows .* and 1 tokens .* the first '' \(400\)"):
        fetch.main(spec=fetch.Source(source=str(source)), out=tmp_path / "out2")


@pytest.mark.parametrize("revision", ["../../x", "-x", "a b", "$(x)", "a\nb", ""])
def test_a_revision_that_git_has_no_name_for_is_refused(revision):
    with pytest.raises(ValueError, match="a branch, tag or commit"):
        fetch.Source(source="a/b", revision=revision)
