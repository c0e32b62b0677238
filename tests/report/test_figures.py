"""Figures: whole files, data as expected, and plain words where there is nothing to draw."""

from __future__ import annotations

import math
import struct
import subprocess
import sys
import xml.etree.ElementTree as ET
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from diffinfo.cli import UserError
from diffinfo.methods import METHODS
from diffinfo.report import figures
from diffinfo.report.drawing import style
from diffinfo.report.figures import FIGURES
from diffinfo.tables import artifacts
from pages import lines

MP, UF = "micro-mistral/magpie-pro", "micro-mistral/ultrafeedback"


def check_drawing(out: Path) -> str:
    """The PNG and SVG beside ``out`` are whole and not blank; returns the note."""
    png = out.with_suffix(".png").read_bytes()
    assert png.startswith(b"\x89PNG")
    assert png.rstrip()[-8:-4] == b"IEND"
    width, height = struct.unpack(">II", png[16:24])
    assert width > 600
    assert height > 200
    assert ET.parse(out.with_suffix(".svg")).getroot().tag.endswith("svg")
    return out.with_suffix(".md").read_text(encoding="utf-8")


def test_figure2_shows_displacement_from_zero(tree, tmp_path):
    inputs = [tree.log(f"{UF}/dpo-b0.1", -5, -9, noise=0), tree.log(f"{MP}/dpo-b0.1", -3, -9, noise=0)]
    out = tmp_path / "figure2.parquet"
    FIGURES["figure2"](inputs=inputs, out=out)
    data = artifacts.read(out, "figure2")
    curve = data[data.dataset == "ultrafeedback"]
    assert len(curve) == 80
    assert curve.value.iloc[0] == pytest.approx(0)
    assert curve.value.iloc[-1] == pytest.approx(-5)  # the batches' own levels (sd 4) are gone
    assert curve["mean"].iloc[-1] == pytest.approx(curve.value.iloc[-4:].mean())  # a quarter of 16 steps
    assert curve.n.iloc[-1] == 4
    note = check_drawing(out)
    assert "micro-mistral takes the place of the paper's Mistral7B-v0.3" in note
    assert "not in this grid" not in note
    assert "-4.5" in note  # the last epoch's mean


def test_spans_of_one_run_are_joined_and_overlaps_refused(tree, tmp_path):
    parts = [tree.log(f"{MP}/dpo-b0.1", -3, -9, span="1-2"), tree.log(f"{MP}/dpo-b0.1", -3, -9, span="3-5")]
    FIGURES["figure10"](inputs=parts[::-1], out=tmp_path / "figure10.parquet")
    assert list(artifacts.read(tmp_path / "figure10.parquet", "figure10").step) == list(range(1, 81))
    with pytest.raises(UserError, match="both hold step 1"):
        FIGURES["figure10"](inputs=[*parts, tree.log(f"{MP}/dpo-b0.1", -3, -9)], out=tmp_path / "figure10.parquet")


def test_training_figures_show_their_quantities(tree, tmp_path):
    pg = [tree.log(f"{MP}/dpo-pg", 3, -1, loss=0.6)]
    dpo = tree.log(f"{MP}/dpo-b0.1", -5, -9)
    other_beta = tree.log(f"{MP}/dpo-b0.02", -9, -19)
    variants = [tree.log(f"{MP}/dpop-b0.1", 1, -1), tree.log(f"{MP}/cal-dpo-b0.1", -1, -5)]
    proxies = [tree.log(f"{MP}/{m}", -1, -9, span="1-1", where="did") for m in ("dpo-b0.1", "dpo-pg")]
    for name, inputs, quantities in (
        ("figure5", [dpo, other_beta, *variants], {"chosen", "rejected", "margin"}),
        ("figure8", pg, {"chosen", "rejected"}),
        ("figure9", pg, {"dpo_loss"}),
        ("figure11", [dpo], {"rejected"}),
        ("figure13", proxies, {"logp_chosen", "logp_rejected"}),
    ):
        out = tmp_path / f"{name}.parquet"
        FIGURES[name](inputs=inputs, out=out)
        data = artifacts.read(out, name)
        assert set(data.quantity) == quantities, name
        check_drawing(out)
    margin = artifacts.read(tmp_path / "figure5.parquet", "figure5").query("quantity == 'margin'")
    assert set(margin.method) == {"dpo-b0.1", "dpop-b0.1", "cal-dpo-b0.1"}  # DPO at the others' beta alone
    plain = margin[margin.method == "dpo-b0.1"]
    assert plain.value.iloc[-8:].mean() == pytest.approx(4 * (75.5 / 79), abs=0.5)
    assert artifacts.read(tmp_path / "figure9.parquet", "figure9").value.iloc[0] == pytest.approx(np.log(2))
    assert "Gemma2-9B on Magpie-Pro" in (tmp_path / "figure8.md").read_text()
    assert "The line at ln 2 = 0.693" in (tmp_path / "figure9.md").read_text()


