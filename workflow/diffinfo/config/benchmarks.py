"""The configuration of judges and benchmarks."""

from __future__ import annotations

import json
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, Field, StrictBool, model_validator

from diffinfo.config.values import Count, Line, Positive, Section, Share, Variable, matches

# Arena-Hard v0.1 and WildBench v2 where they are published
ARENA_HARD = "hf://datasets/lmarena-ai/arena-hard-auto/data/arena-hard-v0.1"
WILDBENCH = "hf://datasets/WildEval/WildBench-V2@refs/convert/parquet/v2/test/0000.parquet"


NotNegative = Annotated[float, Field(ge=0)]


class Price(Section):
    """Dollars a million tokens."""

    read: NotNegative = Field(description="Dollars a million tokens that the judge reads.")
    written: NotNegative = Field(description="Dollars a million tokens that it writes, its reasoning included.")
    cached: NotNegative | None = Field(None, description="The same for tokens read from its cache; null: as `read`.")


class Budget(Section):
    """What a judge may cost at most, in all runs together."""

    dollars: Positive | None = Field(None, description="Most dollars; null: no limit.")
    requests: Count | None = Field(None, description="Most requests; null: no limit.")


def _sendable(request: dict[str, Any]) -> dict[str, Any]:
    for key, value in request.items():
        try:
            json.dumps(value, allow_nan=False)
        except (TypeError, ValueError) as error:  # a date of YAML's, .nan
            raise ValueError(
                f"has no JSON for '{key}' = {value} ({error}); quote a text, and give a finite number"
            ) from None
    for key in ("model", "messages", "n", "stream"):
        if key in request:
            raise ValueError(f"must not have the key '{key}', which the workflow decides; remove it")
    return request


class Judge(Section):
    """Who compares or grades answers."""

    kind: Literal["reward-model", "openai", "world"] = Field(
        description="A reward model whose scores become verdicts, an OpenAI-compatible endpoint, or the micro world's reward."
    )
    model: Line = Field(
        description="A key of `models`, the endpoint's name of the model, or the reward: `multifaceted` or `correctness`."
    )
    serve: StrictBool = Field(
        False,
        description="Serve `model`, a key of `models`, on the job's own machine while it judges, in place of `base_url`.",
    )
    server: Literal["vllm", "transformers"] = Field(
        "vllm", description="The program that serves: `vllm serve` or `transformers serve`."
    )
    tensor_parallel: Count = Field(1, description="GPUs that serve (vllm).")
    base_url: Annotated[str, matches(r"https?://[!-~]+", "an http:// or https:// address")] = Field(
        "https://api.openai.com/v1", description="Address of the endpoint."
    )
    api_key_env: Variable = Field("OPENAI_API_KEY", description="Environment variable that holds the endpoint's key.")
    max_tokens: Count = Field(4096, description="Longest reply, tokens; a reasoning model's thoughts count.")
    preset: Literal["chat", "reasoning", "open"] = Field(
        "chat",
        description="The request's form. chat: `temperature` 0, `max_tokens`, JSON mode for grades; open: the same without "
        "JSON mode; reasoning: `max_completion_tokens`, neither temperature nor JSON mode.",
    )
    request: Annotated[dict[str, Any], AfterValidator(_sendable)] = Field(
        {},
        description="Merged over the request's body, such as `{reasoning_effort: low, temperature: null}`; null removes a key.",
    )
    concurrency: Count = Field(16, description="Requests in flight at once.")
    requests_per_minute: Count | None = Field(None, description="Most requests a minute of one job; null: no limit.")
    tokens_per_minute: Count | None = Field(None, description="Most tokens a minute of one job; null: no limit.")
    batch: StrictBool = Field(
        False,
        description="Send requests by the endpoint's Batch API: replies come within a day, and `price` is halved. A job that "
        "ends meanwhile finds its batch again.",
    )
    timeout: Positive = Field(600.0, description="Longest time for one reply, seconds.")
    retries: Count = Field(
        8,
        description="Further attempts after a server's fault, a lost connection or a time-out, 1 to 60 seconds apart.",
    )
    patience: Positive = Field(
        900.0,
        description="Stop when an endpoint has only failed, or limited the rate, for so many seconds (or two time-outs).",
    )
    max_unjudged: Share = Field(
        0.25, description="Fail when a larger share of judgments is missing: refused, cut or not readable."
    )
    price: Price | None = Field(
        None,
        description="`{read, written, cached}` in dollars a million tokens; null: not known, or said by the endpoint.",
    )
    budget: Budget | None = Field(
        None,
        description="`{dollars, requests}`: stop before either is crossed, in all runs together; jobs that run at the same "
        "time may cross it by what the others have in flight.",
    )

    @model_validator(mode="after")
    def _fits(self) -> Judge:
        if self.serve and (self.kind != "openai" or self.batch or self.price):
            raise ValueError("serve needs kind: openai, and has no batch and no price; remove what does not fit")
        limits = {
            "max_completion_tokens" if self.preset == "reasoning" else "max_tokens": self.max_tokens
        } | self.request
        if self.budget and self.budget.dollars and not self.price:
            raise ValueError("budget.dollars needs the judge's price; add price: {read: ..., written: ...}")
        if (
            self.budget
            and self.budget.dollars
            and not (limits.get("max_tokens") or limits.get("max_completion_tokens"))
        ):
            raise ValueError(
                "budget.dollars needs a limit of tokens; keep max_tokens or max_completion_tokens in request"
            )
        return self

    @property
    def charged(self) -> Price | None:
        """The price, by batch half of it."""
        if self.price is None or not self.batch:
            return self.price
        return Price(**{name: value and value / 2 for name, value in self.price})

    @property
    def runs_here(self) -> bool:
        """Whether it is a key of ``models`` that the job loads, not an endpoint that is paid."""
        return self.kind == "reward-model" or self.serve


