"""Tables on disk: declared, versioned Parquet schemas; atomic writes; provenance in the footer; checked reads.

``python -m diffinfo.artifacts show FILE`` prints a table's schema, provenance and head.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from diffinfo import __version__
from diffinfo.cli import UserError, run

_FOOTER = b"diffinfo"
_TEXT, _INT, _REAL, _FLAG = pa.string(), pa.int64(), pa.float64(), pa.bool_()
_IDS = pa.list_(pa.int32())
_MESSAGES = pa.list_(pa.struct([("role", _TEXT), ("content", _TEXT)]))


def _schema(**columns: Any) -> pa.Schema:
    """Columns are required unless wrapped in a tuple: ``(type, "optional")`` may hold nulls."""
    return pa.schema(
        [
            pa.field(name, *((kind[0],) if isinstance(kind, tuple) else (kind,)), nullable=isinstance(kind, tuple))
            for name, kind in columns.items()
        ]
    )


def _maybe(kind: pa.DataType) -> tuple[pa.DataType, str]:
    return (kind, "optional")


def _of(kind: Any, names: str) -> dict[str, Any]:
    return dict.fromkeys(names.split(), kind)


_CELL = _of(_TEXT, "model dataset method")

# name: (version, schema). Raise the version whenever columns or their meaning change.
SCHEMAS: dict[str, tuple[int, pa.Schema]] = {
    # data -----------------------------------------------------------------------------------------------------
    "prompts": (1, _schema(prompt_id=_TEXT, messages=_MESSAGES, source=_TEXT)),
    "quarantine": (1, _schema(source=_TEXT, row=_INT, prompt_id=_maybe(_TEXT), reason=_TEXT, excerpt=_TEXT)),
    # one sampled or decoded response; logp is the sum over completion tokens of the untruncated T=1 model, in nats
    "completions": (
        1,
        _schema(
            benchmark=_TEXT,  # "" outside the benchmarks
            epoch=_INT,  # of the policy that wrote it; 0 for a policy without epochs (reference, teacher)
            prompt_id=_TEXT,
            sample=_INT,
            messages=_MESSAGES,
            prompt_token_ids=_IDS,
            completion=_TEXT,
            token_ids=_IDS,  # the end-of-turn token included when finish_reason is "stop"
            logp=_REAL,
            finish_reason=_TEXT,  # "stop" or "length"
        ),
    ),
    "scores": (1, _schema(epoch=_INT, prompt_id=_TEXT, sample=_INT, score=_REAL, tokens=_INT)),
    "preferences": (
        1,
        _schema(
            prompt_id=_TEXT,
            messages=_MESSAGES,
            chosen=_TEXT,
            rejected=_TEXT,
            chosen_score=_maybe(_REAL),
            rejected_score=_maybe(_REAL),
            chosen_truncated=_FLAG,
            rejected_truncated=_FLAG,
        ),
    ),
    # training -------------------------------------------------------------------------------------------------
    # log-probabilities in nats, summed over completion tokens
    "reference_logps": (
        1,
        _schema(
            prompt_id=_TEXT,
            prompt_ids=_IDS,
            chosen_ids=_IDS,
            rejected_ids=_IDS,
            chosen_logp=_maybe(_REAL),  # null where only methods without a reference read it (the DID proxy)
            rejected_logp=_maybe(_REAL),
        ),
    ),
    "train_log": (
        1,
        _schema(
            step=_INT,
            epoch=_INT,
            loss=_REAL,
            dpo_loss=_maybe(_REAL),  # at beta = 0.1 whatever the method (Figure 9)
            logp_chosen=_maybe(_REAL),
            logp_rejected=_maybe(_REAL),
            reference_logp_chosen=_maybe(_REAL),
            reference_logp_rejected=_maybe(_REAL),
            margin=_maybe(_REAL),
            grad_norm=_REAL,
            dot=_maybe(_REAL),  # DPO-PG: g_w . g_l
            norm_chosen=_maybe(_REAL),
            norm_rejected=_maybe(_REAL),
            cosine=_maybe(_REAL),
            learning_rate=_REAL,
            tokens=_INT,
        ),
    ),
    # measurements ---------------------------------------------------------------------------------------------
    "entropy": (
        1,
        _schema(
            entropy=_REAL,  # nats
            stderr=_REAL,  # over prompts
            prompts=_INT,
            samples=_INT,
            truncated=_REAL,  # share cut by max_tokens (biases the entropy down)
            mean_tokens=_REAL,
            beta_accuracy=_maybe(_REAL),  # K.1; only for DID proxies
        ),
    ),
    "judgments": (
        1,
        _schema(
            benchmark=_TEXT,
            epoch=_INT,
            prompt_id=_TEXT,
            game=_INT,  # Arena-Hard: 1 = baseline is A, 2 = answer is A; WildBench: 1
            judge=_TEXT,
            verdict=_maybe(_TEXT),  # Arena-Hard label, null when the judge gave none or two
            score=_maybe(_REAL),  # WildBench 1..10
            tokens=_INT,  # length of the judged answer, without the end-of-turn token
            chars=_INT,  # the same in characters, stripped: WildBench's length rule
            truncated=_FLAG,
            reply=_TEXT,
        ),
    ),
    # Arena-Hard questions with the baseline's answer; WildBench tasks with their checklist
    "benchmark": (
        1,
        _schema(
            benchmark=_TEXT,
            prompt_id=_TEXT,
            messages=_MESSAGES,
            tag=_TEXT,  # Arena-Hard: cluster; WildBench: primary tag and secondary ones, joined by "; "
            checklist=pa.list_(_TEXT),
            baseline=_maybe(_TEXT),  # WildBench: the reference answer, which no endpoint sees
        ),
    ),
    "winrates": (
        1,
        _schema(
            epoch=_INT,
            win_rate=_REAL,
            low=_REAL,
            high=_REAL,
            games=_INT,
            unscored=_INT,
            mean_tokens=_REAL,
            baseline_mean_tokens=_REAL,
        ),
    ),
    "qa": (
        1,
        _schema(epoch=_INT, benchmark=_TEXT, task=_TEXT, metric=_TEXT, value=_REAL, stderr=_maybe(_REAL), n=_INT),
    ),
    # the laboratory -------------------------------------------------------------------------------------------
    "objectives": (
        1,
        _schema(objective=_TEXT, hyperparameters=_TEXT, tau=_REAL, seed=_INT, step=_INT, js_target=_REAL, js_did=_REAL),
    ),
    "population": (
        1,
        _schema(
            objective=_TEXT,
            hyperparameters=_TEXT,
            tau=_REAL,
            seed=_INT,
            js_target=_REAL,
            js_did=_REAL,
            gradient=_REAL,  # largest entry at the optimum: how exactly it was found
            # training with the same hyper-parameters, only in the report's table
            js_minimum=_maybe(_REAL),
            minimum_step=_maybe(_INT),
            js_final=_maybe(_REAL),
        ),
    ),
    "theorems": (
        1,
        _schema(
            statement=_TEXT,
            quantity=_TEXT,
            value=_REAL,
            tolerance=_REAL,
            holds=_FLAG,
            broken=_maybe(_TEXT),  # how the statement's condition is broken on purpose
            broken_value=_maybe(_REAL),  # the quantity then
        ),
    ),
    "did_proxy": (
        1,
        _schema(
            estimator=_TEXT,
            decode=_TEXT,
            pairs=_INT,
            steps=_INT,
            seed=_INT,
            exact=_REAL,
            estimate=_REAL,
            beta_accuracy=_maybe(_REAL),
            policy=_TEXT,
            cost=_INT,  # sequences passed forward through a model; a backward pass counts as two
            tied=_maybe(_REAL),  # share of training pairs whose two responses are the same
            policy_entropy=_REAL,  # exact H(pi)
            reference_entropy=_REAL,  # exact H(pi_ref)
        ),
    ),
    # pairs = 0: the population optimum, as if there were infinitely many
    "rejected_sampling": (1, _schema(rejected=_TEXT, pairs=_INT, seed=_INT, js_target=_REAL, kl_target=_REAL)),
}

# The report. low and high: 95 % intervals; cells the paper printed and this grid lacks have nulls in our columns.
_LOG = _schema(**_CELL, **_of(_TEXT, "quantity"), **_of(_INT, "step epoch n"), **_of(_REAL, "value mean low high"))
_MRR = _schema(
    **_CELL, **_of(_TEXT, "quantity"), **_of(_INT, "epoch benchmarks questions"), **_of(_REAL, "value low high")
)
SCHEMAS |= {
    "table1": (1, _schema(
        **_CELL, **_of(_maybe(_INT), "epoch prompts"),
        **_of(_maybe(_REAL), "beta entropy low high reference reference_low reference_high truncated mean_tokens"),
        **_of(_maybe(_REAL), "paper_entropy paper_reference"),
    )),
    "table2": (1, _schema(
        **_CELL, **_of(_maybe(_INT), "epoch prompts"), **_of(_FLAG, "dagger paper_dagger"),
        **_of(_maybe(_REAL), "did_entropy low high beta_accuracy truncated mean_tokens win_rate elo"),
        **_of(_maybe(_REAL), "paper_did_entropy paper_win_rate paper_elo"),
    )),
    "table3": (1, _schema(
        **_CELL, **_of(_maybe(_INT), "best_epoch games unscored battles tasks paper_best_epoch"),
        **_of(_maybe(_REAL), "win_rate win_rate_low win_rate_high mean_tokens baseline_mean_tokens"),
        **_of(_maybe(_REAL), "elo elo_low elo_high score score_low score_high wildbench_tokens"),
        **_of(_maybe(_REAL), "paper_win_rate paper_win_rate_low paper_win_rate_high"),
        **_of(_maybe(_REAL), "paper_elo paper_elo_low paper_elo_high"),
    )),
    # one row per step: value is that batch's mean, mean a running one over n steps
    **dict.fromkeys(("figure2", "figure5", "figure8", "figure9", "figure10", "figure11", "figure13"), (1, _LOG)),
    # quantity "mrr", or "lead": DPO-PG's over the mean of DPO's, over all epochs (epoch 0)
    **dict.fromkeys(("figure3", "figure12"), (1, _MRR)),
    # reward above pi_ref; quantity "epoch", "best" (over betas and epochs), or "lead": dpo's best over logpi's
    "figure6": (1, _schema(
        **_CELL, **_of(_TEXT, "objective quantity"), **_of(_INT, "epoch prompts"), **_of(_REAL, "value low high"),
    )),
    "claims": (1, _schema(
        **_of(_TEXT, "claim statement source prediction model dataset evidence verdict"),
        **_of(_maybe(_REAL), "value low high"), n=_maybe(_INT),
    )),
}  # fmt: skip


class ArtifactError(UserError):
    """A table that is not what its reader was promised."""


@contextmanager
def atomic(path: Path) -> Iterator[Path]:
    """Yield a private temporary path beside ``path``; rename it over ``path`` when the block ends well."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        yield temporary
        with open(temporary, "rb") as handle:
            os.fsync(handle.fileno())
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def digest(*values: Any) -> str:
    """A short, stable digest of JSON-able values and, for a Path, of the file or folder it names."""
    sha = hashlib.sha256()
    for value in values:
        if isinstance(value, Path):
            files = sorted(p for p in value.rglob("*") if p.is_file()) if value.is_dir() else [value]
            for file in files:
                sha.update(str(file.relative_to(value) if value.is_dir() else file.name).encode())
                with open(file, "rb") as handle:
                    sha.update(hashlib.file_digest(handle, "sha256").digest())
        else:
            sha.update(json.dumps(value, sort_keys=True, default=str).encode())
    return sha.hexdigest()[:16]