def test_the_note_shows_the_last_epochs_mean_with_students_interval(tree, tmp_path):
    FIGURES["figure10"](inputs=[tree.log(f"{MP}/dpo-b0.1", -5, -9)], out=tmp_path / "figure10.parquet")
    data = artifacts.read(tmp_path / "figure10.parquet", "figure10")
    last = data.value[data.epoch == 5]
    low, high = stats.t.interval(0.95, 15, last.mean(), stats.sem(last))
    (row,) = lines(tmp_path / "figure10.md", "row")
    shown = f"{last.mean():.3f} ({low - last.mean():+.3f}, {high - last.mean():+.3f})"
    assert (row["mean of the last epoch [nats]"], row["steps"], row["method"]) == (shown, "16", "DPO β = 0.1")


def test_figure6_takes_the_best_and_pairs_by_prompt(tree, tmp_path):
    inputs = [
        tree.scores(f"{MP}/ref", "0-0", [0.0], first=0),
        tree.scores(f"{MP}/dpo-b0.1", "1-5", [0.2, 0.5, 1.0, 0.6, 0.4]),
        tree.scores(f"{MP}/dpo-b0.02", "1-5", [0.1, 0.2, 0.3, 0.2, 0.1]),
        tree.scores(f"{MP}/logpi-b0.1", "1-5", [0.1, 0.4, -0.2, -0.5, -1.0]),
    ]
    out = tmp_path / "figure6.parquet"
    FIGURES["figure6"](inputs=inputs, out=out)
    data = artifacts.read(out, "figure6")
    best = data[data.quantity == "best"].set_index("objective")
    assert (best.method["dpo"], best.epoch["dpo"]) == ("dpo-b0.1", 3)
    assert (best.method["logpi"], best.epoch["logpi"]) == ("logpi-b0.1", 2)
    assert best.value["dpo"] == pytest.approx(1.0, abs=0.12)
    lead = data[data.quantity == "lead"].iloc[0]
    assert lead.value == pytest.approx(best.value["dpo"] - best.value["logpi"])
    assert lead.high - lead.low < 0.3  # unpaired, the prompts' own levels (sd 3) would make it 1.2
    check_drawing(out)
    with pytest.raises(UserError, match="reference's scores"):
        FIGURES["figure6"](inputs=inputs[1:], out=out)


def test_figure3_ranks_dpo_and_dpo_pg_among_themselves(tree, tmp_path):
    inputs = [
        tree.qa(f"{MP}/dpo-b0.1", [0.5, 0.5]),
        tree.qa(f"{MP}/dpo-b0.02", [0.4, 0.4]),
        tree.qa(f"{MP}/dpo-pg", [0.6, 0.3]),
        tree.qa(f"{MP}/logpi-b0.1", [0.9, 0.9]),
    ]
    out = tmp_path / "figure3.parquet"
    FIGURES["figure3"](inputs=inputs, out=out)
    data = artifacts.read(out, "figure3")
    mrr = data[data.quantity == "mrr"].set_index(["method", "epoch"]).value
    assert mrr["dpo-pg", 1] == 1
    assert mrr["dpo-b0.1", 1] == 1 / 2
    assert mrr["dpo-pg", 2] == pytest.approx(1 / 3)
    assert mrr["logpi-b0.1", 1] == 1  # ranked among them, and their ranks do not know
    assert "Any further method is ranked among them" in check_drawing(out)
    gemma = [tree.qa(f"micro-gemma2/magpie-pro/{m}", [v]) for m, v in (("dpo-b0.1", 0.5), ("dpo-pg", 0.6))]
    FIGURES["figure3"](inputs=[*inputs, *gemma], out=out)  # Gemma's are Figure 12's
    assert artifacts.read(out, "figure3").equals(data)
    lead = data[data.quantity == "lead"].iloc[0]
    assert lead.value == pytest.approx((1 + 1 / 3) / 2 - (1 / 2 + 1 / 3 + 1 + 1 / 2) / 4)
    assert (lead.benchmarks, lead.questions) == (8, 400)
    check_drawing(out)