class Category(Section):
    """A category of Arena-Hard v2's questions, as lmarena/arena-hard-auto at 196f6b8 judges it."""

    baseline: Line = Field(
        description="A .jsonl of the baseline's answers, or hf://datasets/...: for hard_prompt those of o3-mini-2025-01-31, "
        "for creative_writing of gemini-2.0-flash-001."
    )
    prompt: Line | None = Field(
        None,
        description="The judge's instructions, a .yaml with `system_prompt`; null: our wording, for creative_writing without "
        "an answer of the judge's own.",
    )


class ArenaHard(Section):
    """Arena-Hard v0.1, by the logic of lmarena/arena-hard-auto at 3071ef9."""

    questions: Line = Field(
        f"{ARENA_HARD}/question.jsonl", description="`world`, a .jsonl in the old or new schema, or hf://datasets/..."
    )
    baseline: Line = Field(
        f"{ARENA_HARD}/model_answer/gpt-4-0314.jsonl", description="`world`, or a .jsonl of the baseline's answers."
    )
    prompt: Line | None = Field(
        None,
        description="The judge's instructions: a copy of arena-hard-auto's `config/judge_config.yaml`, or its https:// "
        "address; null: our wording.",
    )
    categories: dict[Annotated[str, matches(r"\w+", "a name of letters, digits and _")], Category] | None = Field(
        None,
        min_length=1,
        description="Of Arena-Hard v2, in place of `baseline` and `prompt`: `{NAME: {baseline, prompt}}` of every category of "
        "the questions; null: they are of one kind.",
    )
    limit: Count | None = Field(None, description="Judge only the first questions; null: all.")
    select_judge: str = Field(description="The judge, a key of `judges`, that selects the best epoch.")
    judge: str = Field(description="The judge, a key of `judges`, whose verdicts are reported.")
    bootstrap: Count = Field(100, description="Bootstrap resamples of the battles, for the interval.")
    seed: int = Field(42, description="Seed of the resampling.")


