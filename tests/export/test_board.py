"""What a real TensorBoard server shows of exported results; and that all forms hold one set of numbers."""

import csv
import dataclasses
import re
import statistics
import subprocess
import sys

import numpy as np
import pandas as pd
import pytest

from xtr.evaluate.results import ResultStore, is_mean, sample_order
from xtr.export import source, tables, tensorboard, webpage


def test_a_real_server_shows_an_evaluation(complete, tmp_path, start_board):
    logdir = tensorboard.write(source.read([complete]), tmp_path / "board", count=3)
    board = start_board(logdir)
    tags = board.wait_for_runs(12 + 1)
    rows = ResultStore(complete).read()
    rows = rows[~rows["language"].map(is_mean)]

    def value(run, tag):
        ((_, step, found),) = board.ask("scalars/scalars", run=run, tag=tag)
        assert step == 1000
        return found

    session = "mt5-small/none/xquad/seed0"
    places = [*rows[rows["target"] == "xquad"]["language"].unique(), "mean", "zero-shot", "gap_to_en"]
    metrics = ("em", "f1", "illegal_form", "wrong_language")
    assert {tag for tag in tags[session] if tag.startswith("xquad/")} == {
        f"xquad/{m}/{p}" for m in metrics for p in places
    }
    em = rows[(rows["target"] == "xquad") & (rows["metric"] == "em")].set_index("language")["value"]
    assert value(session, "xquad/em/ro") == np.float32(em["ro"])
    others = statistics.fmean(em.drop("en"))
    assert value(session, "xquad/em/gap_to_en") == pytest.approx(em["en"] - others, abs=1e-4)
    assert value(session, "xquad/em/mean") == pytest.approx(em.mean(), abs=1e-4)
    layers = board.ask("scalars/scalars", run="mt5-small/none/tatoeba/seed0", tag="tatoeba/accuracy_by_layer/af")
    assert [point[1] for point in layers] == [0, 1, 2]
    averages = tags["mt5-small/none/benchmarks/seed0"]
    assert {"xtreme_r/overall", "xtreme_r/overall_without_retrieval", "xtreme/retrieval", "xtreme_r/xcopa"} <= set(
        averages
    )

    charts = {c["title"]: c["chart"] for c in board.ask("custom_scalars/layout")["category"]}
    assert len(charts["languages"]) == 12 and len(charts["illegal form, wrong language (%)"]) == 5
    assert [chart["title"] for chart in charts["benchmarks"]] == ["xtreme_r", "xtreme"]

    def drawn(category, title, run):
        (chart,) = [chart for chart in charts[category] if chart["title"] == title]
        (pattern,) = chart["multiline"]["tag"]
        return set(board.ask("custom_scalars/scalars", run=run, tag=pattern)["tag_to_events"])

    assert drawn("languages", "xquad", session) == {f"xquad/{m}/{p}" for m in ("em", "f1") for p in places[:-3]}
    assert drawn("averages", "xquad", session) == {f"xquad/{m}/{p}" for m in ("em", "f1") for p in places[-3:-1]}
    assert drawn("gap to English", "xquad", session) == {"xquad/em/gap_to_en", "xquad/f1/gap_to_en"}
    assert len(drawn("illegal form, wrong language (%)", "xquad", session)) == 2 * len(places)
    assert drawn("benchmarks", "xtreme_r", "mt5-small/none/benchmarks/seed0") == {
        t for t in averages if "xtreme_r/" in t
    }

    texts = board.ask("text/tags")["."]
    assert {"means over languages", "benchmarks", "operative config", "environment"} <= set(texts)
    assert "evaluate.limit = None" in board.ask("text/text", run=".", tag="operative config")[0]["text"]
    sample = board.ask("text/text", run=".", tag="samples/mt5-small/xquad/ro")[0]["text"]
    chosen = sorted((f"q{n}" for n in range(7)), key=sample_order)[:3]
    assert re.findall(r"<td>(q\d)</td>", sample) == chosen and f"text {chosen[0][1:]}" in sample
    assert all(f"none &lt;b&gt;{i[1:]}&lt;/b&gt; | *x*" in sample for i in chosen)
    assert list(board.ask("images/tags")["."]) == ["scores by language/mt5-small"]
    image = board.ask("images/images", run=".", tag="scores by language/mt5-small", sample=0)[0]
    assert board.raw(f"images/individualImage?{image['query']}").startswith(b"\x89PNG")


def test_seeds_share_a_line_of_the_table_and_gains_an_image(study, tmp_path, start_board):
    board = start_board(tensorboard.write(source.read([study]), tmp_path / "board"))
    board.wait_for_runs(18)
    columns = board.ask("hparams/experiment", {"experimentName": "", "includeMetrics": True})
    assert {info["name"] for info in columns["hparamInfos"]} == {
        "model",
        "family",
        "parameters",
        "intermediate",
        "target",
    }
    wanted = ("score/mean", "score/zero-shot", "score/English", "gain/zero-shot")
    query = {
        "experimentName": "", "allowedStatuses": ["STATUS_SUCCESS"], "aggregationType": "AGGREGATION_AVG",
        "colParams": [{"metric": {"tag": tag, "group": ""}} for tag in wanted], "startIndex": 0, "sliceSize": 100,
    }  # fmt: skip
    groups = board.ask("hparams/session_groups", query)["sessionGroups"]
    assert len(groups) == 9 and {len(group["sessions"]) for group in groups} == {2}
    rows = ResultStore(study / "results").read()
    rows = rows[~rows["language"].map(is_mean) & rows["metric"].isin(["em", "f1", "accuracy"])]

    def zero_shot(intermediate, target):
        own = rows[(rows["intermediate"] == intermediate) & (rows["target"] == target) & (rows["language"] != "en")]
        return own["value"].mean()

    for group in groups:
        intermediate, target = group["hparams"]["intermediate"], group["hparams"]["target"]
        values = {value["name"]["tag"]: value["value"] for value in group["metricValues"]}
        assert values["score/zero-shot"] == pytest.approx(zero_shot(intermediate, target), abs=1e-4)
        gain = zero_shot(intermediate, target) - zero_shot("none", target)
        assert values.get("gain/zero-shot") == (None if intermediate == "none" else pytest.approx(gain, abs=1e-4))
    assert list(board.ask("images/tags")["."]) == ["transfer/mt5-small"]