def test_figure12_says_in_words_that_there_is_no_gemma(tree, tmp_path):
    out = tmp_path / "figure12.parquet"
    FIGURES["figure12"](inputs=[], out=out)
    assert artifacts.read(out, "figure12").empty
    assert "not in this grid: Gemma2-9B on Magpie-Pro, Gemma2-9B on Magpie-G27" in check_drawing(out)
    FIGURES["figure12"](inputs=[tree.qa(f"{MP}/dpo-pg", [0.6])], out=out)  # Mistral's cells are Figure 3's
    assert artifacts.read(out, "figure12").empty
    gemma = [tree.qa(f"micro-gemma2/magpie-pro/{m}", [v]) for m, v in (("dpo-b0.1", 0.5), ("dpo-pg", 0.6))]
    FIGURES["figure12"](inputs=gemma, out=out)
    assert set(artifacts.read(out, "figure12").model) == {"micro-gemma2"}


def test_every_figure_survives_an_empty_grid(tmp_path):
    for name in ("figure2", "figure3", "figure5", "figure6", "figure8", "figure13"):
        FIGURES[name](inputs=[], out=tmp_path / f"{name}.parquet")
        assert "not in this grid" in check_drawing(tmp_path / f"{name}.parquet")


def test_the_same_data_give_the_same_drawing(tree, tmp_path):
    inputs = [tree.log(f"{MP}/dpo-pg", 3, -1)]
    for name in ("a", "b"):
        FIGURES["figure9"](inputs=inputs, out=tmp_path / name / "figure9.parquet")
    for suffix in (".parquet", ".svg", ".png", ".md"):
        assert (tmp_path / f"a/figure9{suffix}").read_bytes() == (tmp_path / f"b/figure9{suffix}").read_bytes()


@pytest.mark.parametrize("name", ["figure2", "figure5", "figure8", "figure9", "figure10", "figure11", "figure13"])
def test_a_further_method_is_a_further_line(tree, tmp_path, monkeypatch, name):
    drawn = []
    monkeypatch.setattr(figures.drawing, "line", lambda axis, data, x, y, label, **look: drawn.append((label, look)))
    where = {"where": "did", "span": "1-1"} if name == "figure13" else {}
    runs = {"figure5": ["dpo-b0.1", "dpop-b0.1"], "figure8": ["dpo-pg"], "figure9": ["dpo-pg"]}.get(name, ["dpo-b0.1"])
    inputs = [tree.log(f"{MP}/{method}", -5, -9, **where) for method in runs]
    FIGURES[name](inputs=inputs, out=tmp_path / f"{name}.parquet")
    before, drawn[:] = list(drawn), []
    FIGURES[name](inputs=[*inputs, tree.log(f"{MP}/simpo-b2.5", 1, -1, **where)], out=tmp_path / f"{name}.parquet")
    assert [line for line in drawn if "SimPO" not in line[0]] == before  # place and look of the paper's stay
    assert len(drawn) - len(before) == len(set(artifacts.read(tmp_path / f"{name}.parquet", name).quantity))
    assert "SimPO β = 2.5" in (tmp_path / f"{name}.md").read_text()
    looks = [(look["color"], str(look["linestyle"]), look.get("linewidth")) for label, look in drawn]
    assert len(set(looks)) == len({label for label, _ in drawn})


