"""Model families: our log-probabilities and gradients are the model's own, packed or one at a time, also after a save.

The expected values come from transformers alone: each sequence by itself through the stock model.
"""

import json
import math
import shutil

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch.nn.functional import log_softmax
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer

from diffinfo.cli import UserError
from diffinfo.config.types import Objectives, Preference, Sft, Training
from diffinfo.config.values import Computation
from diffinfo.models.attention import FLEX, PACKED
from diffinfo.models.exactness import VERSIONS, compare, load_scorer, record
from diffinfo.models.folders import SCORING, copy_tokenizer, load_model, save_model
from diffinfo.sample.engine import Decoding
from diffinfo.sample.transformers import TransformersEngine
from diffinfo.tables import artifacts
from diffinfo.train import preference, reference, sft
from diffinfo.train.reference import score_completions
from diffinfo.train.trainer import Trainer
from stages import stage

COMMON = {
    "vocab_size": 99, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4,
    "num_key_value_heads": 2, "max_position_embeddings": 256, "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2,
}  # fmt: skip
GEMMA = {"head_dim": 8, "query_pre_attn_scalar": 8, "sliding_window": 5}
GPT = {"n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 256}
MIXED = {"layer_types": ["sliding_attention", "full_attention"], "sliding_window": 5}
LLAMA3 = {"rope_type": "llama3", "rope_theta": 5e5, "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
          "original_max_position_embeddings": 64}  # fmt: skip
LONGROPE = {"rope_type": "longrope", "rope_theta": 1e4, "short_factor": [1.0] * 4, "long_factor": [4.0] * 4,
            "original_max_position_embeddings": 16, "factor": 16.0}  # fmt: skip
EXPERTS = {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 16}
# name: (whether it packs, model type, what differs from COMMON)
FAMILIES = {
    "llama-3": (True, "llama", {"rope_parameters": LLAMA3}),
    "llama-tied": (True, "llama", {"tie_word_embeddings": True}),
    "mistral": (True, "mistral", {"sliding_window": 5}),
    "gemma": (True, "gemma", {"head_dim": 8}),
    "gemma-2": (True, "gemma2", GEMMA),
    "gemma-3": (True, "gemma3_text", GEMMA | MIXED),
    "qwen-2.5": (True, "qwen2", {}),
    "qwen-3": (True, "qwen3", {"head_dim": 8}),
    "qwen-3-moe": (True, "qwen3_moe", {"head_dim": 8} | EXPERTS),
    "phi-3": (True, "phi3", {"resid_pdrop": 0.3, "attention_dropout": 0.3}),
    "phi-3-long": (False, "phi3", {"rope_parameters": LONGROPE}),
    "olmo-2": (True, "olmo2", {}),
    "olmo-3": (True, "olmo3", MIXED),
    "smollm-3": (True, "smollm3", {}),
    "mixtral": (True, "mixtral", {"num_local_experts": 4}),
    "glm-4": (True, "glm4", {"head_dim": 8}),
    "granite": (False, "granite", {"logits_scaling": 4.0, "embedding_multiplier": 2.0, "residual_multiplier": 0.5}),
    "phi-2": (False, "phi", {"resid_pdrop": 0.3}),
    "gpt-2": (True, "gpt2", GPT | {"resid_pdrop": 0.3, "embd_pdrop": 0.3, "attn_pdrop": 0.3}),
    "gpt-neox": (True, "gpt_neox", {"hidden_dropout": 0.3}),
    "gpt-neo": (False, "gpt_neo", {"num_layers": 2, "num_heads": 4, "window_size": 5,
                                   "attention_types": [[["global", "local"], 1]]}),
    "opt": (True, "opt", {"ffn_dim": 48, "word_embed_proj_dim": 32, "dropout": 0.3}),
    "falcon": (False, "falcon", {"hidden_dropout": 0.3}),
    "command-r": (False, "cohere", {}),
    "stablelm": (False, "stablelm", {}),
    "gpt-oss": (False, "gpt_oss", {"head_dim": 8, "num_local_experts": 4, **MIXED}),
    "lfm-2": (False, "lfm2", {"layer_types": ["conv", "full_attention"], "block_multiple_of": 8}),
    "mamba": (False, "mamba", {}),
    "recurrent-gemma": (False, "recurrent_gemma", {"lru_width": 32}),
    "jamba": (False, "jamba", {}),
}  # fmt: skip
UNPADDED = ("phi-3-long", "recurrent-gemma")
SEQUENCES = [[1, 20, 30, 40, 50, 60, 70, 11, 12], [1, 60, 61], list(range(3, 23)), [1, 5], list(range(40, 80, 3))]
STARTS = [4, 1, 7, 1, 2]


def build(folder, kind, **changes):
    """A random model whose every parameter, biases too, differs from its neutral value."""
    torch.manual_seed(3)
    model = AutoModelForCausalLM.from_config(AutoConfig.for_model(kind, **{**COMMON, **changes}), dtype=torch.float32)
    random = torch.Generator().manual_seed(5)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.2 * torch.randn(parameter.shape, generator=random))
    model.save_pretrained(folder)


