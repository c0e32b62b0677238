"""A page as Markdown, LaTeX and CSV."""

import re
import shutil
import subprocess

import pandas as pd
import pytest

from diffinfo.measures import NUMBERS
from diffinfo.report.page import Page, tex


@pytest.fixture
def page() -> Page:
    page = Page("Table 9. H(p*^{1/β}) above H(π_ref)")
    page.say("In nats, 95 % of it & more.")
    page.head("A_model on B")
    page.table(pd.DataFrame({"x": [1, 2]}), lambda r: {"β′": f"0.{r.x} †", "a|b": "", "difference": f"−{r.x} (−1 %)"})
    return page


def test_markdown_is_read_back(page):
    text = page.markdown()
    again = Page.read(text)
    assert again.markdown() == text
    assert again.title == "Table 9. H(p*^{1/β}) above H(π_ref)"
    pd.testing.assert_frame_equal(again.parts[3], page.parts[3])


def test_latex_is_booktabs_under_the_sections_heading(page):
    text = page.latex()
    table = text[text.index(r"\begin{table}") :].splitlines()
    assert "".join(table).isascii()
    assert table[1] == r"\caption{A\_model on B}"
    assert table[2:4] == [r"\begin{tabular}{lll}", r"\toprule"]
    assert table[4] == r"$\beta'$ & a$|$b & difference \\"
    assert table[5:8] == [r"\midrule", r"0.1 \dag{} &  & $-$1 ($-$1 \%) \\", r"0.2 \dag{} &  & $-$2 ($-$1 \%) \\"]
    assert "% In nats, 95 % of it & more." in text  # a comment, as it is


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("H(p*^{1/β}) − H(π_ref)", r"H($p^{*1/\beta}$) $-$ H($\pi_\mathrm{ref}$)"),
        ("log π(y_w), log π̃(y_l)", r"log $\pi$($y_w$), log $\tilde\pi$($y_l$)"),
        ("50 % & a_b {c} #1 ~x^2", r"50 \% \& a\_b \{c\} \#1 \textasciitilde{}x\textasciicircum{}2"),
    ],
)
def test_what_latex_would_read_otherwise(text, expected):
    assert tex(text) == expected


def test_every_column_of_the_grid_can_be_set():
    assert all(tex(number.title).isascii() for number in NUMBERS.values())


@pytest.mark.skipif(shutil.which("pdflatex") is None, reason="no pdflatex here")
def test_latex_compiles(page, tmp_path):
    text = r"\documentclass{article}\usepackage{booktabs}\begin{document}" + page.latex() + r"\end{document}"
    (tmp_path / "x.tex").write_text(text)
    subprocess.run(["pdflatex", "-interaction=batchmode", "-halt-on-error", "x.tex"], cwd=tmp_path, check=True)


def test_csv_has_all_digits(page, tmp_path):
    data = pd.DataFrame({"value": [0.1 + 0.2, None], "n": pd.array([3, None], "Int64")})
    page.write(tmp_path / "table.parquet", data, page=False)
    again = pd.read_csv(tmp_path / "table.csv", float_precision="round_trip")
    assert again.value[0] == 0.1 + 0.2
    assert pd.isna(again.value[1])
    assert not re.search(r"\.0\b", (tmp_path / "table.csv").read_text().splitlines()[1].rpartition(",")[2])
    assert sorted(path.name for path in tmp_path.iterdir()) == ["table.csv", "table.md", "table.tex"]