def test_bars_end_where_intervals_do_beside_one_another_and_panels_share_their_axis():
    figure, (left, right) = figures.drawing.canvas(2)
    data = pd.DataFrame({"x": [1, 2], "y": [1.0, 5.0], "low": [0.5, 2.0], "high": [2.0, 4.0]})  # one value lies outside
    for place in figures.drawing.places(2):
        figures.drawing.points(left, data, "x", "y", "a", place, color="black")
    right.plot([1, 2], [9.0, 10.0])
    figures.drawing.share([left, right])
    assert left.get_ylim() == right.get_ylim()
    assert left.get_ylim()[0] < 0.5
    assert left.get_ylim()[1] > 10.0
    bars = [bar for bar in left.collections if hasattr(bar, "get_segments")]
    for bar in bars:
        assert [segment[:, 1].tolist() for segment in bar.get_segments()] == [[0.5, 2.0], [2.0, 4.0]]
    at = [bar.get_transform().transform(bar.get_segments()[0])[0, 0] for bar in bars]
    assert at[1] - at[0] == pytest.approx(4 * figure.dpi / 72)  # points of print


def test_methods_keep_their_colours_apart():
    methods = ["dpo-b0.2", "dpo-b0.1", "dpo-b0.05", "dpo-b0.02", "dpo-pg", "dpop-b0.1", "cal-dpo-b0.1", "logpi-b0.1"]
    assert len({style(m)["color"] for m in methods}) == len(methods)


def test_the_papers_betas_look_as_they_did():
    looks = [
        ("#3f007d", "-"),
        ("#7a3fb0", (0, (5, 1.5))),
        ("#a86fd0", (0, (3, 1.2, 1, 1.2))),
        ("#cf92ea", (0, (1.4, 1))),
    ]
    for beta, (purple, dashes) in zip(("0.2", "0.1", "0.05", "0.02"), looks, strict=True):
        assert style(f"dpo-b{beta}") == {"color": purple, "linestyle": dashes}
        assert style(f"logpi-b{beta}") == {"color": "#009e73", "linestyle": dashes}
    for name, colour in (
        ("dpo-pg", "#d55e00"),
        ("dpop-b0.1", "#0072b2"),
        ("cal-dpo-b0.1", "#e69f00"),
        ("ref", "#666666"),
    ):
        assert style(name) == {"color": colour, "linestyle": "-"}


@pytest.mark.parametrize("method", [method for method in METHODS.values() if method.beta])
def test_no_two_betas_look_alike(method):
    """Not even in black and white: the dashes alone differ."""
    betas = {
        float(f"{digits}e{place}") for digits in (1, 1.5, 2, 2.5, 3, 4, 5, 6, 7, 8, 8.5, 9) for place in range(-4, 2)
    }
    dashes = {beta: style(method.at(beta))["linestyle"] for beta in betas}
    assert len(set(dashes.values())) == len(betas)
    assert style(f"{method.at(0.08)}-seed2") == style(method.at(0.08))
    near, far = (sum(dashes[beta][1]) if dashes[beta] != "-" else math.inf for beta in (0.08, 0.1))
    assert abs(near - far) > 5  # points of line width: seen at a glance


def test_a_beta_between_two_has_a_shade_between_theirs():
    shades = [
        int(style(f"dpo-b{beta}")["color"][1:3], 16) for beta in ("0.5", "0.2", "0.15", "0.1", "0.08", "0.05", "0.02")
    ]
    assert shades == sorted(shades)
    assert len(set(shades)) == 6  # beyond the paper's ends the shade is that of the end


def test_the_report_never_imports_torch():
    modules = ", ".join(f"diffinfo.report.{name}" for name in ("tables", "figures", "claims"))
    modules += ", diffinfo.bench.wildbench"  # Table 3 plays its Elo
    code = f"import sys, {modules}; print('torch' in sys.modules)"
    where = Path(figures.__file__).parents[2]
    found = subprocess.run([sys.executable, "-c", code], cwd=where, capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "False"


def test_mrr_interval_is_wide_where_accuracies_are_uncertain(tree, tmp_path):
    widths = []
    for stderr in (0.001, 0.1):
        inputs = [tree.qa(f"{MP}/dpo-b0.1", [0.5], stderr), tree.qa(f"{MP}/dpo-pg", [0.55], stderr)]
        FIGURES["figure3"](inputs=inputs, out=tmp_path / "figure3.parquet")
        lead: pd.Series = artifacts.read(tmp_path / "figure3.parquet", "figure3").query("quantity == 'lead'").iloc[0]
        widths.append(lead.high - lead.low)
    assert widths[0] == 0
    assert widths[1] > 0.2