@pytest.fixture(scope="module", params=list(FAMILIES))
def family(request, tmp_path_factory):
    folder = tmp_path_factory.mktemp(request.param)
    packs, kind, changes = FAMILIES[request.param]
    build(folder, kind, **changes)
    return folder, packs


def stock(folder, dtype=torch.float32):
    return AutoModelForCausalLM.from_pretrained(folder, attn_implementation="eager", dtype=dtype).eval()


def own(model, sequences=SEQUENCES, starts=STARTS):
    """Sum of log pi of each sequence's tokens from its start on, one sequence at a time."""
    sums = []
    for sequence, start in zip(sequences, starts, strict=True):
        logp = log_softmax(model(torch.tensor([sequence]), use_cache=False).logits[0, :-1].float(), -1)
        sums.append(logp.gather(1, torch.tensor(sequence[1:])[:, None])[start - 1 :].sum())
    return torch.stack(sums)


def trainer(folder, dtype="float32", **training):
    return Trainer(
        folder, attention="eager", dtype=dtype, optimizer=torch.optim.RMSprop, learning_rate=1e-2, warmup_steps=0,
        max_grad_norm=1.0, training=Training(micro_batch_tokens=64, **training),
    )  # fmt: skip


def step(made):
    """One step on all sequences; the log-probabilities before it."""
    seen = torch.zeros(len(SEQUENCES), dtype=torch.float64)
    for pack, weight in made.rank_packs([len(sequence) for sequence in SEQUENCES]):
        values = made.scorer([SEQUENCES[i] for i in pack], [STARTS[i] for i in pack])
        (-weight * values.sum() / 100).backward()
        seen[pack] = values.detach()
    gradients = made.take_gradients()
    copies = [gradient.clone() for gradient in gradients]
    made.update(gradients)
    return seen, copies


def test_values_and_gradients_are_the_models_own(family, caplog):
    folder, packs = family
    caplog.set_level("INFO", logger="diffinfo")
    record(folder)
    found = json.loads((folder / SCORING).read_text())
    assert found["packed"] is packs
    assert found["padded"] is not folder.name.startswith(UNPADDED)
    assert ("only prompts of one length" not in caplog.text) is found["padded"]
    assert ("packed together" if packs else "one at a time, which is slower") in caplog.text
    made = trainer(folder)
    seen, gradients = step(made)
    model = stock(folder)
    expected = own(model)
    assert torch.allclose(seen.float(), expected, rtol=0, atol=1e-4)
    (-expected.sum() / 100).backward()
    for (name, parameter), mine in zip(model.named_parameters(), gradients, strict=True):
        theirs = torch.zeros_like(parameter) if parameter.grad is None else parameter.grad
        assert torch.allclose(mine, theirs, rtol=1e-4, atol=1e-5), name


