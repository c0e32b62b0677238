"""Settings of what datasets are made of here: responses, prompts and candidates that a model writes."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from diffinfo.config.values import Count, Positive, Section


class Sampling(Section):
    """Candidate responses for datasets whose format is "prompts" (J.2)."""

    model: str = Field(description="The model that writes the responses, a key of `models`.")
    n: Annotated[int, Field(ge=2)] = Field(5, description="Responses per prompt.")
    temperature: Positive = Field(0.9, description="Sampling temperature.")
    top_p: Annotated[float, Field(gt=0, le=1)] = Field(1.0, description="Nucleus sampling; 1: off.")
    max_tokens: Count = Field(4096, description="Longest response, tokens.")
    seed: int = Field(42, description="Seed of the sampling.")
    jobs: Count = Field(
        1,
        description="Jobs that share the sampling of a dataset's responses, and as many their scoring, in parts of 20,000"
        " rows; changes no result and reruns nothing.",
    )


class Magpie(Section):
    """Prompts of datasets whose source is `magpie`: `sampling.model` writes them, given its pre-query template alone."""

    prompts: Count = Field(200_000, description="Prompts that are drawn, before those that the filters leave out.")
    temperature: Positive = Field(1.0, description="Sampling temperature.")
    top_p: Annotated[float, Field(gt=0, le=1)] = Field(1.0, description="Nucleus sampling; 1: off.")
    max_tokens: Count = Field(512, description="Longest prompt, tokens; one that is cut is left out.")
    lines: Literal["first", "all"] = Field(
        "first", description="first: a prompt ends with its first line, as the authors'."
    )
    min_words: Count = Field(3, description="Shorter prompts are left out.")
    similarity: Annotated[float, Field(gt=0, le=1)] = Field(
        0.8, description="Prompts that share so much with an earlier one are left out; 1: equal ones alone."
    )
    min_reward: float | None = Field(
        None,
        description="Prompts whose best response scores less are left out; the authors' is -10 for theirs. null: none.",
    )
    seed: int = Field(42, description="Seed of the sampling.")


class Candidates(Section):
    """Samples of pi_ref at temperature 1, of which datasets with `rejected` are made (Equation 1; ours)."""

    n: Annotated[int, Field(ge=3)] = Field(
        16, description="Samples per prompt: one is y_w, and y_l is one of the others."
    )
    prompts: Count = Field(10_000, description="Prompts of the training set.")
    max_tokens: Count = Field(4096, description="Longest sample, tokens.")
    seed: int = Field(42, description="Seed of the prompts' choice, of the samples and of the choice among them.")
