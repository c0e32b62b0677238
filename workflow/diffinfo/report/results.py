"""The results as one self-contained HTML page: what was run, does the paper hold, what it cost; then tables and figures.

``diffinfo.operations.spent`` writes it. The template is in workflow/report/page.
"""

from __future__ import annotations

import base64
import os
import platform
import re
import subprocess
from importlib.metadata import version
from pathlib import Path
from typing import Any

import jinja2
import pandas as pd
import yaml
from markupsafe import Markup

from diffinfo import __version__
from diffinfo.config.types import Config
from diffinfo.report import paper
from diffinfo.report.claims import ALIKE, FAILS, HOLDS, OPEN, VERDICTS
from diffinfo.report.page import Page
from diffinfo.tables import artifacts

SIGNS = {  # of a verdict: its class, its sign, and what several of it do
    HOLDS: ("holds", "✓", "hold"),
    ALIKE: ("alike", "≈", "as with permuted labels"),
    FAILS: ("fails", "✗", "do not hold"),
    OPEN: ("open", "?", "undecided"),
}
WORST_FIRST = (FAILS, OPEN, ALIKE, HOLDS)
TEMPLATE = Path(__file__).parents[2] / "report/page"
CAPTIONS = TEMPLATE.parent  # an .rst file a figure or table; Snakemake's own report takes them too
LIBRARIES = ("torch", "transformers", "snakemake", "numpy", "pandas", "pyarrow", "matplotlib")


def write(
    config: dict[str, Any],
    tables: list[Path],
    figures: list[Path],
    claims: Path,
    spent: pd.DataFrame,
    out: Path,
) -> None:
    """Write the page, and the configuration beside it; see ``diffinfo.operations.spent``, whose table ``spent`` is."""
    judged = artifacts.read(claims, "claims")
    groups = [list(part.itertuples()) for _, part in judged.groupby("claim", sort=False)]
    sections = [_section(path, out, groups) for path in sorted([*tables, *figures], key=_place)]
    of_paper = [s for s in sections if s["label"]]
    ours = [s for s in sections if not s["label"] and s["name"] != "grid"]
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(TEMPLATE), autoescape=True, trim_blocks=True, lstrip_blocks=True,
        undefined=jinja2.StrictUndefined,
    )  # fmt: skip
    environment.filters |= {"rich": _rich, "interval": _interval, "row_title": _row_title}
    text = environment.get_template("page.html").render(
        run=_run(Config.model_validate(config)),
        counts=[(kind, *SIGNS[kind], int((judged.verdict == kind).sum())) for kind in VERDICTS],
        total=len(judged),
        signs=SIGNS,
        claims=[sorted(rows, key=lambda row: WORST_FIRST.index(row.verdict)) for rows in groups],
        placebos=int((judged.placebo_draws > 0).sum()),
        claims_files=_files(claims.with_suffix(".md"), out),
        claims_command=claims.with_suffix(".md"),
        page=out,
        cost=_cost(spent),
        spent=_section(out.with_name("spent.md"), out, []),
        grid=next((s for s in sections if s["name"] == "grid"), None),
        tables=[s for s in of_paper if not s["image"]],
        figures=[s for s in of_paper if s["image"]],
        ours=sorted(ours, key=lambda s: [other["name"] for other in ours].index(s["name"])),  # a figure behind its table
        config=yaml.safe_dump(config, sort_keys=False, allow_unicode=True, width=100),
        machine=_machine(),
        style=Markup((TEMPLATE / "page.css").read_text(encoding="utf-8")),
        script=Markup((TEMPLATE / "page.js").read_text(encoding="utf-8")),
    )  # fmt: skip
    with artifacts.atomic(out.with_name("config.yaml")) as temporary:
        temporary.write_text(yaml.safe_dump(config, sort_keys=False, allow_unicode=True), encoding="utf-8")
    with artifacts.atomic(out) as temporary:
        temporary.write_text(text, encoding="utf-8")


