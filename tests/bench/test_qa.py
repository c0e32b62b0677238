"""Real lm-eval on model folders small enough to be written by hand."""

import random
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch
import yaml

from bench.bigrams import CHOICES, GEMMA, MISTRAL, OWN, PREFERS, SAYS_SEVEN, VOCABULARY, Bigrams, items, write_model
from diffinfo.bench import qa
from diffinfo.cli import UserError
from diffinfo.config.benchmarks import Qa
from diffinfo.tables import artifacts
from diffinfo.world.qa_tasks import Item, write_tasks
from stages import stage

SYSTEM = "be kind ."
SETTINGS = Qa(batch_size=16, system_prompt=SYSTEM, gsm8k_shots=0, max_gen_toks=6)


@pytest.fixture
def evaluate(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., pd.DataFrame]:
    """Evaluate model folders on questions, in this process and without a network."""

    def refuse(*_: Any, **__: Any) -> None:
        raise AssertionError("the network was asked")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)

    def run(models: Path, questions: dict[str, list[Item]], settings: Qa = SETTINGS, **kwargs: Any) -> pd.DataFrame:
        write_tasks(tmp_path / "tasks", questions)
        places = {"out": tmp_path / "qa.parquet", "items": tmp_path / "qa.items.parquet"}
        stage(qa.main, models=models, tasks=tmp_path / "tasks", qa=settings, **places, **kwargs)
        return artifacts.read(tmp_path / "qa.parquet", "qa")

    return run


@pytest.fixture
def sent(monkeypatch: pytest.MonkeyPatch) -> list[list[int]]:
    """Token ids of every row that reaches a model, padding included."""
    from diffinfo.bench.qa_model import ChatModel

    rows: list[list[int]] = []
    call, generate = ChatModel._model_call, ChatModel._model_generate

    def spy_call(self: Any, inps: torch.Tensor, *args: Any, **kwargs: Any) -> Any:
        rows.extend(inps.tolist())
        return call(self, inps, *args, **kwargs)

    def spy_generate(self: Any, context: torch.Tensor, *args: Any, **kwargs: Any) -> Any:
        rows.extend(context.tolist())
        return generate(self, context, *args, **kwargs)

    monkeypatch.setattr(ChatModel, "_model_call", spy_call)
    monkeypatch.setattr(ChatModel, "_model_generate", spy_generate)
    return rows


def values(table: pd.DataFrame) -> dict[str, float]:
    return {row.benchmark + row.metric.replace("exact_match,", " "): row.value for row in table.itertuples()}


def test_what_the_model_prefers_decides(tmp_path: Path, evaluate: Callable[..., pd.DataFrame]) -> None:
    model = write_model(tmp_path / "model", SAYS_SEVEN | PREFERS)
    table = evaluate(model, items("gold", ("iron", "lead", "zinc"), letter=0))
    assert set(table.benchmark) == set(qa.BENCHMARKS)
    assert len(table) == 9
    assert set(table.value) == {1.0}
    assert set(table.epoch) == {0}
    assert set(table.n) == {6}
    assert dict(zip(table.benchmark, table.metric, strict=True)) == {
        "piqa": "acc_norm", "siqa": "acc", "hellaswag": "acc_norm", "arc_easy": "acc_norm", "arc_challenge": "acc_norm",
        "mmlu": "acc", "gsm8k": "exact_match,strict-match", "boolq": "acc",
    }  # fmt: skip
    assert len(qa.ranked(table)) == 8
    assert "exact_match,strict-match" not in set(qa.ranked(table).metric)


def test_the_reverse_preference_is_always_wrong(tmp_path: Path, evaluate: Callable[..., pd.DataFrame]) -> None:
    against: Bigrams = {("[/INST]", word): 5.0 for word in ("iron", "B", "no")}
    says_nine: Bigrams = SAYS_SEVEN | {("####", "9"): 40, ("9", "</s>"): 20}
    table = evaluate(write_model(tmp_path / "model", says_nine | against), items("gold", ("iron",) * 3, letter=0))
    assert set(table.value) == {0.0}


