"""A study's TensorBoard directory, read by a real TensorBoard server over HTTP."""

import pytest

from xtr.errors import DataError
from xtr.evaluate.results import sample_order
from xtr.study import transfer
from xtr.study.export import export_tensorboard
from xtr.study.scaling import headline, scalings


@pytest.fixture
def study(make_study, expected, tmp_path):
    store = make_study()
    table = transfer.build(store.read(), store.contributions, expected, resamples=300)
    (tmp_path / "operative_config.gin").write_text("TRAIN_STEPS = 7\n")
    logdir = export_tensorboard(tmp_path, table, store, {"title": "A study", "notice": "", "code": "abc"}, samples=2)
    return store, table, logdir


def test_a_real_server_shows_the_study(study, tmp_path, start_board):
    _, table, logdir = study
    (model,) = table.models
    assert logdir == tmp_path / "tensorboard"
    board = start_board(logdir)
    tags = board.wait_for_runs(1 + 3 * 3 * 3)
    cell = table.cell(model, "mnli", "xnli")

    points = board.ask("scalars/scalars", run="mt5-small", tag="transfer/xnli/gain_low/mnli")
    assert points[0][2] == pytest.approx(cell.gain.low, abs=1e-4)
    session = "mt5-small/mnli/xquad/seed1"
    wanted = {
        f"xquad/{m}/{place}" for m in ("em", "f1") for place in ("en", "de", "zh", "mean", "zero-shot", "gap_to_en")
    }
    assert set(tags[session]) == wanted | {"score/mean", "score/zero-shot", "score/English", "gain/zero-shot"}
    assert board.ask("scalars/scalars", run=session, tag="xquad/em/de")[0][1] == 1000

    columns = board.ask("hparams/experiment", {"experimentName": "", "includeMetrics": True})
    names = {info["name"] for info in columns["hparamInfos"]}
    assert names == {"model", "family", "parameters", "intermediate", "target"}
    query = {
        "experimentName": "",
        "allowedStatuses": ["STATUS_SUCCESS"],
        "colParams": [{"metric": {"tag": tag, "group": ""}} for tag in ("score/zero-shot", "gain/zero-shot")],
        "aggregationType": "AGGREGATION_AVG",
        "startIndex": 0,
        "sliceSize": 100,
    }
    groups = board.ask("hparams/session_groups", query)["sessionGroups"]
    assert len(groups) == 9 and {len(group["sessions"]) for group in groups} == {3}
    for group in groups:
        cell = table.cell(model, group["hparams"]["intermediate"], group["hparams"]["target"])
        values = {value["name"]["tag"]: value["value"] for value in group["metricValues"]}
        assert values["score/zero-shot"] == pytest.approx(cell.score.value, abs=1e-4)
        if cell.gain is not None:
            assert values["gain/zero-shot"] == pytest.approx(cell.gain.value, abs=1e-4)

    texts = board.ask("text/tags")["."]
    assert {"answer", "provenance", "operative config", "transfer table/mt5-small"} <= set(texts)
    assert sum(tag.startswith("samples/") for tag in texts) == 10
    sample = board.ask("text/text", run=".", tag="samples/mt5-small/xnli/de")[0]["text"]
    chosen = sorted((f"xnli-{n}" for n in range(120)), key=sample_order)[:2]
    assert sample.count("<tr>") == 3
    assert all(f"answer {i.removeprefix('xnli-')} | with a bar" in sample for i in chosen)
    assert "TRAIN_STEPS = 7" in board.ask("text/text", run=".", tag="operative config")[0]["text"]

    assert list(board.ask("images/tags")["."]) == ["zero-shot gains/mt5-small"]
    image = board.ask("images/images", run=".", tag="zero-shot gains/mt5-small", sample=0)[0]
    assert board.raw(f"images/individualImage?{image['query']}").startswith(b"\x89PNG")
    categories = {c["title"]: c["chart"] for c in board.ask("custom_scalars/layout")["category"]}
    assert [chart["title"] for chart in categories["languages"]] == ["xnli", "xquad", "tatoeba"]
    gains = categories["gains by intermediate"]
    assert gains[0] == {"title": "xnli", "multiline": {"tag": ["transfer/xnli/gain/.*"]}}
    (pattern,) = categories["languages"][1]["multiline"]["tag"]
    matched = board.ask("custom_scalars/scalars", run=session, tag=pattern)
    assert set(matched["tag_to_events"]) == {f"xquad/{m}/{place}" for m in ("em", "f1") for place in ("en", "de", "zh")}


def test_exporting_again_replaces_only_its_own_files(study, tmp_path):
    store, table, logdir = study
    other = logdir / "events.out.tfevents.1.other"
    other.write_bytes(b"")
    before = sorted(path.parent for path in logdir.glob("**/*.study"))

    def nothing(*place):
        raise DataError("no predictions")

    export_tensorboard(tmp_path, table, store, {}, read_predictions=nothing)
    assert sorted(path.parent for path in logdir.glob("**/*.study")) == before and other.exists()


def test_several_sizes_show_the_verdict_and_gain_by_size(make_study, recipe, expected, tmp_path, start_board):
    models = (("mt5-small", 300_176_768), ("mt5-base", 582_401_280))
    store = make_study(recipe(models=models, examples=40, seeds=(0, 1)))
    table = transfer.build(store.read(), store.contributions, expected, resamples=100)
    board = start_board(export_tensorboard(tmp_path, table, store, {}, samples=1))
    board.wait_for_runs(2 + 2 * 3 * 3 * 2 + 1)
    (opening,) = headline(scalings(table, mixed=False))
    text = board.ask("text/text", run=".", tag="answer")[0]["text"]
    assert opening.verdict in text and "<strong>mt5: " in text
    assert opening.slope.text(signed=True) in board.ask("text/text", run=".", tag="verdicts")[0]["text"]
    assert "gain by model size" in board.ask("images/tags")["."]
    tag = f"scale/{opening.target}/gain/{opening.intermediate}"
    points = board.ask("scalars/scalars", run="scale-mt5", tag=tag)
    assert [point[1] for point in points] == [parameters for _, parameters in models]
    assert [point[2] for point in points] == pytest.approx([size.gain.value for size in opening.gains], abs=1e-4)
    for name, number in (("slope", opening.slope), ("largest_minus_smallest", opening.contrast)):
        tag = f"scale/{opening.target}/{name}_low/{opening.intermediate}"
        assert board.ask("scalars/scalars", run="scale-mt5", tag=tag)[0][2] == pytest.approx(number.low, abs=1e-3)
