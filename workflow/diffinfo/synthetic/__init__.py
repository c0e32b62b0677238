"""The laboratory: the paper's synthetic experiments and theorems on spaces small enough for exact answers.

In reading order: ``distributions`` (divergences, the DID, Eq. 1), ``losses`` (the objectives and their gradients over
all pairs of classes), ``categorical`` (Figures 1 and 7 as one batched program), ``population`` (the same objectives
without sampling noise), ``checks``, ``theorems``, ``margins`` and ``claim`` (every statement as a check that can fail),
``ensemble`` and ``enumerable`` (tiny language models whose every response can be listed), ``did_proxy`` (Appendix K
against the exact value) and ``rejected_sampling`` (Eq. 1 against common practice).
"""
