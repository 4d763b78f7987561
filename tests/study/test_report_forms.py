"""The report's forms hold the same numbers, open with the verdict, and are well-formed."""

import re
import shutil
import subprocess
from html.parser import HTMLParser

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from xtr.export import page
from xtr.study import latex, simulate, transfer
from xtr.study.report import write_report
from xtr.study.scale_plots import parameters_text
from xtr.study.scaling import headline, scalings
from xtr.study.spent import Spent

FAMILIES = {
    "mt5": (("mt5-small", 300_176_768), ("mt5-large", 1_229_581_312), ("mt5-xxl", 12_921_057_280)),
    "bloom": (("bloom-560m", 559_214_592), ("bloom-7b1", 7_069_016_064)),
    "xlmr": (("xlmr-large", 559_890_432),),
}
GAINS = {"mt5": (9.0, 6.0, 2.0), "bloom": (4.0, 4.0), "xlmr": (5.0,)}
TARGETS = {
    "xnli": ("en", "de", "sw"), "xcopa": ("et", "sw"), "tydiqa": ("en", "fi", "te"), "tatoeba": ("de", "sw"),
}  # fmt: skip
LAYER = 3


@pytest.fixture(scope="module")
def study():
    """(table, rows): three families, two intermediates whose names need escapes, retrieval with every layer."""
    rows, development, contributions = [], [], {}
    for n, (family, sizes) in enumerate(FAMILIES.items()):
        design = simulate.Design(sizes, ("m_nli", "qa&<b>"), TARGETS, seeds=4, examples=100, family=family)
        made = simulate.simulate(design, GAINS[family], seed=n)
        rows.append(made.rows)
        development.append(made.development)
        contributions |= made.contributions
    rows = pd.concat(rows, ignore_index=True)

    def load(key):
        return {f"{n:04d}": float(value) for n, value in enumerate(contributions[key])}

    table = transfer.build(
        rows,
        load,
        TARGETS,
        {"xnli": 100 / 3},
        resamples=200,
        development=pd.concat(development),
        overlaps={"m_nli": ["xnli"]},
    )
    retrieval = rows[rows["target"] == "tatoeba"]
    layers = [
        retrieval.assign(metric=f"accuracy/layer_{layer}", value=retrieval["value"] - 4.0 * abs(layer - LAYER))
        for layer in range(6)
    ]
    return table, pd.concat([rows, *layers], ignore_index=True)


@pytest.fixture(scope="module")
def written(study, tmp_path_factory):
    """The folder of the report."""
    spent = [
        Spent("mt5-small", "target", "TPU v5e", 4, 7200.0, 16.0),
        Spent("bloom-7b1", "evaluate", "", 1, 60.0, 1 / 60, 1),
    ]
    return write_report(tmp_path_factory.mktemp("study"), *study, {"title": "A study"}, spent=spent).parent


class Tables(HTMLParser):
    """Every table as lines of texts, by (section, heading before it)."""

    def __init__(self):
        super().__init__()
        self.found, self.section, self.heading, self.inside = {}, "", "", None

    def handle_starttag(self, tag, attributes):
        if tag in ("h2", "h3", "summary"):
            self.heading, self.inside = "", tag
        elif tag == "table":
            self.lines = self.found[self.section.strip(), self.heading.strip()] = []
        elif tag == "tr":
            self.lines.append([])
        elif tag in ("td", "th"):
            self.lines[-1].append("")
            self.inside = "cell"

    def handle_endtag(self, tag):
        if tag == "h2":
            self.section = self.heading
        if tag in ("h2", "h3", "summary", "td", "th", "small"):
            self.inside = None if tag != "small" else self.inside

    def handle_data(self, data):
        if self.inside == "cell":
            self.lines[-1][-1] += data
        elif self.inside:
            self.heading += data


def html_tables(folder):
    parser = Tables()
    parser.feed((folder / "report.html").read_text())
    return parser.found


def markdown_tables(folder):
    """The same of all Markdown files; escapes are undone."""
    found, section, heading = {}, "", ""
    for path in folder.glob("*.md"):
        for line in path.read_text().splitlines():
            if line.startswith("#"):
                heading = plain(line.lstrip("# "))
                section = heading if line.startswith("## ") else section
                section = _FILES.get(path.name.split(".")[0].split("-")[0], section)
            elif line.startswith("| ") and not line.startswith("| ---"):
                cells = re.split(r"(?<!\\) \| ", line[2:-2])
                found.setdefault((section, heading), []).append([plain(cell) for cell in cells])
    return found


_FILES = {"languages": "Language by language", "metrics": "Every metric"}


def plain(text):
    text = re.sub(r"(?<!\\)\*", "", text.replace("<br>", " "))  # bold and italic
    for escaped, character in (("&lt;", "<"), ("&amp;", "&")):
        text = text.replace(escaped, character)
    return re.sub(r"\\([\\|*_\[])", r"\1", text)


