"""A short page of headings, paragraphs and tables, written as Markdown, HTML and LaTeX, with its data as CSV."""

from __future__ import annotations

import html
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd

from diffinfo.tables.artifacts import atomic

_STYLE = """body{font:15px/1.5 system-ui,sans-serif;margin:2em auto;max-width:70em;padding:0 1em;color:#222}
table{border-collapse:collapse;margin:1em 0}th,td{padding:.3em .8em;text-align:left;border-bottom:1px solid #ddd}
th{border-bottom:2px solid #888}td:not(:first-child){font-variant-numeric:tabular-nums}"""
# What LaTeX reads otherwise or not at all; the longest comes first
_TEX = {
    "p*^{1/β}": r"$p^{*1/\beta}$", "π_ref": r"$\pi_\mathrm{ref}$", "pi_ref": r"$\pi_\mathrm{ref}$",
    "y_ref": r"$y_\mathrm{ref}$",
    "y_w": "$y_w$", "y_l": "$y_l$", "q_T": "$q_T$", "π̃": r"$\tilde\pi$", "π*": r"$\pi^*$", "β′": r"$\beta'$", "H(q)": "$H(q)$",
    **{sign: f"${name}$" for sign, name in {
        "π": r"\pi", "β": r"\beta", "τ": r"\tau", "μ": r"\mu", "ℓ": r"\ell", "Δ": r"\Delta", "−": "-", "±": r"\pm", "′": "'",
        "‖": r"\Vert", "∣": r"\mid", "∝": r"\propto", "²": "^2", "≥": r"\ge", "≤": r"\le"}.items()},
    **{sign: f"${sign}$" for sign in "<>|"},
    "†": r"\dag{}", "–": "--", "…": r"\dots{}",
    "\\": r"\textbackslash{}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}",
    **{sign: f"\\{sign}" for sign in "&%$#_{}"},
}  # fmt: skip


def tex(text: str) -> str:
    """Text as LaTeX, in ASCII but for signs that it does not know."""
    return re.sub("|".join(map(re.escape, _TEX)), lambda found: _TEX[found[0]], text)


class Page:
    """Collects what a result says, in order."""

    def __init__(self, title: str) -> None:
        self.parts: list[str | pd.DataFrame] = [f"# {title}"]

    @classmethod
    def read(cls, markdown: str) -> Page:
        """Take a page from the Markdown that ``markdown`` wrote."""
        page = cls("")
        page.parts = []
        for block in filter(None, markdown.rstrip("\n").split("\n\n")):
            if block.startswith("|"):
                lines = (re.split(r"(?<!\\)\|", line[1:-1]) for line in block.splitlines())
                head, _, *rows = ([cell.strip().replace(r"\|", "|") for cell in cells] for cells in lines)
                page.parts.append(pd.DataFrame(rows, columns=head))
            else:
                page.parts.append(block)
        return page

    @property
    def title(self) -> str:
        """Its heading."""
        return str(self.parts[0])[2:]

    def say(self, *sentences: str) -> None:
        """Add a paragraph; empty sentences are left out."""
        text = " ".join(sentence for sentence in sentences if sentence)
        if text:
            self.parts.append(text)

    def head(self, text: str) -> None:
        """Start a section."""
        self.parts.append(f"## {text}")

    def table(self, frame: pd.DataFrame, line: Callable[[Any], dict[str, str]]) -> None:
        """Add a table with one line per row of ``frame``; ``line`` puts a row (a named tuple) into words."""
        self.parts.append(pd.DataFrame([line(row) for row in frame.itertuples()]))

    def markdown(self) -> str:
        """The page as GitHub-flavoured Markdown."""

        def barred(frame: pd.DataFrame) -> pd.DataFrame:  # a bar would end the cell
            return frame.rename(columns=lambda name: name.replace("|", r"\|")).replace(r"\|", r"\\|", regex=True)

        blocks = [
            barred(part).to_markdown(index=False, disable_numparse=True) if isinstance(part, pd.DataFrame) else part
            for part in self.parts
        ]
        return "\n\n".join(blocks) + "\n"

    def html(self) -> str:
        """The page as one self-contained HTML file."""
        body = []
        for part in self.parts:
            if isinstance(part, pd.DataFrame):
                body.append(part.to_html(index=False, border=0))
            elif part.startswith("#"):
                marks, _, text = part.partition(" ")
                body.append(f"<h{len(marks)}>{html.escape(text)}</h{len(marks)}>")
            else:
                body.append(f"<p>{html.escape(part)}</p>")
        return f'<!doctype html><meta charset="utf-8"><style>{_STYLE}</style>\n' + "\n".join(body) + "\n"

    def latex(self) -> str:
        """Its tables for LaTeX's booktabs, each under its section's heading; what it says around them as comments."""
        caption, blocks = self.title, [r"% \usepackage{booktabs}"]
        for part in self.parts:
            if isinstance(part, pd.DataFrame):
                rows = [" & ".join(tex(str(cell)) for cell in row) + r" \\" for row in [[*part], *part.to_numpy()]]
                body = "\n".join([r"\toprule", rows[0], r"\midrule", *rows[1:], r"\bottomrule"])
                columns = "l" * part.shape[1]
                blocks.append(
                    f"\\begin{{table}}\n\\caption{{{tex(caption)}}}\n\\begin{{tabular}}{{{columns}}}\n{body}\n"
                    "\\end{tabular}\n\\end{table}"
                )
            else:
                caption = part.partition(" ")[2] if part.startswith("#") else caption
                blocks.append(f"% {part}")
        return "\n\n".join(blocks) + "\n"

    def write(self, out: Path, data: pd.DataFrame, *, page: bool = True) -> None:
        """Write it beside ``out`` as Markdown, LaTeX and, as a ``page``, HTML, and its data as CSV, each atomically."""
        texts = {".md": self.markdown(), ".tex": self.latex(), ".csv": data.to_csv(index=False)}
        for suffix, text in (texts | {".html": self.html()} if page else texts).items():
            with atomic(out.with_suffix(suffix)) as temporary:
                temporary.write_text(text, encoding="utf-8")
