"""The world's models, trained from random weights: base models, the teacher and the reward model.

``python -m diffinfo.world.training`` writes one Hugging Face folder.
"""

from __future__ import annotations

import math
import random
import tempfile
from pathlib import Path
from typing import Any, Literal

import torch
from transformers import (
    Gemma2Config,
    Gemma2ForCausalLM,
    GenerationConfig,
    MistralConfig,
    MistralForCausalLM,
    MistralForSequenceClassification,
    PreTrainedTokenizerFast,
)

from diffinfo.chat import Chat
from diffinfo.cli import UserError, log, progress, run
from diffinfo.config.types import Training, World
from diffinfo.models.exactness import record
from diffinfo.models.folders import check_weights, copy_tokenizer, save_model, use_cpu_well
from diffinfo.reward import micro_batches
from diffinfo.tables.artifacts import whole_folder
from diffinfo.train.epochs import Run
from diffinfo.train.sft import sft_step
from diffinfo.train.speed import Speed
from diffinfo.train.trainer import Trainer
from diffinfo.world.language import SCALE, document, draw_prompt, exam, reward, write
from diffinfo.world.tokenizer import build

BATCH = 128
# Small initial weights keep such small models from ever attending to the topic of a prompt.
_SHAPE: dict[str, Any] = {"initializer_range": 0.05, "max_position_embeddings": 8192}