def write(path: Path, frame: pd.DataFrame, kind: str, *, inputs: dict[str, Path] | None = None, **facts: Any) -> None:
    """Write ``frame`` as a table of ``kind``, atomically.

    Args:
        inputs: named files or folders this table was made from; their digests go into the footer.
        facts: whatever else made it (seed, model, params ...), JSON-able, without secrets or wall-clock times:
            the same work gives the same bytes.

    Raises:
        ArtifactError: when the frame lacks a column, has a null where none may be, or a value of another type.
    """
    version, schema = SCHEMAS[kind]
    missing = [name for name in schema.names if name not in frame.columns]
    if missing:
        raise ArtifactError(f"{path}: cannot write a '{kind}' table without the column(s) {', '.join(missing)}.")
    try:
        table = pa.Table.from_pandas(frame[schema.names], schema=schema, preserve_index=False)
    except (pa.ArrowInvalid, pa.ArrowTypeError, ValueError) as error:
        raise ArtifactError(f"{path}: cannot write a '{kind}' table: {error}") from error
    _check_nulls(table, schema, path)
    footer = {
        "kind": kind,
        "version": version,
        "code": __version__,
        "inputs": {name: digest(Path(source)) for name, source in (inputs or {}).items()},
        **facts,
    }
    table = table.replace_schema_metadata({_FOOTER: json.dumps(footer, sort_keys=True, default=str).encode()})
    with atomic(path) as temporary:
        pq.write_table(table, temporary)