def _label(path: Path) -> str:
    """Of the paper's own: "Table 1", "Figure 10"; of others nothing."""
    found = re.fullmatch(r"(table|figure)(\d+)", path.stem)
    return f"{found[1].title()} {found[2]}" if found else ""


def _place(path: Path) -> int:
    """Figures by their number, others as they come."""
    return int(_label(path).partition(" ")[2] or 0)


def _cited(source: str) -> set[str]:
    """What a claim's source names: "Section 4.3, Figures 2 and 10" names Figure 2 and Figure 10."""
    return {
        f"{kind} {number}"
        for kind, numbers in re.findall(r"(Table|Figure)s? ((?:\d+(?:, | and )?)+)", source)
        for number in re.findall(r"\d+", numbers)
    }


def _section(path: Path, out: Path, claims: list[list[Any]]) -> dict[str, Any]:
    """A table's page or a figure as the template shows it."""
    image = path.suffix == ".svg"
    notes = [path.with_suffix(".md"), path.parents[1] / "tables" / f"{path.stem}.md"]
    note = next(file for file in notes if file.exists())
    page, caption = Page.read(note.read_text(encoding="utf-8")), CAPTIONS / f"{path.stem}.rst"
    said = re.sub(r"\\ |:\w+:`([^`]*)`", r"^{\1}", caption.read_text("utf-8")) if caption.exists() else ""
    return {
        "name": path.stem,
        "id": f"{path.stem}-figure" if image and note.parent.name == "tables" else path.stem,
        "label": _label(path),
        "title": page.title,
        "caption": " ".join(said.split()),
        "parts": [_part(part) for part in page.parts[1:]] if note == notes[0] else [],
        "claims": [rows for rows in claims if _label(path) in _cited(rows[0].source)],
        "image": _embedded(path) if image else None,
        "width": _width(path) if image else None,
        "files": _files(path, out),
        "command": f"snakemake --cores 2 {path}",
    }


def _part(part: str | pd.DataFrame) -> tuple[str, Any]:
    if isinstance(part, pd.DataFrame):
        return "table", {"columns": list(part), "rows": part.to_numpy().tolist()}
    return ("head", part.lstrip("# ")) if part.startswith("#") else ("text", part)


def _files(path: Path, out: Path) -> list[tuple[str, str]]:
    """The same in other formats, as it lies relative to the page."""
    kinds = {".parquet": "Parquet", ".csv": "CSV", ".tex": "LaTeX", ".md": "Markdown"}
    kinds |= {".svg": "SVG", ".pdf": "PDF", ".png": "PNG"} if path.suffix == ".svg" else {}
    # the data of a figure may be its table's, those of the laboratory what it measured, in a folder that runs share
    folders = (path.parent, out.parent / "tables", out.parent / "synthetic", out.parent / "../../synthetic")
    last = out.with_name("spent.parquet")  # written once the page is
    found = []
    for suffix, name in kinds.items():
        places = [folder / f"{path.stem}{suffix}" for folder in folders[: None if suffix == ".parquet" else 1]]
        found += [(name, file) for file in places if file.exists() or file == last][:1]
    return [(name, os.path.relpath(file, out.parent)) for name, file in found]


def _width(svg: Path) -> int:
    """Pixels that a drawing may fill: half as many again as it was drawn for."""
    with open(svg, encoding="utf-8") as handle:
        found = re.search(r'<svg [^>]*width="([\d.]+)pt"', handle.read(2000))
    return round(2 * float(found[1])) if found else 1200


def _embedded(svg: Path) -> Markup:
    """A drawing as a data URI: SVG, or PNG where that is shorter (long curves)."""
    png = svg.with_suffix(".png").read_bytes()
    drawing = " ".join(svg.read_text(encoding="utf-8").partition("<svg")[2].split())
    for sign, code in (("%", "%25"), ("#", "%23"), ("&", "%26"), ("'", "%26apos;"), ('"', "'")):
        drawing = drawing.replace(sign, code)
    if len(drawing) > len(png) * 4 / 3:
        return Markup("data:image/png;base64," + base64.b64encode(png).decode())
    return Markup(f"data:image/svg+xml;charset=utf-8,<svg {drawing}")