class Anchors(Section):
    """Public models in WB-Elo's pool: their ratings are where the published ratings begin."""

    ratings: Line = Field(
        description="A .json of {model: {key: rating}}, such as WildBench's `leaderboard/data_dir/all_stat.json`."
    )
    key: Line = Field(
        "Arena Elo (hard-en) - latest", description="The rating's name there; models without one begin at 1000."
    )
    scores: Line = Field(
        description="A folder of score files, MODEL.json, such as WildBench's `eval_results/.../score.v2/eval=...`."
    )


class Reward(Section):
    """WB-Reward: each answer in one game against that of each baseline."""

    baselines: dict[Annotated[str, matches(r"[A-Za-z0-9][\w.-]*", "a name of letters, digits, _, . and -")], Line] = (
        Field(
            min_length=1,
            description="`{name: file}`: answers of public models, such as WildBench's `result_dirs/.../MODEL.json`, lists of "
            "`{session_id, output}`, or their hf:// addresses.",
        )
    )
    prompt: Line | None = Field(
        None,
        description="The judge's instructions: a copy of WildBench's `evaluation/eval_template.pairwise.v2.md`, or its "
        "https:// address; null: our wording.",
    )
    judge: str = Field(description="The judge that compares, a key of `judges`.")
    length_margin: Annotated[int, Field(ge=0)] | None = Field(
        None,
        description="A slight win by an answer that is longer by more characters is a tie (WildBench's K); null: no penalty.",
    )


class WildBench(Section):
    """WildBench v2, by the logic of allenai/WildBench at d6b8dca."""

    tasks: Line = Field(WILDBENCH, description="`world`, or a .jsonl of allenai/WildBench, or hf://datasets/...")
    prompt: Line | None = Field(
        None,
        description="The judge's instructions: a copy of WildBench's `evaluation/eval_template.score.v2.md`, or its https:// "
        "address; null: our wording.",
    )
    limit: Count | None = Field(None, description="Grade only the first tasks; null: all.")
    judge: str = Field(description="The judge that grades, a key of `judges`.")
    anchors: Anchors | None = Field(
        None,
        description="`{ratings, key, scores}`: published ratings as anchors of WB-Elo; null: the grid's models alone.",
    )
    reward: Reward | None = Field(
        None,
        description="`{baselines, judge, prompt, length_margin}`: WB-Reward against these baselines too; null: none.",
    )
    rounds: Count = Field(128, description="Passes of sequential Elo, each over its own permutation of the battles.")
    win_margin: Positive = Field(2.0, description="Difference of two scores that is a win; less is a tie.")
    length_margin: Count = Field(1500, description="Difference in characters above which a win becomes a tie.")
    seed: int = Field(42, description="Seed of the permutations.")


Benchmark = Literal["piqa", "siqa", "hellaswag", "arc_easy", "arc_challenge", "mmlu", "gsm8k", "boolq"]


class Qa(Section):
    """Eight benchmarks through lm-evaluation-harness."""

    source: Literal["world", "hub"] = Field("hub", description="The micro world's items, or the harness's own tasks.")
    data: dict[Benchmark, Line] = Field(
        {},
        description="`{piqa: path, ...}`: local copies of the tasks' data, a folder as the hub has it or the file of the split"
        " that is asked (docs/procedures.md); benchmarks without one come from the hub.",
    )
    limit: Count | None = Field(None, description="Items per task of lm-eval, of which MMLU has 57; null: all.")
    batch_size: Count = Field(64, description="Sequences scored at once.")
    system_prompt: str = Field("You are a helpful assistant.", description="Put in front of each user query.")
    gsm8k_shots: Annotated[int, Field(ge=0)] = Field(5, description="Worked examples before each GSM8k question.")
    max_gen_toks: Count = Field(256, description="Longest generated answer (GSM8k), tokens.")


class Answers(Section):
    """Greedy answers to Arena-Hard and WildBench."""

    max_tokens: Count = Field(4096, description="Longest answer, tokens.")
