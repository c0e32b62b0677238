"""What is estimated of policies: entropies, H(q) with a proxy and without, updates and rewards."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from diffinfo.config.values import Count, Positive, Section, Share


class Entropy(Section):
    """Entropy of a policy, H = -mean log pi(y) in nats (Table 1, Appendix K)."""

    prompts: Count = Field(1000, description="Prompts of the training set.")
    samples: Annotated[int, Field(ge=2)] = Field(4, description="Samples per prompt, at temperature 1.")
    max_tokens: Count = Field(4096, description="Longest sample, tokens.")
    seed: int = Field(42, description="Seed of the prompts' choice and of the sampling.")


class Did(Section):
    """The DID proxy, trained with r = log pi on y_w from pi and y_l from pi_ref (Table 2, Appendix K)."""

    prompts: Count = Field(40_000, description="Training prompts; the entropy is measured on others.")
    decode: Literal["greedy", "sample"] = Field(
        "greedy",
        description="How y_w and y_l are decoded: greedy is the paper's recipe. Its theory asks for sample, as the measure"
        " did_sampled always does.",
    )
    batch_size: Count = Field(64, description="Pairs per optimiser step.")
    learning_rate: Positive = Field(1e-6, description="RMSprop's learning rate, constant after the warm-up.")
    warmup_steps: Annotated[int, Field(ge=0)] = Field(150, description="Steps with a linear warm-up.")
    dagger_below: Share = Field(0.5, description="A cell whose beta'-accuracy is lower is marked with a dagger.")
    jobs: Count = Field(
        1,
        description="Jobs that share the decoding of a policy's responses, in parts of 20,000; changes no result and"
        " reruns nothing.",
    )


class Smc(Section):
    """H(q_T) of the DID by sequential Monte Carlo on both models (ours, beside Table 2)."""

    prompts: Count = Field(8, description="Prompts, of those that the DID proxy has not seen.")
    particles: Count = Field(256, description="Particles N of each of four runs a prompt; pooled they are 4 N.")
    lengths: list[Count] = Field([16, 64, 256], min_length=1, description="Limits T, in tokens.")
    gap: Share = Field(0.01, description="Certified: log Z_T's interval is no wider than this share of ln(strings).")
    floor: Share = Field(0.0, description="Tokens with a lower probability under pi_ref are left out; 0: none.")
    seed: int = Field(42, description="Seed of the prompts' choice and of the particles.")


class Update(Section):
    """Size and direction of updates (ours, beside Table 2), which are measured on the samples of `entropy`."""

    prompts: Count = Field(
        100, description="Every epoch is measured on that many of their prompts, the last also on all."
    )


class ExpectedReward(Section):
    """Reward of held-out completions at each epoch (Figure 6)."""

    decode: Literal["greedy", "sample"] = Field("sample", description="sample: an expectation; greedy: one answer.")
    max_tokens: Count = Field(4096, description="Longest completion, tokens.")
    seed: int = Field(42, description="Seed of the sampling.")