def test_exporting_again_replaces_and_leaves_others_alone(study, tmp_path, few):
    logdir = tmp_path / "board"
    tensorboard.write(source.read([study]), logdir)
    other = logdir / "mt5-small/events.out.tfevents.1.other"
    other.write_bytes(b"")
    (first, *_) = sorted((study / "stages").iterdir())
    tensorboard.write(source.read([first]), logdir)
    written = {path.parent for path in logdir.glob("**/*.export")}
    assert len(written) == 1 + len(few) and other.exists()
    assert {path for path in logdir.glob("**/seed*")} == written - {logdir}  # no empty folders stay


def test_an_evaluation_keeps_its_board_beside_its_rows_without_heavy_imports(tmp_path, make, few):
    make(tmp_path, few)
    code = (
        "import sys; from xtr.export.tensorboard import write_evaluation\n"
        f"assert str(write_evaluation({str(tmp_path)!r})) == {str(tmp_path / 'tensorboard')!r}\n"
        "assert not {'tensorflow', 'jax'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
    assert len(list(tmp_path.glob("tensorboard/**/*.export"))) == 4


def test_an_incomplete_mean_says_so_in_its_tag(tmp_path, row, start_board):
    de, fr = (dataclasses.replace(row, language=code) for code in ("de", "fr"))
    late = [dataclasses.replace(r, step=2000, value=60.0) for r in (de, fr)]
    ResultStore(tmp_path).append([de, fr, *late, dataclasses.replace(row, language="mean 2/15")])
    board = start_board(tensorboard.write(source.read([tmp_path]), tmp_path / "board"))
    ((run, tags),) = board.wait_for_runs(1).items()
    assert "xnli/accuracy/mean_2_of_15" in tags and "xnli/accuracy/mean" not in tags
    points = board.ask("scalars/scalars", run=run, tag="xnli/accuracy/de")
    assert [point[1:] for point in points] == [[1000, 50.0], [2000, 60.0]]


def test_all_forms_hold_the_same_numbers(complete, tmp_path, start_board):
    """Scores of every target and language, of metrics that are a score by themselves."""
    results = source.read([complete])
    rows = pd.read_parquet(tables.write_parquet(results, tmp_path / "r.parquet"))
    rows = rows[rows["metric"].isin(["accuracy", "span_f1", "map@20", "bucc_f1"]) & ~rows["language"].map(is_mean)]
    truth = {(r.target, r.language): r.value for r in rows.itertuples()}
    metric = {r.target: r.metric for r in rows.itertuples()}
    assert len(truth) == 15 + 7 + 11 + 38 + 48 + 41 + 4 + 11 + 11

    with open(tables.write_csv(results, tmp_path / "r.csv"), newline="") as lines:
        by_csv = {(r["target"], r["language"], r["metric"]): float(r["value"]) for r in csv.DictReader(lines)}
    assert all(by_csv[t, code, metric[t]] == value for (t, code), value in truth.items())

    latex = tables.write_latex(results, tmp_path / "r.tex", digits=2).read_text()
    body = latex[latex.index("score by language") :]
    header, *lines = [line.removesuffix(r" \\").split(" & ") for line in body.split("\n") if line.endswith(r" \\")]
    by_latex = {(t, line[0]): cell for line in lines for t, cell in zip(header, line, strict=True)}
    assert all(by_latex[key] == f"{value:.2f}" for key, value in truth.items())

    html = webpage.write_html(results, tmp_path / "r.html").read_text()
    body = html[html.index("<h2>Languages</h2>") :]
    body = body[: body.index("</table>")]
    targets = re.findall(r'<th scope="col">(.*?)</th>', body)[1:]
    by_html = {}
    for line in body.split('<th scope="row">')[1:]:
        cells = re.findall(r"<td(?: class=\"\w+\")?(?: data-value=\"(.*?)\")?.*?>(.*?)</td>", line)
        for target, (value, text) in zip(targets, cells, strict=True):
            by_html[target, line.partition("<")[0]] = (value, text)
    assert all(by_html[key] == (repr(value), f"{value:.1f}") for key, value in truth.items())

    board = start_board(tensorboard.write(results, tmp_path / "board"))
    board.wait_for_runs(13)
    for target, name in metric.items():
        run = f"mt5-small/none/{target}/seed0"
        found = board.ask("custom_scalars/scalars", run=run, tag=f"{target}/{name}/")["tag_to_events"]
        for key in (key for key in truth if key[0] == target):
            assert found[f"{target}/{name}/{key[1]}"][0][2] == np.float32(truth[key])
