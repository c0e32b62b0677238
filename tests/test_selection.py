"""The halves that select and report."""

import hashlib

import numpy as np
import pytest

from diffinfo.selection import halves


def test_halves_alternate_in_the_order_of_digests():
    names = [f"q{i}" for i in range(101)]
    half = halves(names)
    digests = {name: hashlib.sha256(name.encode()).hexdigest() for name in names}
    for name in names:
        assert half[name] == sum(digests[other] < digests[name] for other in names) % 2
    assert half.sum() == 50
    shuffled = np.random.default_rng(0).permutation(names)
    assert halves([*shuffled, *names]).equals(half)  # whatever the order, each once
    topics = [half[name] for name in names[:50]]  # neighbours fall into both
    assert np.mean(topics) == pytest.approx(0.5, abs=0.2)
    assert halves([]).empty