def test_strict_match_wants_the_marks_and_flexible_does_not(
    tmp_path: Path, evaluate: Callable[..., pd.DataFrame]
) -> None:
    bare: Bigrams = {("[/INST]", "7"): 20, ("7", "</s>"): 20, ("</s>", "9"): 20}
    got = values(evaluate(write_model(tmp_path / "model", bare), items("gold", ("iron",) * 3)))
    assert got["gsm8k flexible-extract"] == 1.0
    assert got["gsm8k strict-match"] == 0.0


def test_generation_stops_at_the_end_of_turn_of_a_gemma(tmp_path: Path, evaluate: Callable[..., pd.DataFrame]) -> None:
    """Its base generation config names <eos> alone: the text after the turn would be read as the answer."""
    says: Bigrams = {("model", "7"): 20, ("7", "<end_of_turn>"): 20, ("<end_of_turn>", "9"): 20, ("9", "9"): 20}
    got = values(evaluate(write_model(tmp_path / "model", says, GEMMA), items("gold", ("iron",) * 3)))
    assert got["gsm8k flexible-extract"] == 1.0


def test_a_generation_config_that_samples_is_not_obeyed(tmp_path: Path, evaluate: Callable[..., pd.DataFrame]) -> None:
    from transformers import GenerationConfig

    model = write_model(tmp_path / "model", SAYS_SEVEN | {("####", "9"): 19.9})
    GenerationConfig(do_sample=True, temperature=5.0, repetition_penalty=9.0, eos_token_id=2).save_pretrained(model)
    assert values(evaluate(model, items("gold", ("iron",) * 3)))["gsm8k strict-match"] == 1.0


def test_a_model_that_knows_nothing_scores_at_chance(tmp_path: Path, evaluate: Callable[..., pd.DataFrame]) -> None:
    rng = random.Random(0)

    def ask(choices: int, index: int) -> Item:  # words of one length, right at each position in turn
        return Item("what is it", tuple(rng.sample(["gold", "iron", "lead", "zinc"], choices)), index % choices)

    count = 48
    questions = {name: [ask(choices, i) for i in range(count)] for name, choices in CHOICES.items()}
    questions["boolq"] = [Item("what is it", ("no", "yes"), i % 2, "it has gold .") for i in range(count)]
    questions["gsm8k"] = [Item("add 3 and 4", ("7",), 0)]
    write_model(tmp_path / "epoch-1", {})  # all words alike
    write_model(tmp_path / "epoch-2", None)  # random weights
    table = evaluate(tmp_path, questions, epochs=[1, 2])
    for row in table[table.benchmark != "gsm8k"].itertuples():
        chance = 1 / CHOICES[row.benchmark]
        spread = 0.0 if row.epoch == 1 else 4 * (chance * (1 - chance) / count) ** 0.5
        assert row.value == pytest.approx(chance, abs=spread + 1e-9), row.benchmark


@pytest.mark.parametrize("template", [MISTRAL, GEMMA], ids=["mistral", "gemma"])
def test_one_bos_and_the_system_prompt_in_the_user_turn(
    tmp_path: Path, evaluate: Callable[..., pd.DataFrame], sent: list[list[int]], template: str
) -> None:
    from diffinfo.chat import Chat

    model = write_model(tmp_path / "model", {}, template)
    evaluate(model, items("gold", ("iron", "lead", "zinc")))
    unpadded = [[token for token in row if token != VOCABULARY["<pad>"]] for row in sent]
    assert len(unpadded) > 8
    opening = Chat(model).prompt_ids([{"role": "user", "content": SYSTEM}])
    opening = opening[: opening.index(VOCABULARY["."]) + 1]  # <s> [INST] be kind .
    for row in unpadded:
        assert row.count(VOCABULARY["<s>"]) == 1
        assert row[: len(opening)] == opening
        assert VOCABULARY["[SYS]"] not in row
    asked = [{"role": "user", "content": f"{SYSTEM} Question: what is it\nAnswer:"}]
    assert Chat(model).prompt_ids(asked) in unpadded  # one-word choices: the model sees the prompt alone


