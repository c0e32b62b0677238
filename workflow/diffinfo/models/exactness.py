"""Whether our log-probabilities of a model are its own: compared before they are used, once per model and version.

A few short sequences of different lengths, packed together, against the model's own forward pass, one at a time. Where
they agree, training and scoring pack; where they do not (a head or an attention that is more than ``train.logprobs``
supports, states that leak from one sequence into the next), each sequence passes alone through the model's own forward.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
import transformers
from torch import Tensor

from diffinfo import __version__
from diffinfo.cli import UserError, log
from diffinfo.models.attention import FLEX, PACKED
from diffinfo.models.folders import SCORING, load_model, read_config
from diffinfo.models.logprobs import Scorer

LENGTHS = (9, 3, 20, 2, 14)
TOLERANCE = 2e-3  # nats a sequence: float32 rounds to 1e-5, and a fault that matters is larger by far
# Limits beyond which a model computes something else; a second comparison lowers them to what short sequences reach.
LIMITS = ("sliding_window", "attention_chunk_size", "window_size")
VERSIONS = {"diffinfo": __version__, "transformers": transformers.__version__}


def load_scorer(folder: Path, attention: str, dtype: str = "float32") -> Scorer:
    """A model folder as a function from sequences to log-probabilities, in evaluation mode: nothing is dropped at random.

    Raises:
        UserError: for a model that is refused by ``compare``.
    """
    packed = packs_exactly(folder)
    ours = packed and not attention.startswith("flash")
    model = load_model(folder, "eager" if ours else attention, dtype)
    if ours:
        model.set_attn_implementation(FLEX if torch.cuda.is_available() else PACKED)
    dropped = {key: value for key, value in model.config.to_dict().items() if "drop" in key and value}
    if dropped:
        log.warning("%s: %s: nothing is dropped here, for policy and reference must be one function", folder, dropped)
    return Scorer(model, packed).eval()


def packs_exactly(folder: Path) -> bool:
    """Whether sequences may be packed for this model: as its folder records, else as ``compare`` finds."""
    try:
        known = json.loads((folder / SCORING).read_text())
        if known["versions"] == VERSIONS:
            return bool(known["packed"])
    except (OSError, ValueError, KeyError, TypeError):
        pass
    return bool(compare(folder)["packed"])


def record(folder: Path) -> None:
    """Compare, and keep what was found in the folder."""
    found = compare(folder)
    how = "packed together" if found["packed"] else "one at a time, which is slower: packed, this model would differ"
    log.info("%s: sequences are scored %s", folder, how)
    (folder / SCORING).write_text(json.dumps({**found, "versions": VERSIONS}, indent=2) + "\n")


@torch.no_grad()
def compare(folder: Path) -> dict[str, Any]:
    """Whether packing is exact for a model, and the largest difference from its own log-probabilities (float32), in nats.

    Raises:
        UserError: when the model's own values are not finite, or depend on chance or on what follows a token: none of
            these is a causal language model's log pi.
    """
    differences = []
    for config in _variants(folder):
        model = load_model(folder, "eager", config=config).eval()
        text = model.config.get_text_config()
        longest = (getattr(text, "max_position_embeddings", None) or 100) - 1
        random = torch.Generator().manual_seed(1)
        sequences = [
            torch.randint(3, text.vocab_size, (min(length, longest),), generator=random).tolist() for length in LENGTHS
        ]
        own = [_own(model, sequence) for sequence in sequences]
        for sequence, expected in zip(sequences, own, strict=True):
            longer = _own(model, [*sequence, sequence[0]])[:-1]
            if not expected.isfinite().all() or (longer - expected).abs().max() > TOLERANCE:
                raise UserError(
                    f"{folder}: the log-probabilities of this {type(model).__name__} are not finite, or depend on chance or"
                    " on what follows a token: it is not a causal language model that can be scored and trained."
                )
        try:
            model.set_attn_implementation(PACKED)
            if model.config._attn_implementation != PACKED:
                raise NotImplementedError("its attention cannot be replaced")
            packed = Scorer(model, packed=True)(sequences, [1] * len(sequences))
        except Exception as error:  # whatever a family lacks that packing needs
            log.info("%s cannot be packed: %s", folder, " ".join(repr(error).split())[:200])
            return {"packed": False, "difference": None}
        differences += [abs(float(value - expected.sum())) for value, expected in zip(packed, own, strict=True)]
    largest = max(differences)
    return {"packed": largest <= TOLERANCE and not _by_length(model.config), "difference": largest}


def _own(model: Any, sequence: list[int]) -> Tensor:
    """log pi of each token but the first [tokens - 1], by the model's own forward."""
    ids = torch.tensor([sequence])
    try:
        logits = model(input_ids=ids, use_cache=False).logits[0, :-1]
    except Exception as error:
        said = " ".join(repr(error).split())[:300]
        raise UserError(
            f"{model.name_or_path}: the model's own forward pass fails ({said}): it cannot be used."
        ) from error
    logp: Tensor = logits.double().log_softmax(-1).gather(1, ids[0, 1:, None])
    return logp[:, 0]


def _variants(folder: Path) -> list[Any]:
    """The model as it is (None) and, where it has such limits, with limits that sequences this short exceed."""
    config = read_config(folder)
    found = [name for name in LIMITS if getattr(config.get_text_config(), name, None)]
    for name in found:
        setattr(config.get_text_config(), name, 4)
    return [None, config] if found else [None]


def _by_length(config: Any) -> bool:
    """Whether the model's rotary tables depend on the longest sequence of a pass, which a pack's neighbours share."""
    rope = getattr(config.get_text_config(), "rope_parameters", None) or {}
    kinds = [rope, *(value for value in rope.values() if isinstance(value, dict))]  # one, or one a kind of layer
    return any(kind.get("rope_type") in ("longrope", "dynamic") for kind in kinds)