def test_flex_attention_gives_the_values_and_gradients_of_the_loop(family, flex_on_cpu):
    """What a GPU trains with, where a pack has padding: not compiled, for compiled it has no backward pass on a CPU."""
    folder, packs = family
    if not packs:
        pytest.skip("no attention of ours")
    made, flexible = trainer(folder), trainer(folder)
    flexible.module.set_attn_implementation(FLEX)
    (seen, gradients), (values, slopes) = step(made), step(flexible)
    assert torch.allclose(values, seen, rtol=0, atol=1e-4)
    for (name, _), mine, other in zip(made.module.named_parameters(), slopes, gradients, strict=True):
        assert torch.allclose(mine, other, rtol=1e-4, atol=1e-5), name


def test_a_gpu_gets_flex_attention(tmp_path, monkeypatch):
    build(tmp_path, "gemma2", **GEMMA)
    record(tmp_path)
    assert load_scorer(tmp_path, "eager").model.config._attn_implementation == PACKED
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert load_scorer(tmp_path, "eager").model.config._attn_implementation == FLEX


def test_ranks_without_values_have_the_same_tensors_in_the_same_order(family):
    """What the first rank sends to each of the others, tensor by tensor; shared ones are shared there too."""
    found = []
    for device in (None, "meta"):
        seen, numbers = [], {}
        for place, module in load_scorer(family[0], "eager", device=device).named_modules():
            for name, tensor in [*module._parameters.items(), *module._buffers.items()]:
                if tensor is not None:
                    number = numbers.setdefault(id(tensor), len(numbers))
                    seen.append((place, name, tensor.shape, tensor.dtype, number))
            assert not any(isinstance(value, torch.Tensor) for value in vars(module).values())
        found.append(seen)
    assert found[0] == found[1]


def test_a_trained_model_is_saved_and_loaded_whole(family, tmp_path):
    folder, _ = family
    record(folder)
    made = trainer(folder)
    step(made)
    save_model(made.module, made.weights("float32"), tmp_path, folder)
    with torch.no_grad():
        now = torch.cat([made.scorer([s], [b]) for s, b in zip(SEQUENCES, STARTS, strict=True)]).float()
        assert (now - own(stock(folder))).abs().max() > 0.01  # it has learnt something
        assert torch.allclose(own(stock(tmp_path)), now, rtol=0, atol=1e-4)
    assert (tmp_path / SCORING).exists()


def test_a_bfloat16_policy_begins_as_its_reference(family):
    """FSDP's copies in bfloat16 compute what a model loaded in bfloat16 does: the first DPO loss is ln 2."""
    folder, _ = family
    prompts, completions = zip(*((s[:b], s[b:]) for s, b in zip(SEQUENCES, STARTS, strict=True)), strict=True)
    reference = score_completions(folder, prompts, completions, Computation(dtype="bfloat16", micro_batch_tokens=64))
    made = trainer(folder, "bfloat16")
    seen, _ = step(made)
    assert seen.tolist() == pytest.approx(reference, abs=1e-6)
    ours, theirs = (
        m.get_output_embeddings().weight is m.get_input_embeddings().weight for m in (made.module, stock(folder))
    )
    assert ours == theirs  # one tensor stays one among the shards


@pytest.mark.parametrize("name", ["gpt-2", "phi-2"])
def test_memory_saved_changes_no_gradient(tmp_path, name):
    """With dropout in the configuration: what is computed again drops nothing either."""
    build(tmp_path, FAMILIES[name][1], **FAMILIES[name][2])
    (_, plain), (_, saved) = step(trainer(tmp_path)), step(trainer(tmp_path, activation_checkpointing="layers"))
    for one, other in zip(plain, saved, strict=True):
        assert torch.allclose(one, other, rtol=1e-4, atol=1e-6)


def test_a_window_longer_than_the_test_sequences_is_compared_too(tmp_path, monkeypatch):
    """An attention that forgets the window is found although no short sequence reaches the real one."""
    from diffinfo.models import attention

    build(tmp_path, "mistral", sliding_window=4096)
    assert compare(tmp_path)["packed"]
    monkeypatch.setattr(attention, "_window", lambda tokens, width, device: attention_all(tokens))
    assert not compare(tmp_path)["packed"]


def attention_all(tokens):
    return torch.ones(tokens, tokens, dtype=torch.bool).tril()


