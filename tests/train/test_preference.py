import json
import math
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from diffinfo import artifacts
from diffinfo.chat import Chat
from diffinfo.cli import UserError
from diffinfo.config import Objectives, Preference, Training
from diffinfo.train import preference, reference
from diffinfo.train.checkpoint import load_model
from diffinfo.train.logprobs import completion_logps, micro_batches

SETTINGS = Preference(batch_size=16, learning_rate=1e-3, warmup_steps=2, max_prompt_tokens=64, max_tokens=256)
TRAINING = Training(micro_batch_tokens=512)


@pytest.fixture(scope="session")
def scored(tiny, pairs_table, tmp_path_factory):
    out = tmp_path_factory.mktemp("reference") / "reference.parquet"
    attention = "eager" if "gemma" in str(tiny) else "sdpa"
    reference.main(
        model=tiny, preferences=pairs_table, training=TRAINING, attention=attention, dtype="float32",
        max_prompt_tokens=64, max_tokens=256, out=out,
    )  # fmt: skip
    return tiny, out, attention


def train(scored, folder: Path, method: str, first=1, last=1, settings=SETTINGS, training=TRAINING, **more):
    model, table, attention = scored
    preference.main(
        model=model, reference=table, method=method, settings=settings, objectives=Objectives(), training=training,
        attention=attention, dtype="float32", first_epoch=first, last_epoch=last, progress_dir=folder / "progress",
        models_out=folder / "models", log_out=folder / "log.parquet", **more,
    )  # fmt: skip
    return artifacts.read(folder / "log.parquet", "train_log")


@pytest.mark.parametrize("method", ["dpo-b0.1", "dpo-b0.02", "dpop-b0.1"])
def test_first_loss_is_ln_2(scored, tmp_path, method):
    log = train(scored, tmp_path, method)
    assert log.loss[0] == pytest.approx(math.log(2), abs=1e-5)
    assert log.loss.iloc[-1] != pytest.approx(math.log(2), abs=1e-5)


@pytest.mark.parametrize("method", ["logpi-b0.1", "dpo-pg", "cal-dpo-b0.1", "slic-b0.1", "orpo-b0.1", "simpo-b2"])
def test_watched_dpo_loss_starts_at_ln_2_whatever_the_method(scored, tmp_path, method):
    log = train(scored, tmp_path, method)
    assert log.dpo_loss[0] == pytest.approx(math.log(2), abs=1e-5)
    assert log.logp_chosen[0] == pytest.approx(log.reference_logp_chosen[0], abs=1e-3)
    assert len(log) == 3


def test_end_of_turn_is_in_the_loss(tiny_mistral):
    """Only the end-of-turn token differs from its neighbour's probability: dropping it must change the sum."""
    chat = Chat(tiny_mistral)
    prompt, completion = chat.pair_ids([{"role": "user", "content": "add 1 and 2"}], "3 .")
    model = load_model(tiny_mistral, "sdpa").eval()
    with torch.no_grad():
        whole = completion_logps(model, [prompt + completion], [len(prompt)]).item()
        without = completion_logps(model, [prompt + completion[:-1]], [len(prompt)]).item()
        logits = model(torch.tensor([prompt + completion])).logits[0, -2]
    assert completion[-1] == chat.tokenizer.eos_token_id
    assert whole - without == pytest.approx(logits.log_softmax(-1)[completion[-1]].item(), abs=1e-4)


def test_padding_and_micro_batches_change_nothing(scored):
    model, table, attention = scored
    frame = artifacts.read(table, "reference_logps")
    network = load_model(model, attention).eval()
    sequences = [p + c for p, c in zip(frame.prompt_ids, frame.chosen_ids, strict=True)]
    starts = frame.prompt_ids.map(len).tolist()
    with torch.no_grad():
        together = completion_logps(network, sequences, starts)
        alone = torch.cat([completion_logps(network, [s], [n]) for s, n in zip(sequences, starts, strict=True)])
    assert torch.allclose(together, alone, atol=2e-4)
    assert np.allclose(together, frame.chosen_logp, atol=2e-4)


def test_effective_batch_does_not_depend_on_micro_batches(scored, tmp_path):
    logs = [
        train(scored, tmp_path / str(budget), "dpo-b0.1", training=Training(micro_batch_tokens=budget))
        for budget in (64, 100_000)
    ]
    assert np.allclose(logs[0].loss, logs[1].loss, atol=1e-5)
    assert np.allclose(logs[0].grad_norm, logs[1].grad_norm, rtol=1e-3)


def weights(folder: Path) -> bytes:
    return (folder / "model.safetensors").read_bytes()


@pytest.mark.parametrize("method", ["dpo-b0.1", "dpo-pg"])
def test_later_span_and_killed_job_end_with_the_same_bytes(scored, tmp_path, method, monkeypatch):
    whole = train(scored, tmp_path / "whole", method, 1, 3)
    # a span of its own for epoch 3
    train(scored, tmp_path / "early", method, 1, 2)
    train(scored, tmp_path / "late", method, 3, 3, resume=tmp_path / "early" / "models")
    assert weights(tmp_path / "late" / "models" / "epoch-3") == weights(tmp_path / "whole" / "models" / "epoch-3")
    # a job killed in its second epoch
    steps = preference.train_step
    calls = iter(range(100))

    def killed(*arguments):
        if next(calls) == 4:
            raise KeyboardInterrupt
        return steps(*arguments)

    monkeypatch.setattr(preference, "train_step", killed)
    with pytest.raises(KeyboardInterrupt):
        train(scored, tmp_path / "killed", method, 1, 3)
    assert not (tmp_path / "killed" / "models").exists()
    monkeypatch.undo()
    again = train(scored, tmp_path / "killed", method, 1, 3)
    for epoch in (1, 2, 3):
        name = f"models/epoch-{epoch}"
        assert weights(tmp_path / "killed" / name) == weights(tmp_path / "whole" / name)
    assert (tmp_path / "killed/log.parquet").read_bytes() == (tmp_path / "whole/log.parquet").read_bytes()
    assert len(again) == len(whole) == 9
    assert not list((tmp_path / "killed/progress").glob("*/state-*"))


