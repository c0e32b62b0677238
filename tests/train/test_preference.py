import json
import math
import sys
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM

from diffinfo.chat import Chat
from diffinfo.cli import UserError
from diffinfo.config.types import Preference, Training
from diffinfo.models.exactness import load_scorer
from diffinfo.models.folders import load_model
from diffinfo.tables import artifacts
from diffinfo.train import reference
from diffinfo.world.training import start
from stages import stage

ONE_BATCH = Preference(batch_size=40, learning_rate=1e-3, warmup_steps=2, max_prompt_tokens=64, max_tokens=256)


def trained(job, *arguments, **more):
    made = job(*arguments, epochs=1, **more)
    made.here()
    return made


@pytest.mark.parametrize("method", ["dpo-b0.1", "dpo-b0.02", "dpop-b0.1"])
def test_first_loss_is_ln_2(job, tiny, method):
    log = trained(job, "a", method, model=tiny).log()
    assert log.loss[0] == pytest.approx(math.log(2), abs=1e-5)
    assert log.loss.iloc[-1] != pytest.approx(math.log(2), abs=1e-5)


@pytest.mark.parametrize("method", ["logpi-b0.1", "dpo-pg", "cal-dpo-b0.1", "slic-b0.1", "orpo-b0.1", "simpo-b2"])
def test_watched_dpo_loss_starts_at_ln_2_whatever_the_method(job, tiny, method):
    log = trained(job, "a", method, model=tiny).log()
    assert log.dpo_loss[0] == pytest.approx(math.log(2), abs=1e-5)
    assert log.logp_chosen[0] == pytest.approx(log.reference_logp_chosen[0], abs=1e-3)
    assert len(log) == 3


@pytest.mark.parametrize("master", ["float32", "bfloat16"])
def test_bfloat16_starts_at_ln_2_and_keeps_small_updates_in_float32_masters(job, tiny, master):
    """The reference is computed in the numerics of the policy's first step, so not even rounding is between them."""
    training = Training(micro_batch_tokens=512, master_weights=master)
    tiny_rate = ONE_BATCH.model_copy(update={"learning_rate": 1e-6, "batch_size": 16, "warmup_steps": 0})
    made = trained(job, "a", "dpo-b0.1", model=tiny, dtype="bfloat16", training=training, preference=tiny_rate)
    assert made.log().loss[0] == pytest.approx(math.log(2), abs=1e-4)
    state = load_file(made.folder / "models/state/rank-0.safetensors")
    start = {name: value.to(getattr(torch, master)) for name, value in load_model(tiny, "eager").named_parameters()}
    layers = [name for name in start if "proj" in name]
    moved = torch.cat([(state[f"weight/{name}"] != start[name]).flatten() for name in layers]).double().mean()
    assert moved > 0.9 if master == "float32" else moved < 0.5
    AutoModelForCausalLM.from_pretrained(made.folder / "models/epoch-1")


def test_end_of_turn_is_in_the_loss(tiny_mistral):
    """Only the end-of-turn token differs from its neighbour's probability: dropping it must change the sum."""
    chat = Chat(tiny_mistral)
    prompt, completion = chat.pair_ids([{"role": "user", "content": "add 1 and 2"}], "3 .")
    scorer = load_scorer(tiny_mistral, "sdpa").eval()
    with torch.no_grad():
        whole = scorer([prompt + completion], [len(prompt)]).item()
        without = scorer([prompt + completion[:-1]], [len(prompt)]).item()
        logits = load_model(tiny_mistral, "sdpa").eval()(torch.tensor([prompt + completion])).logits[0, -2]
    assert completion[-1] == chat.tokenizer.eos_token_id
    assert whole - without == pytest.approx(logits.log_softmax(-1)[completion[-1]].item(), abs=1e-4)


def test_effective_batch_does_not_depend_on_micro_batches(job):
    logs = [
        trained(job, str(budget), "dpo-b0.1", training=Training(micro_batch_tokens=budget)).log()
        for budget in (64, 100_000)
    ]
    assert np.allclose(logs[0].loss, logs[1].loss, atol=1e-5)
    assert np.allclose(logs[0].grad_norm, logs[1].grad_norm, rtol=1e-3)


@pytest.mark.parametrize("option", [{"activation_checkpointing": "layers"}, {"compile": "layers"}])
def test_options_change_how_and_not_what(job, option):
    plain = trained(job, "plain", "dpo-b0.1").log()
    other = trained(job, "other", "dpo-b0.1", training=Training(micro_batch_tokens=512, **option)).log()
    assert np.allclose(plain.loss, other.loss, atol=1e-4)
    assert np.allclose(plain.grad_norm, other.grad_norm, rtol=1e-3)


def test_dpo_pg_is_the_definition(job, tiny):
    """One SGD-like step by hand, from naive whole-batch gradients, gives the logged dot product and norms."""
    made = trained(job, "a", "dpo-pg", model=tiny, preference=ONE_BATCH)
    log, frame = made.log(), artifacts.read(made.arguments["reference"], "reference_logps")
    network = load_model(tiny, "eager")
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
    assert log.norm_rejected[0] == pytest.approx(r.norm().item(), rel=1e-3)
    projected = w - max(0.0, (w @ r).item()) / (r @ r) * r
    assert log.grad_norm[0] == pytest.approx(projected.norm().item(), rel=1e-3)  # clipped after the projection


