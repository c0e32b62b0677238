import shutil

import pytest
from transformers import AutoModelForCausalLM, AutoTokenizer

from diffinfo import base
from diffinfo.cli import UserError
from diffinfo.world.models import start


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
    base.main(spec=base.Source(source=str(bare), chat_template=str(tiny)), out=out)
    assert AutoTokenizer.from_pretrained(out).chat_template == AutoTokenizer.from_pretrained(tiny).chat_template
    assert (out / "model.safetensors").read_bytes() == (tiny / "model.safetensors").read_bytes()
    AutoModelForCausalLM.from_pretrained(out)


def test_a_model_without_template_is_refused(bare, tmp_path):
    with pytest.raises(UserError, match="has no chat template; name one in models"):
        base.main(spec=base.Source(source=str(bare)), out=tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_sibling_with_another_vocabulary_is_refused(bare, tiny, tmp_path):
    start(tmp_path / "other", "mistral" if "gemma" in str(tiny) else "gemma2", hidden=32, layers=1, seed=0)
    with pytest.raises(UserError, match="its vocabulary differs"):
        base.main(spec=base.Source(source=str(bare), chat_template=str(tmp_path / "other")), out=tmp_path / "out")


def test_pickled_weights_are_never_read(bare, tmp_path):
    (bare / "model.safetensors").rename(bare / "pytorch_model.bin")
    with pytest.raises(UserError, match="weights in pickle formats are not read"):
        base.main(spec=base.Source(source=str(bare)), out=tmp_path / "out")


def test_an_unreachable_repository_is_one_sentence(tmp_path):
    with pytest.raises(UserError, match="is no local folder and could not be fetched from the hub"):
        base.main(spec=base.Source(source="nobody/nothing", revision="main"), out=tmp_path / "out")