def configuration(style: str, tokenizer: PreTrainedTokenizerFast, hidden: int, layers: int) -> Any:
    """A Mistral or Gemma-2 configuration of the given width and depth."""
    common = {
        **_SHAPE,
        "vocab_size": len(tokenizer),
        "tie_word_embeddings": style
        == "gemma2",  # as the real ones do; vLLM does not support Gemma-2 with an untied head
        "hidden_size": hidden,
        "intermediate_size": 11 * hidden // 4,
        "num_hidden_layers": layers,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "head_dim": hidden // 4,
        "pad_token_id": tokenizer.pad_token_id,
        "bos_token_id": tokenizer.bos_token_id,
        "eos_token_id": tokenizer.eos_token_id,
    }
    if style == "gemma2":
        return Gemma2Config(**common, query_pre_attn_scalar=hidden // 4, sliding_window=4096)
    return MistralConfig(**common, sliding_window=None)


def start(folder: Path, style: str, hidden: int, layers: int, seed: int) -> None:
    """Write a randomly initialised model with its tokenizer."""
    torch.manual_seed(seed)
    tokenizer = build(style)
    config = configuration(style, tokenizer, hidden, layers)
    kind: Any = Gemma2ForCausalLM if style == "gemma2" else MistralForCausalLM
    kind(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    stops = [tokenizer.eos_token_id]
    if style == "gemma2":  # like Gemma's base models, whose generation config names <eos> alone
        stops = [tokenizer.convert_tokens_to_ids("<end_of_turn>"), *stops]
    GenerationConfig(
        bos_token_id=tokenizer.bos_token_id, eos_token_id=stops, pad_token_id=tokenizer.pad_token_id
    ).save_pretrained(folder)


def corpus(chat: Chat, rng: random.Random, texts: int, worst: float, best: float) -> list[list[int]]:
    """Token ids of raw documents and of dialogues by writers of quality ``worst`` to ``best``."""
    written = []
    for _ in range(texts):
        kind = rng.random()
        if kind < 0.35:
            written.append(f"{chat.tokenizer.bos_token}{document(rng)}")
            continue
        if kind < 0.45:
            question, answer = exam(rng)
        else:
            prompt = draw_prompt(rng)
            question, answer = prompt.text, write(rng, prompt, rng.uniform(worst, best))
        written.append(chat.dialogue_text([{"role": "user", "content": question}], answer))
    ids: list[list[int]] = chat.tokenizer(written, add_special_tokens=False)["input_ids"]  # at once: four times as fast
    return ids


def pretrain(
    out: Path, style: str, *, hidden: int, layers: int, texts: int, steps: int, quality: tuple[float, float], seed: int
) -> None:
    """Train a causal language model on the language's raw text."""
    with tempfile.TemporaryDirectory() as temporary, whole_folder(out) as folder:
        start(Path(temporary), style, hidden, layers, seed)
        chat = Chat(Path(temporary))
        sequences = corpus(chat, random.Random(f"{seed} corpus {style} {quality}"), min(texts, steps * BATCH), *quality)
        trainer = Trainer(
            Path(temporary), attention="eager" if style == "gemma2" else "sdpa", dtype="float32",
            optimizer=torch.optim.Adam, learning_rate=3e-3, warmup_steps=40, decay_until=steps,
            max_grad_norm=1.0, training=Training(micro_batch_tokens=4096),
        )  # fmt: skip
        speed = Speed(trainer)
        rows = Run(
            trainer, f"pre-training {out.name}", len(sequences), BATCH, seed, 1, -(-steps * BATCH // len(sequences)),
            sft_step(trainer, speed, sequences), Path(temporary) / "states", math.inf, speed, limit=steps,
        ).train()  # fmt: skip
        log.info("last loss %.3f nats a token", rows[-1]["loss"])
        save_model(trainer.module, trainer.weights("float32"), folder, Path(temporary))
        record(folder)


def train_reward(out: Path, backbone: Path, world: World) -> None:
    """Fit a sequence classifier, begun from a language model, to the multifaceted reward of what all writers write."""
    use_cpu_well()
    torch.manual_seed(world.seed + 7)
    rng = random.Random(f"{world.seed} reward")
    with whole_folder(out) as folder:
        chat = Chat(backbone)
        model: Any = MistralForSequenceClassification.from_pretrained(backbone, num_labels=1, dtype=torch.float32)
        optimizer = torch.optim.Adam(model.parameters())
        schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 3e-3, total_steps=world.reward_steps)
        pad = int(chat.tokenizer.pad_token_id)
        error = 0.0
        for _ in progress(range(world.reward_steps), "training the reward model"):
            prompts = [draw_prompt(rng) for _ in range(BATCH)]
            answers = [_damage(rng, write(rng, prompt, rng.random())) for prompt in prompts]
            targets = SCALE * torch.tensor([reward(p, a) for p, a in zip(prompts, answers, strict=True)])
            sequences = [
                chat.conversation_ids([{"role": "user", "content": p.text}, {"role": "assistant", "content": a}])
                for p, a in zip(prompts, answers, strict=True)
            ]
            optimizer.zero_grad()
            error = 0.0
            for group in micro_batches([len(s) for s in sequences], 4096):
                longest = max(len(sequences[i]) for i in group)
                ids = torch.full((len(group), longest), pad)
                for row, i in enumerate(group):
                    ids[row, : len(sequences[i])] = torch.tensor(sequences[i])
                mask = torch.ne(ids, pad).long()
                value = model(input_ids=ids, attention_mask=mask).logits[:, 0]
                loss = (value - targets[group]).square().sum() / BATCH / SCALE**2
                loss.backward()
                error += float(loss.detach())
            if not torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0).isfinite():
                raise UserError(f"{out}: the reward model's gradient is not finite; change world.seed or world.hidden.")
            optimizer.step()
            schedule.step()
        log.info("last unexplained share of the variance %.2f", error * SCALE**2 / float(targets.var()))
        model.save_pretrained(folder)
        copy_tokenizer(backbone, folder)
        check_weights(folder)


def _damage(rng: random.Random, answer: str) -> str:
    """Sometimes drop, double or swap words: policies make errors that writers do not."""
    words = answer.split()
    if rng.random() < 0.4:
        for _ in range(rng.randint(1, 4)):
            at = rng.randrange(len(words))
            match rng.randrange(3):
                case 0 if len(words) > 2:
                    del words[at]
                case 1:
                    words.insert(at, words[at])
                case _:
                    other = rng.randrange(len(words))
                    words[at], words[other] = words[other], words[at]
    return " ".join(words)


def main(
    *,
    architecture: Literal["mistral", "gemma2", "reward"],
    teacher: bool = False,
    backbone: Path | None = None,
    world: World,
    out: Path,
) -> None:
    """Make one of the world's models.

    Args:
        architecture: mistral, gemma2 (base models or teacher), or reward.
        teacher: it reads better writers only: it plays gemma-2-27b-it.
        backbone: the language model that a reward model begins from.
        world: the ``world`` part of the configuration.
        out: folder to write.
    """
    if architecture == "reward":
        if backbone is None:
            raise UserError("a reward model begins from a language model: --backbone is missing.")
        train_reward(out, backbone, world)
        return
    pretrain(
        out,
        architecture,
        hidden=world.hidden,
        layers=world.layers,
        texts=world.corpus,
        steps=world.teacher_steps if teacher else world.base_steps,
        quality=(0.5, 1.0) if teacher else (0.0, 0.7),
        seed=world.seed + teacher,
    )


if __name__ == "__main__":
    run(main)