@pytest.mark.parametrize(
    ("method", "dtype", "style"),
    [("sft", "float32", "mistral"), ("dpo-pg", "float32", "mistral"), ("dpo-b0.1", "bfloat16", "gemma2")],
)
def test_two_sharded_processes_are_one(job, tmp_path, method, dtype, style):
    """Real ``accelerate launch`` and FSDP2 over gloo: same losses, same projected gradient, same checkpoint to rounding."""
    start(tmp_path / style, style, hidden=32, layers=2, seed=3)  # Gemma-2's head is its embedding: one shared parameter
    one = trained(job, "one", method, dtype=dtype, model=tmp_path / style)
    two = job("two", method, epochs=1, dtype=dtype, model=tmp_path / style)
    running = two.launch(2)
    said = running.communicate(timeout=300)[1]
    assert running.returncode == 0, said[-3000:]
    exact = dtype == "float32"
    columns = ["loss", "grad_norm", *(["dot", "norm_chosen", "norm_rejected"] if method == "dpo-pg" else [])]
    for column in columns:
        assert np.allclose(one.log()[column][:2], two.log()[column][:2], rtol=1e-4 if exact else 2e-2), column
    assert np.allclose(one.log().loss, two.log().loss, atol=1e-4 if exact else 2e-2)
    path = "model.safetensors" if method == "sft" else "epoch-1/model.safetensors"
    a, b = (load_file(made.folder / "models" / path) for made in (one, two))
    assert a.keys() == b.keys()
    assert max((a[name].float() - b[name].float()).abs().max().item() for name in a) < (5e-3 if exact else 5e-2)
    if method != "sft":  # each rank holds its rows alone
        ranks = sorted((two.folder / "models/state").glob("rank-*.safetensors"))
        sizes = [file.stat().st_size for file in ranks]
        assert len(sizes) == 2
        assert max(sizes) < 1.1 * min(sizes)


def test_wrong_number_of_processes_is_refused(job):
    with pytest.raises(UserError, match=r"1 process\(es\) are training where preference.processes says 2"):
        trained(job, "a", "dpo-b0.1", preference=ONE_BATCH.model_copy(update={"processes": 2}))


def test_proxy_pairs_without_reference_are_refused_by_dpo(job, tmp_path):
    frame = artifacts.read(job("any", "dpo-pg").arguments["reference"], "reference_logps").assign(chosen_logp=None)
    artifacts.write(tmp_path / "pairs.parquet", frame, "reference_logps")
    with pytest.raises(UserError, match=r"holds no reference log-probabilities, which dpo-b0\.1 needs"):
        trained(job, "a", "dpo-b0.1", reference=tmp_path / "pairs.parquet")
    made = trained(job, "b", "logpi-b1", reference=tmp_path / "pairs.parquet", keep_last_only=True)
    assert made.log().dpo_loss.isna().all()
    assert (made.folder / "models" / "model.safetensors").exists()
    assert not (made.folder / "models" / "state").exists()


def test_pairs_that_do_not_fit_are_one_sentence(tiny, pairs_table, tmp_path):
    with pytest.raises(UserError, match=r"none of the 40 pairs fits .* raise them"):
        stage(reference.main,
            model=tiny, preferences=pairs_table, micro_batch_tokens=512, attention="eager", dtype="float32",
            max_prompt_tokens=3, max_tokens=4, out=tmp_path / "x.parquet",
        )  # fmt: skip


def test_log_is_plain_json_numbers(job):
    log = trained(job, "a", "dpo-pg").log()
    assert json.dumps(log.iloc[0].to_dict())
    assert (log.cosine.abs() <= 1).all()


def test_speed_and_tensorboard(job, tmp_path):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    made = trained(job, "a", "dpo-b0.1", events=tmp_path / "events")
    speed = artifacts.read(made.folder / "speed.parquet", "train_speed")
    log = made.log()
    assert speed.step.tolist() == log.step.tolist()
    assert np.allclose(speed.tokens_per_second * speed.seconds, log.tokens)
    assert (speed.padding_share == 0).all()
    assert speed.data_wait.between(0, 1).all()
    assert speed.mfu.isna().all()  # no card, no peak
    events = EventAccumulator(str(tmp_path / "events"))
    events.Reload()
    assert {"train/loss", "train/margin", "speed/tokens_per_second"} <= set(events.Tags()["scalars"])
    assert [event.value for event in events.Scalars("train/loss")] == pytest.approx(log.loss.tolist())


def test_wandb_is_asked_for_by_a_key_and_reads_what_tensorboard_does(job, tmp_path, monkeypatch):
    monkeypatch.setenv("DIFFINFO_REPORT_TO", "wandb")
    monkeypatch.setitem(sys.modules, "wandb", None)
    with pytest.raises(UserError, match="wandb is not in this environment: pip install wandb"):
        trained(job, "a", "dpo-b0.1", events=tmp_path / "events")
    called = []
    twin = SimpleNamespace(init=lambda **how: called.append(how), finish=lambda: called.append("finished"))
    monkeypatch.setitem(sys.modules, "wandb", twin)
    monkeypatch.setenv("WANDB_DIR", str(tmp_path / "wandb"))
    trained(job, "b", "dpo-b0.1", events=tmp_path / "events")
    (how, end) = called
    assert (how["sync_tensorboard"], how["project"], how["resume"], end) == (True, "diffinfo", "allow", "finished")
    assert how["dir"] == tmp_path / "wandb"  # below the events, real wandb shows each value twice
    assert how["dir"].is_dir()


def test_flops_are_six_a_parameter_and_token(tiny_mistral):
    from diffinfo.train.speed import flops

    network = load_model(tiny_mistral, "sdpa")
    used = sum(p.numel() for name, p in network.named_parameters() if "embed" not in name and "norm" not in name)
    long = flops(network, [10, 10])
    assert long - 6 * used * 20 == pytest.approx(6 * 2 * 32 * 2 * 100)  # layers x (heads x size) x sum of squares
