"""The configuration of judges and benchmarks."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from diffinfo.config.values import Count, Line, Positive, Section, Variable, matches

# Arena-Hard v0.1 and WildBench v2 where they are published
ARENA_HARD = "hf://datasets/lmarena-ai/arena-hard-auto/data/arena-hard-v0.1"
WILDBENCH = "hf://datasets/WildEval/WildBench-V2@refs/convert/parquet/v2/test/0000.parquet"


class Judge(Section):
    """Who compares or grades answers."""

    kind: Literal["reward-model", "openai", "world"] = Field(
        description="A reward model whose scores become verdicts, an OpenAI-compatible endpoint, or the micro world's reward."
    )
    model: Line = Field(
        description="A key of `models`, the endpoint's name of the model, or the reward: `multifaceted` or `correctness`."
    )
    base_url: Annotated[str, matches(r"https?://[!-~]+", "an http:// or https:// address")] = Field(
        "https://api.openai.com/v1", description="Address of the endpoint."
    )
    api_key_env: Variable = Field("OPENAI_API_KEY", description="Environment variable that holds the endpoint's key.")
    max_tokens: Count = Field(4096, description="Longest reply, tokens.")
    concurrency: Count = Field(16, description="Requests in flight at once.")
    retries: Count = Field(6, description="Further attempts per request.")

    @property
    def runs_here(self) -> bool:
        """Whether it is a key of ``models`` that the job loads, not an endpoint that is paid."""
        return self.kind == "reward-model"


class ArenaHard(Section):
    """Arena-Hard v0.1, by the logic of lmarena/arena-hard-auto at 3071ef9."""

    questions: Line = Field(
        f"{ARENA_HARD}/question.jsonl", description="`world`, a .jsonl in the old or new schema, or hf://datasets/..."
    )
    baseline: Line = Field(
        f"{ARENA_HARD}/model_answer/gpt-4-0314.jsonl", description="`world`, or a .jsonl of the baseline's answers."
    )
    limit: Count | None = Field(None, description="Judge only the first questions; null: all.")
    select_judge: str = Field(description="The judge, a key of `judges`, that selects the best epoch.")
    judge: str = Field(description="The judge, a key of `judges`, whose verdicts are reported.")
    bootstrap: Count = Field(100, description="Bootstrap resamples of the battles, for the interval.")
    seed: int = Field(42, description="Seed of the resampling.")


class WildBench(Section):
    """WildBench v2, by the logic of allenai/WildBench at d6b8dca."""

    tasks: Line = Field(WILDBENCH, description="`world`, or a .jsonl of allenai/WildBench, or hf://datasets/...")
    limit: Count | None = Field(None, description="Grade only the first tasks; null: all.")
    judge: str = Field(description="The judge that grades, a key of `judges`.")
    rounds: Count = Field(128, description="Passes of sequential Elo, each over its own permutation of the battles.")
    win_margin: Positive = Field(2.0, description="Difference of two scores that is a win; less is a tie.")
    length_margin: Count = Field(1500, description="Difference in characters above which a win becomes a tie.")
    seed: int = Field(42, description="Seed of the permutations.")


class Qa(Section):
    """Eight benchmarks through lm-evaluation-harness."""

    source: Literal["world", "hub"] = Field("hub", description="The micro world's items, or the harness's own tasks.")
    limit: Count | None = Field(None, description="Items per benchmark; null: all.")
    batch_size: Count = Field(64, description="Sequences scored at once.")
    system_prompt: str = Field("You are a helpful assistant.", description="Put in front of each user query.")
    gsm8k_shots: Annotated[int, Field(ge=0)] = Field(5, description="Worked examples before each GSM8k question.")
    max_gen_toks: Count = Field(256, description="Longest generated answer (GSM8k), tokens.")


class Answers(Section):
    """Greedy answers to Arena-Hard and WildBench."""

    max_tokens: Count = Field(4096, description="Longest answer, tokens.")