def read(path: Path, kind: str, columns: list[str] | None = None) -> pd.DataFrame:
    """Read a table of ``kind``, or only some of its columns.

    Raises:
        ArtifactError: when the file is missing, truncated, of another kind or version, or has other columns.
    """
    path = Path(path)
    version, schema = SCHEMAS[kind]
    footer = provenance(path)
    if footer.get("kind") != kind:
        raise ArtifactError(f"{path} holds a '{footer.get('kind')}' table where a '{kind}' table is needed.")
    if footer.get("version") != version:
        raise ArtifactError(
            f"{path} holds '{kind}' version {footer.get('version')}, this code reads version {version}: "
            "delete the file and let the workflow make it again."
        )
    try:  # ParquetFile, since read_table reads "key=value" folders of the path as columns
        with pq.ParquetFile(path) as file:
            table = file.read(columns=columns)
    except (pa.ArrowException, OSError) as error:
        raise ArtifactError(f"{path} is not a complete Parquet file (truncated or damaged): {error}") from error
    schema = pa.schema([schema.field(name) for name in columns or schema.names])
    wrong = [f.name for f in schema if f.name not in table.schema.names or table.schema.field(f.name).type != f.type]
    if wrong:
        raise ArtifactError(f"{path}: the '{kind}' column(s) {', '.join(wrong)} are missing or of another type.")
    _check_nulls(table, schema, path)
    frame: pd.DataFrame = table.select(schema.names).to_pandas()
    for field in schema:  # lists come back as arrays: plain Python values are what callers work with
        if pa.types.is_list(field.type):
            plain: Callable[[Any], Any] = list if field.type == _MESSAGES else lambda ids: ids.tolist()
            frame[field.name] = [plain(value) for value in frame[field.name]]
    return frame


