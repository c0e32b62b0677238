"""The results page: what it says, and how a browser shows it."""

import json
import re
import shutil
from html.parser import HTMLParser
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest

import browser
from diffinfo.config.reading import load
from diffinfo.operations import spent
from diffinfo.report import claims, grid, tables
from diffinfo.report.figures import FIGURES
from diffinfo.report.results import CAPTIONS, _cited
from diffinfo.tables import artifacts

ROOT = Path(__file__).resolve().parents[2]
ROW = "micro-mistral/magpie-pro"
OUTSIDE = re.compile(r"(?:src|href)=\"(?!data:|#)([^\"]+)\"|url\((?!data:|%23)([^)]+)\)|@import")


@pytest.fixture(scope="module")
def results(shared_tree) -> Path:
    """A results folder with a page: claims of three verdicts, a table of the paper, one of ours, figures, a benchmark file."""
    tree, root, rng = shared_tree, shared_tree.root, np.random.default_rng(1)
    logs = [tree.log(f"{ROW}/{method}", -5, -9) for method in ("dpo-b0.2", "dpo-b0.1")]
    qa = [tree.qa(f"{ROW}/{method}", values) for method, values in (("dpo-b0.1", [0.5, 0.6]), ("dpo-pg", [0.6, 0.5]))]
    entropies = [
        tree.entropy(f"entropy/{ROW}/logpi-b0.1/epoch-5", 40.0),
        tree.entropy(f"entropy/{ROW}/ref/epoch-0", 45.0),
    ]
    pairs = [tree.heldout(f"{ROW}/dpo-b0.1", {5: rng.normal(-3, 1, 50)}, {5: rng.normal(0.01, 1, 50)})]
    pairs += [tree.heldout(f"{ROW}/dpo-pg", {5: rng.normal(-3, 1, 50)}, {5: rng.normal(-3, 1, 50)})]
    grid.main(inputs=[*logs, *qa], out=root / "tables/grid.parquet")
    tables.table1(inputs=entropies, out=root / "tables/table1.parquet")
    FIGURES["figure2"](inputs=logs, out=root / "figures/figure2.parquet")
    FIGURES["figure10"](inputs=logs, out=root / "figures/figure10.parquet")
    FIGURES["figure3"](inputs=qa, out=root / "figures/figure3.parquet")
    claims.main(inputs=[*pairs, root / "tables/table1.parquet"], out=root / "claims.parquet")
    shutil.copy(root / "tables/table1.md", root / "tables/updates.md")
    timed = root / "benchmarks/sft/micro-mistral/magpie-pro.tsv"
    timed.parent.mkdir(parents=True)
    timed.write_text("s\n90\n")
    spent.main(
        configuration=load(ROOT / "config.yaml").model_dump(mode="json"),
        benchmarks={"sft": f"{root}/benchmarks/sft/{{model}}/{{dataset}}.tsv"},
        tables=[root / f"tables/{name}.md" for name in ("grid", "updates", "table1")],
        figures=[root / f"figures/{name}.svg" for name in ("figure10", "figure2", "figure3")],
        claims=root / "claims.parquet",
        out=root / "report.html",
    )
    return root


class Reader(HTMLParser):
    """Headings, alternative texts and links in order, and whether every element is closed."""

    def __init__(self, page: Path) -> None:
        super().__init__()
        self.open, self.images, self.headings, self.links, self.ids = [], [], [], [], []
        self.feed(page.read_text())
        assert self.open == []

    def handle_starttag(self, tag, attributes):
        found = dict(attributes)
        self.ids += [found["id"]] if "id" in found else []
        self.links += [found["href"]] if tag == "a" else []
        self.images += [found] if tag == "img" else []
        if tag not in ("meta", "link", "img", "br", "input"):
            self.open.append(tag)

    def handle_data(self, data):
        if self.open and re.fullmatch("h[1-6]", self.open[-1]) and data.strip():
            self.headings.append((int(self.open[-1][1]), data.strip()))

    def handle_endtag(self, tag):
        assert self.open.pop() == tag


def test_the_page_holds_all_by_itself_and_links_to_what_exists(results):
    page = results / "report.html"
    text = page.read_text()
    assert page.stat().st_size < 5e6
    read = Reader(page)
    assert len(set(read.ids)) == len(read.ids)
    for link in read.links:
        if link.startswith("#"):
            assert link[1:] in read.ids or link in ("#ours", "#grid"), link
        else:
            assert (results / link).is_file(), link
    for image in read.images:
        assert image["src"].startswith("data:image/")
        assert len(image["alt"]) > 40
    assert not {a or b for a, b in OUTSIDE.findall(text)} - set(read.links)
    for name in (
        "tables/grid.parquet",
        "tables/table1.parquet",
        "tables/table1.csv",
        "figures/figure2.parquet",
        "spent.parquet",
    ):
        assert name in read.links
        assert name.endswith(".csv") or f"snakemake --cores 2 {results}" in text


def test_headings_have_an_order(results):
    found = Reader(results / "report.html").headings
    assert found[0][0] == 1
    assert all(level - before <= 1 for (before, _), (level, _) in pairwise(found))
    titles = [title for _, title in found]
    figures = [title for title in titles if title.startswith("Figure")]
    assert figures == sorted(figures, key=lambda title: int(re.search(r"\d+", title)[0]))
    assert len(figures) == 3


