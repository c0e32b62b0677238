"""Cards in the hub's format, and the public loaders on the folders that have them."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from datasets import load_dataset
from huggingface_hub import DatasetCard, ModelCard
from transformers import AutoModelForCausalLM, AutoTokenizer

from diffinfo.data import permuted
from diffinfo.models import fetch
from diffinfo.models.folders import load_model, save_model
from diffinfo.tables import artifacts
from diffinfo.world.training import start

ROWS = [{"instruction": f"q{i}", "chosen": f"a{i}", "rejected": f"b{i}"} for i in range(5)]


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path / "cache")


@pytest.fixture(scope="module")
def ingested(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A dataset's folder, made by the command that a rule runs."""
    tmp_path = tmp_path_factory.mktemp("data")
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in ROWS))
    folder = tmp_path / "mine"
    spec = {"format": "preference", "source": str(tmp_path / "rows.jsonl"), "test_prompts": 2}
    outputs = ("prompts", "test_prompts", "quarantine", "preferences", "heldout")
    command = [sys.executable, "-m", "diffinfo.data.ingest", "--dataset=mine", f"--spec={json.dumps(spec)}",
               f"--source={tmp_path / 'rows.jsonl'}", *(f"--{name}={folder / name}.parquet" for name in outputs)]  # fmt: skip
    subprocess.run(command, check=True, cwd=tmp_path)
    return folder


def test_a_datasets_folder_loads_as_splits_and_subsets(ingested: Path) -> None:
    found = load_dataset(str(ingested))
    assert {split: table.num_rows for split, table in found.items()} == {"train": 3, "test": 2}
    assert found["train"][0]["messages"] == [{"role": "user", "content": "q0"}]
    assert [*found["train"]["chosen"], *found["test"]["chosen"]] == [row["chosen"] for row in ROWS]
    assert load_dataset(str(ingested), "prompts", split="test").num_rows == 2


def test_a_datasets_card_says_what_it_is_and_how_it_was_made(ingested: Path) -> None:
    card = DatasetCard.load(ingested / "README.md")
    assert card.data.pretty_name == "mine"
    assert card.data.license == "unknown"
    assert "# fill in" in (ingested / "README.md").read_text().splitlines()[1]
    assert "preference" in card.data.tags
    assert "python -m diffinfo.data.ingest --dataset mine --spec" in card.text
    assert str(ingested / "preferences.parquet") in card.text


def test_pairs_that_are_made_from_others_have_cards(ingested: Path, tmp_path: Path) -> None:
    out = tmp_path / "placebo/preferences.parquet"
    permuted.main(pairs=ingested / "preferences.parquet", seed=1, out=out)
    assert load_dataset(str(out.parent)).keys() == {"train"}
    assert "a placebo" in DatasetCard.load(out.parent / "README.md").text
    assert "Made by" not in (out.parent / "README.md").read_text()  # no stage runs here


@pytest.fixture
def base(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A model's folder as it comes from the hub."""
    start(tmp_path / "hub", "mistral", 16, 1, 0)
    monkeypatch.setattr(fetch, "fetch", lambda *_: tmp_path / "hub")
    fetch.main(spec=fetch.Source(source="owner/model"), out=tmp_path / "base")
    return tmp_path / "base"


def test_a_trained_model_names_the_hubs_model_and_data(base: Path, ingested: Path, tmp_path: Path) -> None:
    model = load_model(base, "eager")
    sft, dpo = tmp_path / "sft", tmp_path / "dpo"
    save_model(model, model.state_dict(), sft, base, "SFT.", ingested / "preferences.parquet")
    save_model(model, model.state_dict(), dpo, sft, "DPO.")
    for folder, datasets, what in ((base, None, "owner/model."), (sft, ["mine"], "SFT."), (dpo, ["mine"], "DPO.")):
        card = ModelCard.load(folder / "README.md")
        assert card.data.base_model == "owner/model"
        assert card.data.datasets == datasets
        assert card.data.license == "unknown"
        assert card.data.to_dict()["library_name"] == "transformers"
        assert card.text.strip().startswith(what)
        tokenizer: Any = AutoTokenizer.from_pretrained(folder)
        prompt = tokenizer.apply_chat_template(
            [{"role": "user", "content": "q"}], return_tensors="pt", return_dict=True
        )
        with torch.no_grad():
            assert AutoModelForCausalLM.from_pretrained(folder)(**prompt).logits.isfinite().all()


def test_a_card_is_no_part_of_a_folders_digest(base: Path, ingested: Path, tmp_path: Path) -> None:
    for folder in (base, Path(shutil.copytree(ingested, tmp_path / "copy"))):
        before = artifacts.digest(folder)
        card = (folder / "README.md").read_text()
        (folder / "README.md").write_text(card.replace("license: unknown", "license: mit"))
        assert artifacts.digest(folder) == before
        (folder / "README.md").unlink()
        assert artifacts.digest(folder) == before
        (folder / "other.md").write_text("counts")
        assert artifacts.digest(folder) != before