def provenance(path: Path) -> dict[str, Any]:
    """The footer of a table: what made it.

    Raises:
        ArtifactError: when there is no readable table with a footer at ``path``.
    """
    try:
        metadata = pq.read_schema(path).metadata or {}
    except FileNotFoundError as error:
        raise ArtifactError(f"{path} does not exist.") from error
    except (pa.ArrowInvalid, OSError) as error:
        raise ArtifactError(f"{path} is not a complete Parquet file (truncated or damaged): {error}") from error
    if _FOOTER not in metadata:
        raise ArtifactError(f"{path} is a Parquet file of unknown origin: it has no diffinfo footer.")
    footer: dict[str, Any] = json.loads(metadata[_FOOTER])
    return footer


def _check_nulls(table: pa.Table, schema: pa.Schema, path: Path) -> None:
    """Refuse nulls, also inside lists and messages, in columns that are not optional, whatever the file says of them."""
    nulls = [f.name for f in schema if not f.nullable and any(map(_null_count, table.column(f.name).chunks))]
    if nulls:
        raise ArtifactError(f"{path}: column(s) {', '.join(nulls)} hold nulls where none may be.")


def _null_count(values: pa.Array) -> int:
    parts = [values.flatten()] if pa.types.is_list(values.type) else []
    parts += values.flatten() if pa.types.is_struct(values.type) else []
    return int(values.null_count) + sum(map(_null_count, parts))


def show(file: Path, rows: int = 5) -> None:
    """Print the schema, provenance and first rows of a table.

    Args:
        file: a Parquet table of this workflow.
        rows: how many rows to print.
    """
    footer = provenance(file)
    print(f"{file}: {footer['kind']} v{footer['version']}, {pq.read_metadata(file).num_rows} rows\n")
    print(pq.read_schema(file).remove_metadata().to_string(show_field_metadata=False), "\n")
    print(json.dumps(footer, indent=2, sort_keys=True), "\n")
    print(pq.read_table(file, partitioning=None).slice(0, rows).to_pandas().to_string(max_colwidth=60))


if __name__ == "__main__":
    run({"show": show}, positional=True)