def test_counts_are_those_of_the_claims_table(results):
    frame = artifacts.read(results / "claims.parquet", "claims")
    counts = frame.verdict.value_counts()
    assert set(counts.index) == {"holds", "does not hold", "undecided"}
    text = (results / "report.html").read_text()
    assert f"{counts['holds']} of {len(frame)} tests do, {counts['does not hold']} do not" in text
    row = frame[frame.verdict == "does not hold"].iloc[0]
    number = f"{row.value:.3g} [{row.low:.3g}, {row.high:.3g}]".replace("-", "−")
    assert number in text
    assert text.count('class="claim"') == frame.claim.nunique()


def test_what_was_run_and_what_it_cost(results):
    text = " ".join(re.sub("<[^>]+>", "", (results / "report.html").read_text()).split())
    assert "micro-mistral (300,000 parameters) and micro-gemma2 (300,000 parameters): " in text
    assert "trainings of 3 epochs, β = 0.2, 0.1, 0.05, 0.02, 1 seed;" in text
    assert "1 jobs, 2 minutes one after the other" in text
    config = load(ROOT / "config.yaml")
    cells = {(r.model, r.dataset, m) for r in config.grid for m in config.methods(r)}
    assert f"{len(cells)} trainings" in text
    assert load(results / "config.yaml") == config  # what is written beside it makes the same run


def test_the_papers_numbers_are_marked(results):
    text = (results / "report.html").read_text()
    assert re.search(r'<th scope="col" class="paper">H\(p\*<sup>1/β</sup>\), paper</th>', text)
    assert '<td class="paper">693.74</td>' in text


@pytest.mark.parametrize(
    ("source", "cited"),
    [
        ("Section 4.3, Figures 2 and 10", {"Figure 2", "Figure 10"}),
        ("Section 4.3, Table 1", {"Table 1"}),
        ("our check of Tables 2 and 3", {"Table 2", "Table 3"}),
        ("Appendix K.1", set()),
    ],
)
def test_what_a_claim_cites(source, cited):
    assert _cited(source) == cited


def test_every_figure_and_table_of_the_workflow_has_a_caption():
    names = {"grid", "table1", "table2", "table3", "claims", "updates", "target", "did_smc", "matched", "rejected"}
    names |= {
        "laboratory",
        "theorems",
        "costs",
        "wb_reward",
        "arena_hard_v2",
        "did_proxy",
        "rejected_sampling",
        "lengths",
        "figure1",
        "figure7",
        *FIGURES,
    }
    assert names == {file.stem for file in CAPTIONS.glob("*.rst")}


# In a browser ---------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def tab(tmp_path_factory):
    if not browser.FOUND:
        pytest.skip(browser.MISSING)
    opened = browser.Browser(tmp_path_factory.mktemp("profile"))
    yield opened
    opened.close()


@pytest.mark.parametrize(("width", "height"), [(1400, 900), (390, 844)])
@pytest.mark.parametrize("dark", [False, True])
def test_first_screen_figures_and_console(results, tab, width, height, dark):
    tab.open(results / "report.html", width, height, dark)
    assert tab.faults() == []
    assert [address for address in tab.requests() if not address.startswith("data:")] == [
        (results / "report.html").resolve().as_uri()
    ]
    seen = tab.run("""[...document.querySelectorAll('h1, .tally, .cards section:first-child')].map(e => {
        const box = e.getBoundingClientRect(); return [box.left >= 0 && box.top >= 0 && box.right <= innerWidth,
        box.bottom <= innerHeight || e.tagName === 'SECTION'] })""")
    assert seen == [[True, True]] * 3  # the counts and the tally stand on the first screen
    assert re.match(
        r"Does the paper hold here\? \d+ of \d+ tests do",
        tab.run("document.querySelector('h1').innerText").replace("\n", " "),
    )
    assert tab.run("document.documentElement.scrollWidth") <= width  # nothing but tables scrolls sideways
    images = tab.run("""Promise.all([...document.images].map(i => i.decode().then(() => i.naturalWidth)))""")
    assert len(images) == 3
    assert min(images) > 300
    back, ink = tab.run("['backgroundColor', 'color'].map(k => getComputedStyle(document.body)[k])")
    light = [sum(map(int, re.findall(r"\d+", colour)[:3])) for colour in (back, ink)]
    assert (light[0] < light[1]) == dark
    assert abs(light[0] - light[1]) > 400


def test_a_click_sorts_and_a_second_one_turns_it_round(results, tab):
    tab.open(results / "report.html", 1400, 900)
    column = """(click => { const table = document.querySelector('#table1 table'), head = table.tHead.rows[0];
        const at = [...head.cells].findIndex(c => c.textContent === 'β');
        if (click) head.cells[at].querySelector('button').click();
        return [[...table.tBodies[0].rows].map(r => r.cells[at].textContent), head.cells[at].getAttribute('aria-sort')] })"""
    assert tab.run(f"{column}(false)") == [["0.2", "0.1", "0.05", "0.02"], None]
    assert tab.run(f"{column}(true)") == [["0.02", "0.05", "0.1", "0.2"], "ascending"]
    assert tab.run(f"{column}(true)") == [["0.2", "0.1", "0.05", "0.02"], "descending"]


def test_a_link_opens_the_claim_that_it_leads_to(results, tab):
    tab.open(results / "report.html", 1400, 900)
    assert tab.run("document.getElementById('claim-b').open") is False
    tab.run("new Promise(done => { addEventListener('hashchange', done); location.hash = '#claim-b' }).then(() => 0)")
    assert tab.run("document.getElementById('claim-b').open") is True


def test_print_shows_everything(results, tab):
    tab.open(results / "report.html", 1400, 900)
    assert len(json.dumps(tab.call("Page.printToPDF")["data"])) > 50_000
    assert tab.run("[...document.querySelectorAll('details')].every(e => e.open)") is True