def numbers(text):
    return re.findall(r"[+-]?\d+\.\d", text)


def test_html_and_markdown_hold_the_same_tables(written):
    ours, theirs = html_tables(written), markdown_tables(written)
    ours = {
        (section, re.sub(r" \([^)]*(lines?|tables?|pairs)\)$", "", heading)): x
        for (section, heading), x in ours.items()
    }
    assert set(ours) == set(theirs)
    compared = 0
    for place, lines in ours.items():
        for mine, other in zip(lines, theirs[place], strict=True):
            assert mine[0] == other[0]
            behind = place[0] == "Zero-shot gains"  # there the intervals are shown on pointing
            found = [(numbers(cell), numbers(twin)) for cell, twin in zip(mine[1:], other[1:], strict=True)]
            assert all(a == (b[:1] if behind else b) for a, b in found), (place, mine[0])
            compared += sum(len(a) for a, _ in found)
    assert compared > 1000


def test_every_cell_is_in_every_form(study, written):
    table, _ = study
    source = re.sub(r"<[^>]+>", "", (written / "report.html").read_text())
    markdown = "".join(path.read_text().replace("\\", "") for path in written.glob("*.md"))
    frame = pd.read_csv(written / "transfer.csv").set_index(["model", "intermediate", "target", "view"])
    for cell in table.cells:
        name = cell.model.name
        parts = [f"transfer-{name}", f"languages-{name}-{cell.target}", f"english-{name}"]
        tex = "".join(p.read_text() for part in parts if (p := written / "tables" / f"{part}.tex").exists())
        line = frame.loc[name, cell.intermediate, cell.target, cell.view]
        for kind, number in (("score", cell.score), ("gain", cell.gain)):
            if number is None:
                assert np.isnan(line[kind])
                continue
            sign = "+" if kind == "gain" else ""
            interval = f"[{number.low:{sign}z.1f}, {number.high:{sign}z.1f}]"
            value = f"{number.value:{sign}z.1f}"
            assert (line[kind], line[f"{kind}_low"], line[f"{kind}_high"]) == pytest.approx(
                (number.value, number.low, number.high)
            )
            assert re.search(re.escape(value) + r"[*†‡]* " + re.escape(interval), source), cell
            assert re.search(re.escape(value) + r"[*†‡]* " + re.escape(interval), markdown), cell
            assert value in tex and f"{{\\tiny {interval}}}" in tex, cell


def test_the_scale_tables_are_the_scalings(study, written):
    table, _ = study
    tables = html_tables(written)
    tex = {family: (written / "tables" / f"scaling-{family}.tex").read_text() for family in ("mt5", "bloom")}
    for one in scalings(table, mixed=False):
        if one.slope is None or one.intermediate != transfer.POOLED:
            continue
        lines = {
            line[0]: line
            for line in tables["Gain by model size", f"{one.family}: the mean of intermediates on each target"]
        }
        line = lines[one.target.removeprefix("average ")]
        assert line[-1] == one.verdict
        assert line[-3:-1] == [number.text(signed=True) for number in (one.slope, one.contrast)]
        assert line[1:-3] == [size.gain.text(signed=True) for size in one.gains]
        assert f"{one.slope.value:+z.1f}" in tex[one.family] and one.verdict in tex[one.family]
    assert not (written / "tables" / "scaling-xlmr.tex").exists()


def test_the_report_opens_with_each_familys_verdict_and_figure(study, written):
    table, _ = study
    source = (written / "report.html").read_text()
    opening = source[: source.index("<nav")]
    answers = headline(scalings(table, mixed=False))
    assert [one.family for one in answers] == ["bloom", "mt5", "xlmr"]
    places = [opening.index(page.text(one.sentence)) for one in answers]
    assert places == sorted(places)
    for one in answers:
        assert page.text(one.power.sentence) in opening
        assert f'class="verdict {one.verdict}"' in opening
    assert opening.count("<svg") == 2  # a family of one size has no line
    markdown = (written / "report.md").read_text()
    assert markdown.index("gain-by-size-mt5.png") < markdown.index("## ")


def test_sections_come_in_the_order_of_the_questions(written):
    source = (written / "report.html").read_text()
    anchors = re.findall(r'<section id="([a-z-]+)"', source)
    wanted = ["scale", "gains", "transfer", "best-of", "languages", "layers", "split", "english"]
    wanted += ["published", "cost", "metrics"]
    assert anchors == [*wanted, "protocol", "missing"]
    assert re.findall(r'<a href="#([a-z-]+)"', source) == anchors


def test_the_parts_of_a_gain_add_up(study):
    from xtr.study.grids import parts

    table, _ = study
    for model in table.models:
        found = parts(table, model, ["tatoeba"])
        assert set(found) == {"other targets", "TyDiQA", "retrieval"}
        assert sum(found.values()) == pytest.approx(table.cell(model, transfer.POOLED, transfer.AVERAGE).gain.value)