def test_every_user_turn_of_a_few_shot_prompt_opens_with_the_system_prompt(
    tmp_path: Path, evaluate: Callable[..., pd.DataFrame], sent: list[list[int]]
) -> None:
    for epoch in (1, 2):
        write_model(tmp_path / f"epoch-{epoch}", SAYS_SEVEN)
    settings = SETTINGS.model_copy(update={"gsm8k_shots": 2})
    table = evaluate(tmp_path, items("gold", ("iron", "lead", "zinc")), settings, epochs=[1, 2])
    shots = [row for row in sent if row.count(VOCABULARY["[INST]"]) == 3]
    assert len(shots) == 12
    for row in shots:
        assert [row[i + 1 : i + 4] for i, token in enumerate(row) if token == VOCABULARY["[INST]"]] == [
            [VOCABULARY[word] for word in SYSTEM.split()]
        ] * 3
        assert row.count(VOCABULARY["####"]) == 2
    assert shots[:6] == shots[6:], "a later epoch sees the same examples"
    first, second = (table[table.epoch == epoch].drop(columns="epoch").reset_index(drop=True) for epoch in (1, 2))
    pd.testing.assert_frame_equal(first, second)


def test_a_system_message_of_the_templates_own_is_there_once(
    tmp_path: Path, evaluate: Callable[..., pd.DataFrame], sent: list[list[int]]
) -> None:
    model = write_model(tmp_path / "model", SAYS_SEVEN, OWN)
    evaluate(model, items("gold", ("iron", "lead", "zinc")), SETTINGS.model_copy(update={"gsm8k_shots": 2}))
    turns = [row.count(VOCABULARY["[INST]"]) for row in sent]
    assert set(turns) == {1, 3}  # choices, and GSM8k with its two shots
    for row in sent:
        assert row.count(VOCABULARY["[SYS]"]) == 2
        assert row.count(VOCABULARY["<s>"]) == 1


def test_epochs_in_one_process_equal_processes_of_their_own(
    tmp_path: Path, evaluate: Callable[..., pd.DataFrame]
) -> None:
    write_model(tmp_path / "epoch-1", None, seed=1)
    write_model(tmp_path / "epoch-2", SAYS_SEVEN | PREFERS)
    together = evaluate(tmp_path, items("gold", ("iron", "lead", "zinc")), epochs=[1, 2])
    first, second = (values(together[together.epoch == epoch]) for epoch in (1, 2))
    assert first != second
    subprocess.run(
        [
            sys.executable, "-m", "diffinfo.bench.qa", "--models", tmp_path, "--epochs", "[2]",
            "--out", tmp_path / "b.parquet", "--items", tmp_path / "b.items.parquet", "--tasks", tmp_path / "tasks",
            "--settings", qa.Settings(qa=SETTINGS).model_dump_json(),
        ],
        check=True,
        env={"PYTHONPATH": str(Path(qa.__file__).parents[2]), "HOME": str(tmp_path / "home"), "PATH": "/usr/bin:/bin"},
    )  # fmt: skip
    alone = artifacts.read(tmp_path / "b.parquet", "qa")
    pd.testing.assert_frame_equal(alone, together[together.epoch == 2].reset_index(drop=True))
    assert not list((tmp_path / "home").rglob("*.arrow")), "no copy of the data stays in the user's cache"


def test_items_have_the_aggregates_as_their_means(tmp_path: Path, evaluate: Callable[..., pd.DataFrame]) -> None:
    """Against lm-eval's own aggregate, with a model that is right by chance."""
    write_model(tmp_path / "epoch-1", None, seed=3)
    write_model(tmp_path / "epoch-2", SAYS_SEVEN | PREFERS)
    table = qa.ranked(evaluate(tmp_path, items("gold", ("iron", "lead", "zinc"), count=8), epochs=[1, 2]))
    single = artifacts.read(tmp_path / "qa.items.parquet", "qa_items")
    assert not single.duplicated(["epoch", "benchmark", "item"]).any()
    means = single.groupby(["epoch", "benchmark"]).value.agg(["mean", "size"])
    for row in table.itertuples():
        assert means.loc[(row.epoch, row.benchmark)].tolist() == pytest.approx([row.value, row.n]), row.benchmark
    assert len(means) == len(table) == 16
    assert table.value.between(0.01, 0.99).any()
    one, two = (set(single.item[single.epoch == epoch]) for epoch in (1, 2))
    assert one == two, "the same questions have the same names under every model"


