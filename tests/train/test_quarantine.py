"""A row that a chat template cannot hold costs itself and no other, and is named."""

import pandas as pd
import pytest

from diffinfo.cli import UserError
from diffinfo.config.types import Engine, Sft, Training
from diffinfo.sample import complete
from diffinfo.tables import artifacts
from diffinfo.train import reference, sft
from stages import stage
from templates import folder

THINK = "<think>the {} way</think>good"


def user(text):
    return {"role": "user", "content": text}


def write(path, bad, good=6):
    """A preferences table of ``good`` plain pairs with one odd row in their midst."""
    rows = [(f"g{i}", [user(f"hello there {i}")], f"good answer {i}", f"bad answer {i}") for i in range(good)]
    rows.insert(good // 2, ("odd", *bad))
    table = pd.DataFrame(rows, columns=["prompt_id", "messages", "chosen", "rejected"])
    table = table.assign(chosen_score=1.0, rejected_score=0.0, chosen_truncated=False, rejected_truncated=False)
    artifacts.write(path, table, "preferences")
    return path


def both(tmp_path, model, preferences):
    """What SFT and reference_logps make of a table: the reference, and the names each of them leaves out."""
    common = {"model": model, "preferences": preferences, "attention": "sdpa", "dtype": "float32", "max_tokens": 200}
    out = {name: tmp_path / f"{name}.parquet" for name in ("sft", "ref", "log", "speed", "table")}
    stage(sft.main,
        **common, sft=Sft(batch_size=4), training=Training(micro_batch_tokens=512), progress_dir=tmp_path / "p",
        model_out=tmp_path / "model", log_out=out["log"], speed_out=out["speed"], quarantine_out=out["sft"],
    )  # fmt: skip
    stage(
        reference.main,
        **common,
        max_prompt_tokens=100,
        micro_batch_tokens=512,
        out=out["table"],
        quarantine_out=out["ref"],
    )
    left_out = [artifacts.read(out[name], "quarantine") for name in ("sft", "ref")]
    pd.testing.assert_frame_equal(*left_out)
    kept = len(artifacts.read(preferences, "preferences")) - len(left_out[0])
    assert (
        artifacts.provenance(out["log"])["left_out"]
        == artifacts.provenance(out["table"])["left_out"]
        == len(left_out[0])
    )
    table = artifacts.read(out["table"], "reference_logps")
    assert len(table) == kept
    assert table[["chosen_logp", "rejected_logp"]].notna().all(axis=None)
    return table, left_out[0]


@pytest.mark.parametrize(
    ("template", "bad", "reason"),
    [
        ("deepseek-r1", ([user("u")], THINK.format("right"), THINK.format("wrong")), "changes the text of a response"),
        ("gemma", ([user("u")], "good", " good\n"), "chosen and rejected response are the same tokens"),
        ("mistral-v0.3", ([user("u"), user("v")], "good", "bad"), "roles must alternate"),
        ("qwen3", ([user("u")], "good", "<think>no</think>bad"), "this response follows|the text of a response"),
    ],
)
def test_the_others_go_on_and_the_row_is_named(template, bad, reason, tmp_path, caplog):
    model = folder(tmp_path / "base", template, weights=True)
    table, left_out = both(tmp_path, model, write(tmp_path / "preferences.parquet", bad))
    assert "odd" not in set(table.prompt_id)
    assert left_out[["row", "prompt_id"]].to_numpy().tolist() == [[4, "odd"]]
    assert left_out.reason.str.contains(reason).all()
    assert "1 of 7 rows left out" in caplog.text
    assert "(odd)" in caplog.text


@pytest.mark.parametrize(
    ("template", "row"),
    [
        ("mistral-v0.3", ([{"role": "system", "content": "be brief"}, user("hello there")], "good", "bad")),
        ("chatml", ([user("hello there")], "\ngood answer", "bad answer")),
        ("chatml", ([user("what is </s> and <s>x</s>")], "it is <|im_end|>", "bad answer")),
    ],
)
def test_what_can_be_tokenised_rightly_is_kept(template, row, tmp_path):
    model = folder(tmp_path / "base", template, weights=True)
    table, left_out = both(tmp_path, model, write(tmp_path / "preferences.parquet", row))
    assert len(left_out) == 0
    assert len(table) == 7


def test_nothing_left_is_one_sentence(tmp_path):
    preferences = write(tmp_path / "p.parquet", ([user("u")], THINK.format("right"), THINK.format("wrong")), good=0)
    with pytest.raises(UserError, match=r"nothing is left under the chat template of .*1 x the chat template"):
        both(tmp_path, folder(tmp_path / "base", "deepseek-r1", weights=True), preferences)


def test_sampling_leaves_a_bad_prompt_out_by_name(tmp_path, caplog):
    model = folder(tmp_path / "model", "mistral-v0.3", weights=True)
    frame = pd.DataFrame(
        {"prompt_id": ["a", "odd"], "messages": [[user("hello")], [user("u"), user("v")]], "source": "x"}
    )

    def sample(frame):
        artifacts.write(tmp_path / "prompts.parquet", frame, "prompts")
        stage(complete.main,
            models=model, prompts=[tmp_path / "prompts.parquet"], out=tmp_path / "out.parquet", engine=Engine(),
            attention="sdpa", dtype="float32", max_tokens=4,
        )  # fmt: skip

    sample(frame)
    assert artifacts.read(tmp_path / "out.parquet", "completions").prompt_id.tolist() == ["a"]
    (name, reason) = artifacts.provenance(tmp_path / "out.parquet")["quarantined"][0]
    assert name == "odd"
    assert "roles must alternate" in reason
    assert "(odd)" in caplog.text
    with pytest.raises(UserError, match="nothing is left under the chat template"):
        sample(frame[1:])