def test_an_unrecorded_or_outdated_folder_is_compared_when_it_is_loaded(tmp_path):
    build(tmp_path, "granite", logits_scaling=4.0)
    assert not load_scorer(tmp_path, "eager").packed
    versions = {"diffinfo": "0", "transformers": "0"}
    for said in ({"padded": True, "versions": versions}, {"versions": VERSIONS}):  # outdated; of less than is asked
        (tmp_path / SCORING).write_text(json.dumps({"packed": True, **said}))
        assert not load_scorer(tmp_path, "eager").packed


def test_a_model_that_sees_what_follows_is_refused(tmp_path):
    build(tmp_path, "bert", is_decoder=False)
    with pytest.raises(UserError, match="not a causal language model that can be scored"):
        compare(tmp_path)


def test_dropout_is_said_and_not_used(tmp_path, caplog):
    build(tmp_path, "gpt2", **FAMILIES["gpt-2"][2])
    made = trainer(tmp_path)
    assert "'resid_pdrop': 0.3" in caplog.text
    seen, _ = step(made)
    assert torch.allclose(seen.float(), own(stock(tmp_path)), rtol=0, atol=1e-4)


def test_a_sequence_longer_than_the_model_is_refused(tmp_path):
    build(tmp_path, "gpt2", **{**GPT, "n_positions": 16, "max_position_embeddings": 16})
    for work in (
        lambda: score_completions(tmp_path, [[1]], [[5] * 16], Computation(micro_batch_tokens=64)),
        lambda: TransformersEngine("eager", "float32", 100)(tmp_path, [[1, 5]], [2], Decoding(1, 0.0, 1.0, 15, 3)),
    ):
        with pytest.raises(UserError, match="sequences of up to 17 tokens are asked of a model that holds 16"):
            work()


@pytest.mark.parametrize("name", ["gpt-2", "phi-2", "mixtral"])
def test_stages_run_whatever_the_family(name, tiny_mistral, pairs_table, tmp_path):
    """SFT, reference and two methods by their programs: the first DPO loss is ln 2, and what they write loads whole."""
    folder = tmp_path / "base"
    tokenizer = AutoTokenizer.from_pretrained(tiny_mistral)
    build(folder, FAMILIES[name][1], **{**FAMILIES[name][2], "vocab_size": len(tokenizer)})
    copy_tokenizer(tiny_mistral, folder)
    record(folder)
    common = {"attention": "eager", "dtype": "float32", "training": Training(micro_batch_tokens=512)}
    outputs = {
        "log_out": tmp_path / "log.parquet",
        "speed_out": tmp_path / "speed.parquet",
        "progress_dir": tmp_path / "p",
    }
    stage(sft.main,
        model=folder, preferences=pairs_table, sft=Sft(batch_size=40, learning_rate=1e-3), max_tokens=256,
        model_out=tmp_path / "sft", **common, **outputs,
    )  # fmt: skip
    stage(reference.main,
        model=tmp_path / "sft", preferences=pairs_table, micro_batch_tokens=512, attention="eager", dtype="float32",
        max_prompt_tokens=64, max_tokens=256, out=tmp_path / "reference.parquet",
    )  # fmt: skip
    for method in ("dpo-b0.1", "dpo-pg"):
        stage(preference.main,
            model=tmp_path / "sft", reference=tmp_path / "reference.parquet", method=method,
            preference=Preference(batch_size=40, learning_rate=1e-4, warmup_steps=1), objectives=Objectives(),
            first_epoch=1, last_epoch=2, models_out=tmp_path / method, **common, **outputs,
        )  # fmt: skip
        rows = artifacts.read(tmp_path / "log.parquet", "train_log")
        assert rows.dpo_loss[0] == pytest.approx(math.log(2), abs=1e-5)
        assert rows.dpo_loss[1] < rows.dpo_loss[0]
        stock(tmp_path / method / "epoch-1")


@pytest.fixture
def llama(tmp_path):
    folder = tmp_path / "llama"
    build(folder, "llama")
    return folder


