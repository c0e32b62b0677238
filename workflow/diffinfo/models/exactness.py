"""Whether our log-probabilities of a model are its own: compared before they are used, once per model and version.

A few short sequences of different lengths, packed together, against the model's own forward pass, one at a time. Where
they agree, training and scoring pack; where they do not (a head or an attention that is more than ``train.logprobs``
supports, states that leak from one sequence into the next), each sequence passes alone through the model's own forward.
Likewise for prompts that are padded to one length to be continued together; where that differs, equal lengths share a batch.
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
from diffinfo.models.decoding import Reader
from diffinfo.models.folders import SCORING, load_model, read_config
from diffinfo.models.logprobs import Scorer

LENGTHS = (9, 3, 20, 2, 14)
TOLERANCE = 2e-3  # nats a sequence: float32 rounds to 1e-5, and a fault that matters is larger by far
# Limits beyond which a model computes something else; a second comparison lowers them to what short sequences reach.
LIMITS = ("sliding_window", "attention_chunk_size", "window_size")
VERSIONS = {"diffinfo": __version__, "transformers": transformers.__version__}


def load_scorer(folder: Path, attention: str, dtype: str = "float32", device: str | None = None) -> Scorer:
    """A model folder as a function from sequences to log-probabilities, in evaluation mode: nothing is dropped at random.

    ``device``: see ``load_model``.

    Raises:
        UserError: for a model that is refused by ``compare``.
    """
    packed = packs_exactly(folder)
    ours = packed and not attention.startswith("flash")
    model = load_model(folder, "eager" if ours else attention, dtype, device=device)
    if ours:
        model.set_attn_implementation(FLEX if torch.cuda.is_available() else PACKED)
    dropped = {key: value for key, value in model.config.to_dict().items() if "drop" in key and value}
    if dropped:
        log.warning("%s: %s: nothing is dropped here, for policy and reference must be one function", folder, dropped)
    return Scorer(model, packed).eval()


def packs_exactly(folder: Path) -> bool:
    """Whether sequences may be packed for this model: as its folder records, else as ``compare`` finds."""
    return bool(_found(folder)["packed"])


def pads_exactly(folder: Path) -> bool:
    """Whether prompts may be padded on the left for this model, with a cache: likewise."""
    return bool(_found(folder)["padded"])


def _found(folder: Path) -> dict[str, Any]:
    try:
        known: dict[str, Any] = json.loads((folder / SCORING).read_text())
        if known["versions"] == VERSIONS and {"packed", "padded"} <= set(known):
            return known
    except (OSError, ValueError, KeyError, TypeError):
        pass
    return compare(folder)


def record(folder: Path) -> None:
    """Compare, and keep what was found in the folder."""
    found = compare(folder)
    how = "packed together" if found["packed"] else "one at a time, which is slower: packed, this model would differ"
    log.info("%s: sequences are scored %s", folder, how)
    if not found["padded"]:
        log.info("%s: only prompts of one length are continued together: padded, this model would differ", folder)
    (folder / SCORING).write_text(json.dumps({**found, "versions": VERSIONS}, indent=2) + "\n")


@torch.no_grad()
def compare(folder: Path) -> dict[str, Any]:
    """Whether packing and padding are exact for a model, and how far packing is from its own log-probabilities at most.

    In float32; the difference is in nats, None where the model cannot be packed at all.

    Raises:
        UserError: when the model's own values are not finite, or depend on chance or on what follows a token: none of
            these is a causal language model's log pi.
    """
    packed: list[float | None] = []
    padded: list[float | None] = []
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
        for kind, differences, values in (("padded", padded, _padded), ("packed", packed, _packed)):
            try:
                differences.append(values(model, sequences, own))
            except Exception as error:  # whatever a family lacks that this needs
                log.info("%s cannot be %s: %s", folder, kind, " ".join(repr(error).split())[:200])
                differences.append(None)
    exact = [all(x is not None and x <= TOLERANCE for x in found) for found in (packed, padded)]
    largest = None if None in packed else max(x for x in packed if x is not None)
    packs = exact[0] and not _by_length(model.config)
    return {"packed": packs, "difference": largest, "padded": exact[1] and not _by_length(model.config)}


def _packed(model: Any, sequences: list[list[int]], own: list[Tensor]) -> float:
    """How far sequences scored together are from the model's own log-probabilities at most, nats."""
    model.set_attn_implementation(PACKED)
    if model.config._attn_implementation != PACKED:
        raise NotImplementedError("its attention cannot be replaced")
    together = Scorer(model, packed=True)(sequences, [1] * len(sequences))
    return max(abs(float(value - expected.sum())) for value, expected in zip(together, own, strict=True))


def _padded(model: Any, sequences: list[list[int]], own: list[Tensor]) -> float:
    """The same for the last two tokens of sequences that are read together up to there, and for half of them further."""
    long = [i for i, sequence in enumerate(sequences) if len(sequence) > 2]
    ends = torch.tensor([sequences[i][-2:] for i in long])
    expected = torch.stack([own[i][-2:] for i in long])
    reader = Reader(model, [sequences[i][:-2] for i in long])
    first = reader.start().gather(1, ends[:, :1])[:, 0]
    kept = torch.arange(0, len(long), 2)
    reader.take(kept)
    second = reader.step(ends[kept, 0]).gather(1, ends[kept, 1:])[:, 0]
    return float(torch.cat([first - expected[:, 0], second - expected[kept, 1]]).abs().max())


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