def test_cost_is_what_was_measured(written):
    lines = {tuple(line[:2]): line for line in html_tables(written)["What it took", "What it took"]}
    assert lines["mt5-small", "target"][2:] == ["4", "TPU v5e", "2.0 h", "16.00"]
    assert lines["bloom-7b1", "evaluate"][2:] == ["1", "not recorded", "60.0 s", "0.02‡"]
    assert lines["total", "all"][-1] == "16.02"


def test_figures_are_files_of_their_own(written):
    for path in written.glob("figures/*.png"):
        with Image.open(path) as image:
            assert np.allclose(image.info["dpi"], 200, atol=0.1) and min(image.size) > 300, path
    for path in written.glob("figures/*.svg"):
        assert path.read_text().startswith("<?xml") and 'fill="white"' in path.read_text()
    for name in re.findall(r"!\[[^\]]*\]\(([^)]+)\)", (written / "report.md").read_text()):
        assert (written / name).exists()


def test_latex_tables_are_well_formed(written):
    for path in written.glob("tables/*.tex"):
        text = path.read_text()
        bare = text.replace(r"\{", "").replace(r"\}", "")
        assert bare.count("{") == bare.count("}"), path
        assert not re.search(r"[^\x00-\x7f]", text), path  # names are plain here: all else has a command
        for body in re.findall(r"\\toprule\n(.*?)\\bottomrule", text, flags=re.DOTALL):
            rows = [line for line in body.splitlines() if line.endswith(r"\\")]
            assert len({line.replace(r"\&", "").count("&") for line in rows}) == 1, path
    assert r"m\_nli" in (written / "tables" / "gains-mt5-small.tex").read_text()
    assert r"qa\&\textless{}b\textgreater{}" in (written / "tables" / "gains-mt5-small.tex").read_text()


def test_long_latex_tables_are_broken_into_pages(written):
    text = (written / "tables" / "layers-mt5-small-tatoeba.tex").read_text()
    assert text.count(r"\begin{table}") == 1
    from xtr.study.document import Document, Entry, Grid, Line, Section

    grid = Grid("long", "Long", "line", ["x"], [Line(f"[{n}", [Entry(text="1")]) for n in range(70)])
    made = latex.tables(Document("t", "", (), (), [Section("a", "A", [grid])]))["long"]
    assert made.count(r"\begin{table}") == 3 and made.count(r"1 \\") == 70
    assert "\n{}[0 & 1" in made  # after a line's end a bracket would be an argument


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("pdflatex") is None, reason="needs pdflatex")
def test_latex_tables_compile(written, tmp_path):
    shutil.copytree(written / "tables", tmp_path / "tables")
    command = ["pdflatex", "-interaction=nonstopmode", "-halt-on-error", "preview.tex"]
    done = subprocess.run(command, cwd=tmp_path / "tables", capture_output=True, text=True)
    assert done.returncode == 0, done.stdout[-2000:]


@pytest.mark.parametrize(
    ("parameters", "text"),
    [(312_320, "312k"), (300_176_768, "300M"), (1_229_581_312, "1.2B"), (3_002_557_440, "3B"), (12_921_057_280, "13B")],
)
def test_sizes_are_written_short(parameters, text):
    assert parameters_text(parameters) == text


def palette(scheme):
    """The page's colours as sRGB triples in 0..1."""
    blocks = re.findall(r":root \{(.*?)\}", page.page("t", []), flags=re.DOTALL)
    colors = {}
    for block in blocks[: 1 if scheme == "light" else 2]:
        colors |= {
            name: np.array([int(value[i : i + 2], 16) / 255 for i in (0, 2, 4)])
            for name, value in re.findall(r"--([a-z-]+): #([0-9a-f]{6})", block)
        }
    return colors


def contrast(a, b):
    """The WCAG 2 contrast ratio of two sRGB colours."""

    def luminance(rgb):
        linear = np.where(rgb <= 0.03928, rgb / 12.92, ((rgb + 0.055) / 1.055) ** 2.4)
        return linear @ [0.2126, 0.7152, 0.0722]

    high, low = sorted((luminance(a), luminance(b)), reverse=True)
    return (high + 0.05) / (low + 0.05)


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_text_has_contrast_in_both_schemes(scheme):
    c = palette(scheme)
    pairs = [("ink", "card"), ("quiet", "card"), ("quiet", "page"), ("link", "card"), ("up-ink", "card")]
    pairs += [("down-ink", "card"), ("notice-ink", "notice"), ("good-ink", "good"), ("bad-ink", "bad")]
    pairs.append(("open-ink", "open"))
    for text, ground in pairs:
        assert contrast(c[text], c[ground]) >= 4.5, (text, ground)
    for color in ("up", "down"):
        full = 0.7 * c[color] + 0.3 * c["card"]  # the deepest colour of a heat map
        assert contrast(c["ink"], full) >= 4.5, color