def test_items_of_another_question_have_another_name(tmp_path: Path, evaluate: Callable[..., pd.DataFrame]) -> None:
    model, names = write_model(tmp_path / "model", {}), []
    for wrong in ("iron", "lead"):
        evaluate(model, items("gold", (wrong,) * 3))
        single = artifacts.read(tmp_path / "qa.items.parquet", "qa_items")
        names.append(set(single.item[single.benchmark == "piqa"]))
    assert not names[0] & names[1]


def test_gsm8k_items_are_of_the_match_that_is_ranked(tmp_path: Path, evaluate: Callable[..., pd.DataFrame]) -> None:
    bare: Bigrams = {("[/INST]", "7"): 20, ("7", "</s>"): 20, ("</s>", "9"): 20}
    evaluate(write_model(tmp_path / "model", bare), items("gold", ("iron",) * 3))
    single = artifacts.read(tmp_path / "qa.items.parquet", "qa_items")
    assert single.value[single.benchmark == "gsm8k"].tolist() == [1.0] * 6  # strict: all 0


def test_standard_error_is_that_of_a_mean(tmp_path: Path, evaluate: Callable[..., pd.DataFrame]) -> None:
    table = evaluate(write_model(tmp_path / "model", {}), items("gold", ("iron", "lead", "zinc"), count=4))
    row = table.set_index("benchmark").loc["hellaswag"]
    assert (row.value, row.n) == (0.25, 4)
    assert row.stderr == pytest.approx((0.25 * 0.75 / 3) ** 0.5)
    assert table.stderr.notna().all()


def test_limit_and_a_single_question_leave_the_error_unknown(
    tmp_path: Path, evaluate: Callable[..., pd.DataFrame]
) -> None:
    settings = SETTINGS.model_copy(update={"limit": 1})
    table = evaluate(write_model(tmp_path / "model", {}), items("gold", ("iron", "lead", "zinc")), settings)
    assert set(table.n) == {1}
    assert table.stderr.isna().all()


def test_faults_are_sentences(tmp_path: Path, evaluate: Callable[..., pd.DataFrame]) -> None:
    questions = items("gold", ("iron", "lead", "zinc"))
    model = write_model(tmp_path / "model", {})
    with pytest.raises(UserError, match=r"epoch-3 is not a model folder"):
        evaluate(tmp_path, questions, epochs=[3])
    with pytest.raises(UserError, match=r"qa\.max_gen_toks is 128"):
        evaluate(model, questions, SETTINGS.model_copy(update={"max_gen_toks": 128}))
    long = questions | {"piqa": [Item("gold " * 124, ("iron", "lead"), 0)]}
    with pytest.raises(UserError, match=r"a QA prompt of \d+ tokens does not fit"):
        evaluate(model, long)
    long = questions | {"gsm8k": [Item("gold " * 115, ("7",), 0)]}
    with pytest.raises(UserError, match="does not fit, there is room for 122"):
        evaluate(model, long)
    broken = tmp_path / "broken"
    write_tasks(broken, questions)
    (broken / "piqa.parquet").write_bytes(b"PAR1")
    with pytest.raises(UserError, match="cannot read the data files"):
        stage(qa.main, models=model, tasks=broken, qa=SETTINGS, out=tmp_path / "x.parquet", items=tmp_path / "y")
    (broken / "script").mkdir()
    (broken / "script/script.py").write_text("")  # code, which datasets no longer runs
    task = yaml.safe_load((broken / "piqa.yaml").read_text())
    (broken / "piqa.yaml").write_text(yaml.safe_dump(task | {"dataset_path": "$HERE/script", "dataset_kwargs": {}}))
    with pytest.raises(UserError, match=r"cannot read the data files.*Dataset scripts are no longer supported"):
        stage(qa.main, models=model, tasks=broken, qa=SETTINGS, out=tmp_path / "x.parquet", items=tmp_path / "y")
    (broken / "piqa.yaml").unlink()
    with pytest.raises(UserError, match=r"no task file piqa\.yaml"):
        stage(qa.main, models=model, tasks=broken, qa=SETTINGS, out=tmp_path / "x.parquet", items=tmp_path / "y")


def test_the_report_needs_neither_torch_nor_lm_eval() -> None:
    code = (
        "import sys, diffinfo.bench.qa; assert not {'torch', 'transformers', 'lm_eval', 'datasets'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True, env={"PYTHONPATH": str(Path(qa.__file__).parents[2])})
