"""The page: whole, self-contained, and with the store's numbers."""

import dataclasses
import re
from html.parser import HTMLParser

import pytest

from xtr.coverage import XTREME
from xtr.evaluate.results import ResultStore
from xtr.export import source, webpage

VOID = {"meta", "br"}


class Reader(HTMLParser):
    """Fails on open tags and on anything fetched; collects tables: [[(text, value)]]."""

    def __init__(self):
        super().__init__()
        self.open, self.tables, self.text, self._value, self._script = [], [], [], None, False

    def handle_starttag(self, tag, attributes):
        given = dict(attributes)
        if tag not in VOID:
            self.open.append(tag)
        assert not {"src", "srcset", "href"} & set(given) and tag not in ("link", "iframe", "img")
        assert "http" not in (given.get("style") or "")
        if tag == "table":
            self.tables.append([])
        if tag == "tr":
            self.tables[-1].append([])
        if tag in ("td", "th"):
            self.tables[-1][-1].append(["", float(given["data-value"]) if "data-value" in given else None])

    def handle_endtag(self, tag):
        if tag not in VOID:
            assert self.open.pop() == tag, self.getpos()

    def handle_data(self, data):
        if {"td", "th"} & set(self.open):
            self.tables[-1][-1][-1][0] += data
        elif "script" not in self.open and "style" not in self.open:
            self.text.append(data)


def read(path):
    reader = Reader()
    content = path.read_bytes().decode()
    reader.feed(content)
    assert not reader.open and "@import" not in content and "fetch(" not in content and "url(" not in content
    return reader.tables, " ".join(reader.text)


def table(tables, corner, wanted):
    """{(line, column): (text, value)} of the table with a corner whose columns hold what is wanted."""
    for lines in tables:
        header = [cell for cell, _ in lines[0]]
        if header[0] == corner and wanted <= set(header):
            return {(line[0][0], c): tuple(cell) for line in lines[1:] for c, cell in zip(header, line, strict=True)}
    raise AssertionError(f"no table of {corner} with {wanted}")


def test_one_system(complete, tmp_path):
    tables, text = read(webpage.write_html(source.read([complete]), tmp_path / "r.html"))
    languages = table(tables, "language", {"xnli", "pawsx", "lareqa"})
    values = ResultStore(complete).read().set_index(["target", "language", "metric"])["value"]
    assert languages["sw", "xnli"] == (f"{values['xnli', 'sw', 'accuracy']:.1f}", values["xnli", "sw", "accuracy"])
    assert languages["sw", "pawsx"] == ("–", None) and len({line for line, _ in languages}) == 50
    averages = table(tables, "", {"mt5-small · none"})
    assert {"overall", "overall without retrieval", "xcopa", "multi choice"} <= {line for line, _ in averages}
    means = table(tables, "target", {"mean over all languages", "gap to English"})
    xnli = {code: values["xnli", code, "accuracy"] for code in XTREME["xnli"].split()}
    assert means["xnli", "mean over all languages"][1] == pytest.approx(sum(xnli.values()) / 15, rel=1e-12)
    metrics = table(tables, "", {"em", "illegal form", "wrong language"})
    assert metrics["mt5-small · none · ro", "illegal form"][1] == values["xquad", "ro", "illegal_form"]
    assert "XTREME-R" in text and "evaluate.limit = None" in text and "Zero-shot gains" not in text
    samples = table(tables, "id", {"input", "gold", "none"})
    assert all(cell == f"none <b>{line[1:]}</b> | *x*" for (line, c), (cell, _) in samples.items() if c == "none")


def test_several_systems(study, tmp_path):
    tables, text = read(webpage.write_html(source.read([study]), tmp_path / "r.html", count=2))
    values = ResultStore(study / "results").read()
    values = values[(values["target"] == "xnli") & (values["intermediate"] == "mnli")]
    languages = table(tables, "language", {"none", "mnli", "squad_v1"})
    mean = values[values["language"] == "sw"]["value"].mean()
    assert languages["sw", "mnli"][1] == pytest.approx(mean, rel=1e-12)  # over two seeds
    gains = table(tables, "intermediate", {"xnli", "xquad", "tatoeba"})
    assert {line for line, _ in gains} == {"mnli", "squad_v1"} and re.fullmatch(
        r"[+-]\d+\.\d", gains["mnli", "xnli"][0]
    )
    assert "3 systems, 3 targets, 3 languages, 2 seeds" in text


def test_without_predictions_and_with_odd_names(tmp_path, row):
    odd = '<script>alert("x")</script>'
    ResultStore(tmp_path).append([dataclasses.replace(row, target=odd, metric="rouge")])
    tables, text = read(webpage.write_html(source.read([tmp_path]), tmp_path / "r.html", title=odd))
    assert odd in text and table(tables, "language", {odd})["en", odd] == ("50.0", 50.0)
