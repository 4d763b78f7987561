"""What a study's stages say of its intermediate tasks, of retrieval and of its data."""

import dataclasses
import json
from pathlib import Path
from types import SimpleNamespace

import pytest

from xtr.study import collect, protocol
from xtr.study.graph import Cell, Stage
from xtr.study.jobs import Job
from xtr.study.spec import StudySpec

SPEC = StudySpec(
    name="s",
    study_dir="/s",
    models={"small": "small.gin", "large": "large.gin"},
    intermediates={"none": (), "all_nine": ("nine.gin",), "german": ("german.gin",)},
    targets={"xnli": "xnli.gin", "xquad": "xquad.gin", "tatoeba": "tatoeba.gin"},
    seeds=(0,),
)
DATA = {
    "all_nine": ("0.5 mnli-0a1b", "2 squad_v1-77", "1 qqp-9"),
    "german": ("1 mnli.de-1", "1 mnli.ru-2"),
    "xnli": ("1 mnli-0a1b",),
    "xquad": ("1 squad_v1-77",),
}


def run(name, **fields):
    model = SimpleNamespace(objectives=("span",), num_layers=24)
    given = {"mixture_or_task_name": name, "train_steps": 4, "batch_size": 2, "task_feature_lengths": {"inputs": 8}}
    given |= {"model": model, "embedding_layer": -1, "embedding_pooling": "mean"}
    return SimpleNamespace(**given | fields)


def job(stage, name, data=(), **fields):
    return Job(stage, run(name, **fields), {}, tuple(data), "a", Path("/nowhere") / stage.name)


@pytest.fixture
def jobs():
    """Two models x (none, all_nine, german) x (xnli, xquad, tatoeba), of one seed."""
    made = []
    for model in ("small", "large"):
        for intermediate in SPEC.intermediates:
            start = None
            if intermediate != "none":
                start = Stage("intermediate", model, intermediate)
                made.append(job(start, intermediate, DATA[intermediate]))
            for target in SPEC.targets:
                end = start
                if target in DATA:
                    end = Stage("target", model, intermediate, target, parent=start)
                    made.append(job(end, "t", DATA[target]))
                scored = Stage("evaluate", model, intermediate, target, parent=end)
                more = {"embedding_layer": 14} if model == "large" else {}
                made.append(job(scored, target, [f"1 {target}.de-5"], **more))
    return made


def test_overlaps_follow_from_what_stages_read(jobs):
    assert collect.shared_data(SPEC, jobs) == {"all_nine": ("xnli", "xquad"), "german": ("xnli",)}
    said = dataclasses.replace(SPEC, overlaps={"german": ("xquad",)})
    assert collect.shared_data(said, jobs) == {"german": ("xquad",)}


def test_the_protocol_says_what_is_not_zero_shot(jobs):
    lines = collect.protocol(SPEC, jobs)
    assert "german is trained in de, ru, on data of xnli: after it these languages are not zero-shot there." in lines
    assert not any("all_nine is trained in" in line for line in lines)


def test_every_pair_of_the_plan_is_expected():
    cells = [Cell("small", "none", "xnli", seed, Stage("evaluate", "small")) for seed in (0, 1)]
    cells.append(Cell("large", "german", "xquad", 0, Stage("evaluate", "large")))
    assert collect.planned(cells) == {"small": [("none", "xnli")], "large": [("german", "xquad")]}


def test_each_retrieval_target_says_how_each_model_is_read(jobs):
    dual = SimpleNamespace(objectives=("contrastive",), pooling="first", pooler=True, num_layers=24)
    bucc = job(Stage("evaluate", "small", "none", "bucc"), "bucc2018", embedding_pooling="last")
    jobs += [job(Stage("evaluate", "small", "none", "lareqa"), "lareqa", model=dual), bucc]
    lines = {line.split(":")[0]: line for line in collect.protocol(SPEC, jobs) if line.startswith("Retrieval")}
    assert set(lines) == {"Retrieval, tatoeba", "Retrieval, lareqa", "Retrieval, bucc"}
    tatoeba = lines["Retrieval, tatoeba"]
    assert "small: the mean over tokens of layer 24 of 24; large: the mean over tokens of layer 14 of 24" in tatoeba
    assert "nearest by cosine" in tatoeba and "English queries" in tatoeba
    lareqa = lines["Retrieval, lareqa"]
    assert "mAP@20" in lareqa and "dual encoder's own vector (the first token, a dense layer and tanh)" in lareqa
    assert "layer 24" not in lareqa and "English queries" not in lareqa
    assert "ratio margin" in lines["Retrieval, bucc"] and "the last token of layer 24" in lines["Retrieval, bucc"]


def test_without_retrieval_nothing_is_said_of_it(jobs):
    found = [one for one in jobs if one.stage.target != "tatoeba"]
    assert not any(line.startswith("Retrieval") for line in collect.protocol(SPEC, found))


def test_where_the_numbers_come_from_names_the_data(tmp_path):
    kept = {
        "format": protocol.FORMAT,
        "code": [],
        "vocabularies": {"small": "aa", "base": "aa", "bloom": "bb"},
        "data": {
            "small.xnli.de": "xnli.de-1",
            "bloom.xnli.de": "xnli.de-2",
            "small.mnli": "mnli-3",
            "bloom.mnli": "mnli-3",
        },
    }
    (tmp_path / protocol.FILE).write_text(json.dumps(kept))
    facts = collect.provenance(dataclasses.replace(SPEC, study_dir=str(tmp_path)), [])
    assert facts["vocabularies read"] == "small, base: SHA-256 aa\nbloom: SHA-256 bb"
    assert facts["data read"] == "mnli  3\nxnli.de  small: 1; bloom: 2"