def test_dpo_pg_is_the_definition(scored, tmp_path):
    """One SGD-like step by hand, from naive whole-batch gradients, gives the logged dot product and norms."""
    model, table, attention = scored
    log = train(scored, tmp_path, "dpo-pg", settings=SETTINGS.model_copy(update={"batch_size": 40}))
    frame = artifacts.read(table, "reference_logps")
    network = load_model(model, attention)
    gradients = []
    for side in ("chosen_ids", "rejected_ids"):
        network.zero_grad()
        for prompt, completion in zip(frame.prompt_ids, frame[side], strict=True):
            ids = torch.tensor([prompt + completion])
            logps = network(ids).logits[0, :-1].log_softmax(-1).gather(1, ids[0, 1:, None])[len(prompt) - 1 :]
            (-logps.sum() / len(frame)).backward()
        gradients.append(torch.cat([p.grad.flatten() for p in network.parameters()]))
    w, r = gradients
    assert log["dot"][0] == pytest.approx((w @ r).item(), rel=1e-3)
    assert log.norm_chosen[0] == pytest.approx(w.norm().item(), rel=1e-3)
    projected = w - max(0.0, (w @ r).item()) / (r @ r) * r
    assert log.grad_norm[0] == pytest.approx(projected.norm().item(), rel=1e-3)  # clipped after the projection


def test_two_processes_are_one(scored, tmp_path):
    """Real ``accelerate launch`` with two processes: same losses, same weights to rounding."""
    model, table, attention = scored
    if attention == "eager":
        pytest.skip("one architecture is enough for the launcher")
    for method in ("dpo-b0.1", "dpo-pg"):
        train(scored, tmp_path / "one" / method, method)
        two = tmp_path / "two" / method
        command = [
            sys.executable, "-m", "accelerate.commands.launch", "--multi_gpu", "--num_processes", "2",
            "--num_machines", "1", "--mixed_precision", "no", "--dynamo_backend", "no", "--main_process_port", "0",
            "-m", "diffinfo.train.preference", "--model", model, "--reference", table, "--method", method,
            "--settings", SETTINGS.model_copy(update={"processes": 2}).model_dump_json(), "--objectives", "{}",
            "--training", TRAINING.model_dump_json(), "--attention", attention, "--dtype", "float32",
            "--first_epoch", "1", "--last_epoch", "1", "--progress_dir", two / "progress",
            "--models_out", two / "models", "--log_out", two / "log.parquet",
        ]  # fmt: skip
        environment = {**__import__("os").environ, "PYTHONPATH": str(Path(preference.__file__).parents[2])}
        done = subprocess.run(list(map(str, command)), capture_output=True, text=True, env=environment, check=False)
        assert done.returncode == 0, done.stderr[-3000:]
        one = artifacts.read(tmp_path / "one" / method / "log.parquet", "train_log")
        both = artifacts.read(two / "log.parquet", "train_log")
        assert np.allclose(one.loss, both.loss, atol=1e-4)
        assert np.allclose(one.grad_norm, both.grad_norm, rtol=1e-2)
        a = load_file(tmp_path / "one" / method / "models/epoch-1/model.safetensors")
        b = load_file(two / "models/epoch-1/model.safetensors")
        assert max((a[name] - b[name]).abs().max().item() for name in a) < 5e-3


def test_wrong_number_of_processes_is_refused(scored, tmp_path):
    with pytest.raises(UserError, match=r"1 process\(es\) are training where preference.processes says 2"):
        train(scored, tmp_path, "dpo-b0.1", settings=SETTINGS.model_copy(update={"processes": 2}))


def test_proxy_pairs_without_reference_are_refused_by_dpo(scored, tmp_path):
    model, table, attention = scored
    frame = artifacts.read(table, "reference_logps").assign(chosen_logp=None)
    artifacts.write(tmp_path / "pairs.parquet", frame, "reference_logps")
    with pytest.raises(UserError, match=r"holds no reference log-probabilities, which dpo-b0\.1 needs"):
        train((model, tmp_path / "pairs.parquet", attention), tmp_path, "dpo-b0.1")
    log = train((model, tmp_path / "pairs.parquet", attention), tmp_path, "logpi-b1", keep_last_only=True)
    assert log.dpo_loss.isna().all()
    assert (tmp_path / "models" / "model.safetensors").exists()


def test_pairs_that_do_not_fit_are_one_sentence(tiny, pairs_table, tmp_path):
    with pytest.raises(UserError, match=r"none of the 40 pairs fits .* raise them"):
        reference.main(
            model=tiny, preferences=pairs_table, training=TRAINING, attention="eager", dtype="float32",
            max_prompt_tokens=3, max_tokens=4, out=tmp_path / "x.parquet",
        )  # fmt: skip


def test_micro_batches_hold_every_row_once_within_budget():
    lengths = [5, 40, 7, 100, 8, 8, 3]
    groups = micro_batches(lengths, 50)
    assert sorted(i for group in groups for i in group) == list(range(len(lengths)))
    assert all(len(g) == 1 or len(g) * max(lengths[i] for i in g) <= 50 for g in groups)


def test_log_is_plain_json_numbers(scored, tmp_path):
    log = train(scored, tmp_path, "dpo-pg")
    assert json.dumps(log.iloc[0].to_dict())
    assert (log.cosine.abs() <= 1).all()
