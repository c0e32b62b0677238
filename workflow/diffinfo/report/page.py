"""A short page of headings, paragraphs and tables, written as Markdown (to read) and HTML (for the report)."""

from __future__ import annotations

import html
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd

from diffinfo.tables.artifacts import atomic

_STYLE = """body{font:15px/1.5 system-ui,sans-serif;margin:2em auto;max-width:70em;padding:0 1em;color:#222}
table{border-collapse:collapse;margin:1em 0}th,td{padding:.3em .8em;text-align:left;border-bottom:1px solid #ddd}
th{border-bottom:2px solid #888}td:not(:first-child){font-variant-numeric:tabular-nums}"""


class Page:
    """Collects what a result says, in order."""

    def __init__(self, title: str) -> None:
        self.parts: list[str | pd.DataFrame] = [f"# {title}"]

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
        blocks = [
            part.to_markdown(index=False, disable_numparse=True) if isinstance(part, pd.DataFrame) else part
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

    def write(self, markdown: Path, page: Path | None = None) -> None:
        """Write the Markdown and, if asked, the HTML file, each atomically."""
        for file, text in ((markdown, self.markdown()), (page, self.html() if page else "")):
            if file is not None:
                with atomic(file) as temporary:
                    temporary.write_text(text, encoding="utf-8")