def rewrite(folder, change):
    tensors = load_file(folder / "model.safetensors")
    change(tensors)
    save_file(tensors, folder / "model.safetensors", {"format": "pt"})


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda t: t.pop("lm_head.weight"), "missing: lm_head.weight"),
        (lambda t: t.pop("model.layers.1.mlp.up_proj.weight"), "missing: model.layers.1.mlp.up_proj.weight"),
        (lambda t: t.update(extra=torch.zeros(3)), "unexpected: extra"),
        (lambda t: t.update({"model.norm.weight": torch.ones(7)}), r"cannot be loaded as a model|mismatched"),
    ],
)
def test_weights_that_are_not_the_models_are_refused(llama, change, said):
    rewrite(llama, change)
    with pytest.raises(UserError, match=said):
        load_model(llama, "eager")


def test_a_language_model_is_no_reward_model_and_the_reverse(llama, tmp_path):
    from transformers import AutoModelForSequenceClassification

    from diffinfo.models.folders import load_classifier

    with pytest.raises(UserError, match=r"missing: score\.weight; unexpected: lm_head\.weight"):
        load_classifier(llama, "eager")
    judge = tmp_path / "judge"
    AutoModelForSequenceClassification.from_pretrained(llama, num_labels=1).save_pretrained(judge)
    load_classifier(judge, "eager")
    with pytest.raises(UserError, match=r"missing: lm_head\.weight; unexpected: score\.weight"):
        load_model(judge, "eager")


def test_two_tensors_that_the_config_calls_one_stay_two(llama, tmp_path):
    config = json.loads((llama / "config.json").read_text())
    (llama / "config.json").write_text(json.dumps({**config, "tie_word_embeddings": True}))
    made = trainer(llama)
    step(made)
    out = tmp_path / "out"
    save_model(made.module, made.weights("float32"), out, llama)
    with torch.no_grad():
        now = made.scorer(SEQUENCES, STARTS).float()
        assert torch.allclose(own(stock(out)), now, rtol=0, atol=1e-4)
    assert json.loads((out / "config.json").read_text())["tie_word_embeddings"] is False


def test_a_save_that_lost_a_tensor_is_noticed(llama, tmp_path):
    made = trainer(llama)
    weights = made.weights("float32")
    del weights["model.norm.weight"]
    with pytest.raises(UserError, match=r"missing: model\.norm\.weight"):
        save_model(made.module, weights, tmp_path / "out", llama)


@pytest.mark.parametrize("damage", ["cut", "empty", "no config"])
def test_a_damaged_folder_is_one_sentence(llama, tmp_path, damage):
    folder = tmp_path / "damaged"
    shutil.copytree(llama, folder)
    if damage == "no config":
        (folder / "config.json").write_text("{")
    else:
        data = (folder / "model.safetensors").read_bytes()
        (folder / "model.safetensors").write_bytes(data[:1000] if damage == "cut" else b"")
    with pytest.raises(UserError, match="damaged"):
        load_model(folder, "eager")


def test_samples_carry_the_models_log_probabilities(family):
    """Prompts of different lengths, a cache where a model has one, rows leaving as they end: against plain forward passes."""
    folder, _ = family
    prompts, stops = [[1, 20, 30], [1, 60, 61], [1, 7], [5, 6, 7, 8, 9, 10, 11]], list(range(40))
    rows = TransformersEngine("eager", "float32", 100)(folder, prompts, stops, Decoding(4, 1.0, 1.0, 12, 3))
    model = stock(folder)
    seen = [(p + sample.token_ids, len(p), sample.logp) for p, row in zip(prompts, rows, strict=True) for sample in row]
    sequences, starts, logps = zip(*seen, strict=True)
    with torch.no_grad():
        assert own(model, sequences, starts).tolist() == pytest.approx(logps, abs=1e-4)


def test_what_does_not_pack_passes_alone(tmp_path):
    """Every rank then makes the same number of passes, whatever the lengths."""
    build(tmp_path, "phi")
    assert sorted(pack for pack, _ in trainer(tmp_path).rank_packs([9, 3, 20, 2])) == [[0], [1], [2], [3]]
