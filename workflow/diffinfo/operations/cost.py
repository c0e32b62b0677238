"""What one job of each rule needs and costs, before it runs: FLOP counts, and what assumptions.yaml assumes.

A trained token costs 6 N FLOPs (forward 2 N, backward 4 N; 8 N where layers are computed again), a token read or written
2 N, with N the parameters of the model. The rules' resources and the plan come from these same functions.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, replace

from diffinfo.cli import UserError
from diffinfo.config.types import Config
from diffinfo.operations.assumptions import ASSUMPTIONS, Assumptions, Data, Hardware
from diffinfo.tables.parts import fraction

# rules whose jobs make a table of another
TABLES = "ingest_pairs ingest_prompts pair_responses permuted_labels permuted_logps world_dataset did_pairs"
SHARES = {  # rules whose jobs make the parts of another's table
    "sample_share": "sample_responses",
    "score_share": "score_responses",
    "reference_share": "reference_logps",
    "did_share": "did_completions",
}
SMALL = 0.05  # billions of parameters: a smaller model is trained and run without a GPU


@dataclass(frozen=True)
class Cost:
    """What one job needs and costs. Memory and cpus are those of one node; disk is what it leaves in results/.

    ``gpus`` are those that the stage works with: a training's processes, the tensor-parallel engine's, one for any other.
    """

    hours: float  # from its start to its end
    gpus: int = 0  # on all nodes together
    nodes: int = 1
    cpus: int = 1
    memory_gb: float = 1.0
    disk_gb: float = 0.001
    model: str = ""  # whose FLOPs these are
    hardware: str = "cpu"  # row of the assumptions
    gpu_type: str = ""  # what SLURM calls the GPUs; empty: whichever
    gpu_gb: float = 0.0  # what each GPU holds at least: weights, and gradients and averages where it trains
    judge_calls: int = 0
    judge_dollars: float = 0.0


class Costs:
    """Costs of the jobs of a configuration.

    Args:
        config: the checked configuration.
        assumptions: see ``read_assumptions``.
        gpu_type: run all models on this type, whatever ``models.<name>.gpu`` says; empty: ask for no type.

    Raises:
        UserError: when a GPU type is of no row of the assumptions, or cannot be the name of one.
    """

    def __init__(self, config: Config, assumptions: Assumptions, gpu_type: str | None = None) -> None:
        self.config, self.assumed = config, assumptions
        kinds = {name: str(model.gpu if gpu_type is None else gpu_type) for name, model in config.models.items()}
        self.gpu_type = kinds
        self.row = {name: self._row(name, kind or config.models[name].gpu) for name, kind in kinds.items()}

    def _row(self, name: str, kind: str) -> str:
        """The row that a GPU type is of: the longest whose name is part of SLURM's, as a100 of nvidia_a100-sxm4-80gb."""
        asked = f"on which {name} is to run (models.{name}.gpu, or gpu_type in slurm/config.yaml)"
        if not re.fullmatch(r"[A-Za-z0-9_.-]+", kind):
            raise UserError(
                f"'{kind}', {asked}, is not the name of a GPU type; write one as scontrol show node prints it."
            )
        rows = [row for row in self.assumed.hardware if row != "cpu" and row.lower() in kind.lower()]
        if not rows:
            known = ", ".join(sorted(self.assumed.hardware))
            raise UserError(
                f"{ASSUMPTIONS}: hardware has no row '{kind}', nor one whose name is part of it, {asked}; known: {known}."
            )
        return max(rows, key=len)

    def job(self, rule: str, wildcards: Mapping[str, str]) -> Cost:
        """The cost of a job of ``rule``; what is not listed here takes seconds of one core."""
        c, w = self.config, wildcards
        model, dataset = w.get("model", ""), w.get("dataset", "")
        data = self.data(dataset) if dataset else Data(rows=0, prompt_tokens=1, response_tokens=1)
        sequence = data.prompt_tokens + data.response_tokens
        epochs, part, rule = self._epochs(w), 1.0, SHARES.get(rule, rule)
        jobs, items, rows_an_item = self._shared(rule, data.rows)
        if share := w.get("share"):
            part = fraction(share, items, rows_an_item)
        elif jobs > 1:  # it finds the parts made
            tokens = items * rows_an_item * sequence
            return Cost(hours=0.001 + tokens / 1e9, memory_gb=1 + _table_gb(tokens))
        match rule:
            case "world_model":
                steps = {c.sampling.model: c.world.teacher_steps, c.reward_model: c.world.reward_steps}
                return self._train(model, 128 * 30 * steps.get(model, c.world.base_steps), 1, processes=1)
            case "base_model":
                gigabytes = 2 * c.models[model].billions
                # what is to be trained is read in float32 and passes a few tokens forward (train.exactness)
                compared = 2 * gigabytes if any(row.model == model for row in c.grid) else 0
                hours = 0.05 + (gigabytes + compared) / 300
                return Cost(hours=hours, memory_gb=8 + compared, disk_gb=gigabytes, model=model)
            case "sft":
                return self._train(model, data.rows * sequence * c.sft.epochs, 1, averages=2)
            case "reference_logps":
                tokens = 2 * part * data.rows * sequence
                return self._infer(model, read=tokens, rows=tokens)
            case "heldout_reference":
                tokens = 2 * self._held_out(dataset) * sequence
                return self._infer(model, read=tokens, rows=tokens)
            case "heldout":
                return self._infer(model, read=2 * self._held_out(dataset) * sequence * epochs, models=epochs)
            case "preference":
                return self._train(model, 2 * data.rows * sequence * epochs, epochs, state=True)
            case "did_train":
                return self._train(model, 2 * min(c.did.prompts, data.rows) * sequence, 1)
            case "sample_responses" | "heldout_responses":
                prompts = self._held_out(dataset) if rule == "heldout_responses" else part * data.rows
                return self._write(c.sampling.model, data, prompts, c.sampling.n, c.sampling.max_tokens)
            case "magpie_prompts":
                return self._write(c.sampling.model, data, c.magpie.prompts, 1, c.magpie.max_tokens)
            case "score_responses" | "heldout_scores":
                prompts = self._held_out(dataset) if rule == "heldout_scores" else part * data.rows
                tokens = prompts * c.sampling.n * sequence
                return self._infer(c.reward_model, read=tokens, rows=tokens)
            case "candidates":
                prompts = min(c.candidates.prompts, data.rows)
                return self._write(model, data, prompts, c.candidates.n, c.candidates.max_tokens)
            case "candidate_scores":
                tokens = min(c.candidates.prompts, data.rows) * c.candidates.n * sequence
                return self._infer(c.reward_model, read=tokens, rows=tokens)
            case "candidate_rewards" | "rejected_responses":
                tokens = min(c.candidates.prompts, data.rows) * c.candidates.n * sequence
                return Cost(hours=0.001 + tokens / 1e9, memory_gb=1 + _table_gb(tokens), disk_gb=6e-9 * tokens)
            case "did_completions":
                return self._write(model, data, part * items, 1, c.entropy.max_tokens)
            case "entropy_samples" | "did_entropy":
                prompts = min(c.entropy.prompts, data.rows)
                measured = 2 * prompts * c.entropy.samples * sequence if rule == "did_entropy" else 0
                return self._write(model, data, prompts, c.entropy.samples, c.entropy.max_tokens, read=measured)
            case "update":
                return self._infer(
                    model, read=2 * min(c.entropy.prompts, data.rows) * c.entropy.samples * sequence, models=2
                )
            case "path_samples":
                prompts = min(c.update.prompts, c.entropy.prompts, data.rows)
                return self._write(model, data, prompts, c.entropy.samples, c.entropy.max_tokens, models=epochs)
            case "path":
                read = 2 * epochs * min(c.update.prompts, c.entropy.prompts, data.rows) * c.entropy.samples * sequence
                return self._infer(model, read=read, models=1 + epochs)
            case "smc":  # two models, each with a forward run and a conditional one a length, four times N particles
                tokens = max(c.smc.lengths) + sum(c.smc.lengths)
                cost = self._infer(model, read=8 * c.smc.prompts * c.smc.particles * tokens, models=2)
                return replace(cost, memory_gb=cost.memory_gb + 4.5 * c.models[model].billions, gpu_gb=2 * cost.gpu_gb)
            case "reward_completions":
                limit = c.expected_reward.max_tokens
                return self._write(model, data, self._test_prompts(dataset), 1, limit, models=epochs)
            case "reward_scores":
                read = self._test_prompts(dataset) * epochs * sequence
                return self._infer(c.reward_model, read=read, rows=read)
            case "answers":
                asked = self._questions("arena_hard") + self._questions("wildbench")
                size = data.model_copy(update={"response_tokens": self._answer_tokens()})
                return self._write(model, size, asked, 1, c.answers.max_tokens, models=epochs)
            case "qa":
                tokens = 8 * c.world.qa_items * 100 if c.qa.source == "world" else self.assumed.benchmarks.qa_tokens
                return self._infer(model, read=tokens * epochs, models=epochs)
            case "arena_hard_select":
                return self._judge(c.arena_hard.select_judge, 2 * self._questions("arena_hard") * epochs)
            case "arena_hard":
                judged = min(2, c.epochs)  # the best epoch, and at most as much again where the halves select others
                return self._judge(c.arena_hard.judge, 2 * self._questions("arena_hard") * judged)
            case "wildbench" | "wildbench_reward":
                section = c.wildbench.reward if c.wildbench.reward and rule == "wildbench_reward" else c.wildbench
                return self._judge(section.judge, self._questions("wildbench"))
            case _ if rule in TABLES.split():
                tokens = 2 * data.rows * sequence
                return Cost(hours=0.001 + data.rows / 3e6, memory_gb=1 + _table_gb(tokens), disk_gb=6e-9 * tokens)
            case "objectives" | "population" | "did_proxy" | "rejected_sampling" | "lengths":
                return Cost(hours=0.01, memory_gb=1.5)
            case "claims":  # 1.0 GB measured with the QA items of twenty cells of the paper, five epochs each
                return Cost(hours=0.003, memory_gb=2)
            case _:
                return Cost(hours=0.0005)

    def _shared(self, rule: str, rows: int) -> tuple[int, int, int]:
        """Of a table that several jobs may share: how many do, its items, and rows an item gives."""
        c = self.config
        match rule:
            case "sample_responses":
                return c.sampling.jobs, rows, c.sampling.n
            case "score_responses":
                return c.sampling.jobs, rows * c.sampling.n, 1
            case "reference_logps":
                return c.preference.reference_jobs, rows, 2
            case "did_completions":
                return c.did.jobs, min(c.did.prompts, rows), 1
        return 1, 0, 1

    def data(self, dataset: str) -> Data:
        """Size of a dataset: pairs, or prompts that are sampled here; a longer response is cut at the token limit."""
        derived, dataset, known = self.config.datasets[dataset], self.config.origin(dataset), self.assumed.datasets
        spec = self.config.datasets[dataset]
        size = known.get(str(spec.source)) or known.get(dataset) or known["default"]
        rows = {"world": self.config.world.pairs, "magpie": self.config.magpie.prompts}.get(str(spec.source), size.rows)
        rows = min(rows, self.config.candidates.prompts) if derived.rejected else rows
        return size.model_copy(update={"rows": min(rows, spec.limit or rows)})

    def _hardware(self, model: str) -> tuple[str, Hardware]:
        kind = "cpu" if self.config.models[model].billions < SMALL else self.row[model]
        return kind, self.assumed.hardware[kind]

    def _flops_per_hour(self, model: str, share: str, gpus: int, engine: str = "transformers") -> float:
        hardware = self._hardware(model)[1]
        eager = (
            self.config.models[model].attention == "eager" and engine == "transformers"
        )  # vLLM has kernels of its own
        kept = self.assumed.eager_share if eager else 1.0
        return 3600e12 * hardware.tflops * float(getattr(hardware, share)) * kept * max(1, gpus)

    def _train(
        self,
        model: str,
        tokens: float,
        epochs: int,
        state: bool = False,
        processes: int | None = None,
        averages: int = 1,
    ) -> Cost:
        """Train on so many tokens; a folder of weights per epoch, and master weights and optimiser state once.

        ``averages``: of gradients, that the optimiser keeps: one in RMSprop, two in Adam.
        """
        c, billions = self.config, self.config.models[model].billions
        kind, hardware = self._hardware(model)
        count = processes or c.preference.processes
        gpus = 0 if kind == "cpu" else count
        nodes = c.train_nodes if count > 1 else 1
        each = count // nodes
        flops = 6e9 if c.training.activation_checkpointing == "none" else 8e9
        hours = flops * billions * tokens / self._flops_per_hour(model, "train", gpus) + hardware.start_minutes / 60
        width = 4 if c.models[model].dtype == "float32" else 2
        return Cost(
            hours=hours,
            gpus=gpus,
            nodes=nodes,
            cpus=each * hardware.cpus,
            # every process reads the table, the first the float32 weights; a state passes through all processes' memory
            memory_gb=each * (self.assumed.libraries_gb + _table_gb(tokens / max(1, epochs))) + 12 * billions,
            disk_gb=epochs * width * billions + (8 * billions if state else 0),
            model=model,
            hardware=kind,
            gpu_type=self.gpu_type[model],
            gpu_gb=(2 + averages) * (2 if c.training.master_weights == "bfloat16" else 4) * billions / count,
        )

    def _infer(self, model: str, read: float = 0, rows: float = 0, models: int = 1,
               prompts: float = 0, written: float = 0, gpus: int = 0) -> Cost:  # fmt: skip
        """Read on one GPU, and generate on the engine's GPUs, with one model after the other.

        Args:
            model: whose FLOPs these are.
            read: tokens scored, or read by lm-eval.
            rows: tokens of the table that is left.
            models: how many are loaded.
            prompts, written: tokens that the engine reads, and writes.
            gpus: the engine's, 0 for those of the configuration.
        """
        billions = self.config.models[model].billions
        kind, hardware = self._hardware(model)
        gpus = 0 if kind == "cpu" else gpus or self.config.engine.tensor_parallel if written else 1
        hours = models * hardware.start_minutes / 60 + 2e9 * billions * read / self._flops_per_hour(model, "read", 1)
        engine = self.config.engine.name
        hours += 2e9 * billions * prompts / self._flops_per_hour(model, "read", gpus, engine)
        hours += 2e9 * billions * written / self._flops_per_hour(model, "write", gpus, engine)
        width = 4 if self.config.models[model].dtype == "float32" else 2
        return Cost(
            hours=hours,
            gpus=gpus,
            cpus=max(1, gpus) * hardware.cpus,
            memory_gb=self.assumed.libraries_gb + 4.5 * billions + _table_gb(rows),
            disk_gb=0.001 + 6e-9 * rows,
            model=model,
            hardware=kind,
            gpu_type=self.gpu_type[model],
            gpu_gb=width * billions / (1 if read else max(1, gpus)),
        )

    def _write(
        self, model: str, data: Data, prompts: float, n: int, max_tokens: int, models: int = 1, read: float = 0
    ) -> Cost:
        """Write ``n`` responses a prompt with each of ``models`` models, one after the other; then read, on one GPU."""
        response = min(data.response_tokens, max_tokens)
        written = models * prompts * n * response
        rows = models * prompts * n * (data.prompt_tokens + response)
        return self._infer(model, read, rows, models, models * prompts * data.prompt_tokens, written)

    def _judge(self, name: str, calls: int) -> Cost:
        judge = self.config.judges[name]
        call, price = self.assumed.judges.call, judge.charged or self.assumed.judges.price
        if judge.serve:
            gpus, read, written = judge.tensor_parallel, calls * call.read, calls * call.written
            return self._infer(judge.model, rows=written, prompts=read, written=written, gpus=gpus)
        if judge.runs_here:
            tokens = 2 * calls * (self._answer_tokens() + 20)
            return self._infer(judge.model, read=tokens, rows=tokens)
        if judge.kind == "world":
            return Cost(hours=0.0005)
        return Cost(
            hours=1 / 60 + calls * 10 / 3600 / judge.concurrency,  # a reply takes some ten seconds
            memory_gb=2,
            disk_gb=0.001 + 6e-6 * calls,
            judge_calls=calls,
            judge_dollars=calls * (call.read * price.read + call.written * price.written) / 1e6,
        )

    def _epochs(self, wildcards: Mapping[str, str]) -> int:
        """Epochs of a span; the reference is one model."""
        first, last = map(int, wildcards.get("span", "1-1").split("-"))
        return last - first + 1

    def _test_prompts(self, dataset: str) -> int:
        spec = self.config.datasets[self.config.origin(dataset)]
        return min(spec.test_prompts, self.config.world.test_prompts) if spec.source == "world" else spec.test_prompts

    def _held_out(self, dataset: str) -> int:
        """Held-out pairs that every epoch scores."""
        return min(self.config.preference.held_out, self._test_prompts(dataset))

    def _questions(self, benchmark: str) -> int:
        part, world = getattr(self.config, benchmark), self.config.world
        arena = benchmark == "arena_hard"
        source, made = (part.questions, world.arena_prompts) if arena else (part.tasks, world.wildbench_tasks)
        public = "arena_hard_v2" if arena and part.categories else benchmark
        count = made if source == "world" else getattr(self.assumed.benchmarks, public)
        return min(count, part.limit or count)

    def _answer_tokens(self) -> float:
        world = self.config.arena_hard.questions == "world"
        return self.assumed.datasets["world"].response_tokens if world else self.assumed.benchmarks.answer_tokens


def _table_gb(tokens: float) -> float:
    """Host memory of a table whose lists of token ids are Python integers."""
    return 40e-9 * tokens