def _rich(text: str) -> Markup:
    """Text with its `code`, indices, exponents and minus signs set as such."""
    found = str(Markup.escape(text))
    for plain, markup in (
        (r"`([^`]+)`", r"<code>\1</code>"), (r"([πyqZ])_(ref|w|l|T)\b", r"\1<sub>\2</sub>"),
        (r"\^\{([^}]*)\}", r"<sup>\1</sup>"), (r"(?<!\w)-(?=\d)", "−"),
    ):  # fmt: skip
        found = re.sub(plain, markup, found)
    return Markup(found)


def _interval(row: Any, name: str = "value") -> str:
    """A number of the claims table with its interval."""
    ends = ("low", "high") if name == "value" else (f"{name}_low", f"{name}_high")
    value, low, high = (getattr(row, column) for column in (name, *ends))
    return "" if pd.isna(value) else f"{value:.3g} [{low:.3g}, {high:.3g}]".replace("-", "−")


def _row_title(row: Any) -> str:
    return f"{paper.model_title(row.model)} on {paper.dataset_title(row.dataset)}" if row.model else "not in this grid"


def _run(config: Config) -> dict[str, Any]:
    """What was run, in words."""
    cells = dict.fromkeys((row.model, row.dataset, method) for row in config.grid for method in config.methods(row))
    models, datasets = (dict.fromkeys(cell[place] for cell in cells) for place in (0, 1))
    derived = [name for name in datasets if config.datasets[name].of]
    return {
        "name": config.run.name,
        "micro": all(config.models[model].source == "world" for model in models),
        "models": [(paper.model_title(m), f"{config.models[m].billions * 1e9:,.0f}") for m in models],
        "datasets": [paper.dataset_title(name) for name in datasets if name not in derived],
        "derived": len(derived),
        "trainings": len(cells),
        "epochs": config.epochs,
        "betas": ", ".join(f"{beta:g}" for beta in config.betas),
        "seeds": len(config.seeds) or 1,
    }


def _cost(spent: pd.DataFrame) -> dict[str, Any]:
    stages = spent.groupby("rule", sort=False).hours.sum().sort_values(ascending=False)
    hours = spent.hours.sum()
    return {
        "jobs": f"{spent.jobs.sum():,}",
        "time": f"{60 * hours:,.0f} minutes" if hours < 3 else f"{hours:,.0f} hours",
        "gpu_hours": f"{spent.gpu_hours.sum():,.0f}" if spent.gpu_hours.sum() else "",
        "dollars": f"{spent.dollars.sum():,.2f}",
        "longest": [(rule, f"{stage / hours:.0%}") for rule, stage in stages.head(3).items()],
    }  # fmt: skip


def _machine() -> list[tuple[str, str]]:
    """What made this page, and where."""

    def said(*command: str) -> str:
        try:
            done = subprocess.run(
                command, cwd=Path(__file__).parent, capture_output=True, text=True, check=True, timeout=10
            )
        except (OSError, subprocess.SubprocessError):
            return ""
        return done.stdout.strip()

    commit, changed = said("git", "rev-parse", "HEAD"), said("git", "status", "--porcelain", "--untracked-files=no")
    cpu = re.search(r"model name\s*: (.*)", Path("/proc/cpuinfo").read_text(encoding="utf-8"))
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    return [
        ("diffinfo", __version__),
        ("git", f"{commit}{f', {len(changed.splitlines())} files changed' if changed else ''}" or "not a checkout"),
        ("Python", platform.python_version()),
        *((name, version(name)) for name in LIBRARIES),
        ("system", platform.platform()),
        ("processor", f"{cpu[1] if cpu else platform.machine()}, {os.cpu_count()} cores, {memory:.0f} GiB"),
        ("GPUs", said("nvidia-smi", "--query-gpu=name,memory.total", "--format=csv,noheader") or "none"),
    ]
