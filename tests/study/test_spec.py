"""The spec of a study: models of several families, selectors of overrides, targets of two stages; and its graph."""

import dataclasses

import pytest

from xtr import config
from xtr.cli.study_load import GinFiles
from xtr.errors import UserError
from xtr.study.graph import Stage, plan
from xtr.study.jobs import stage_overrides
from xtr.study.spec import StudySpec

INTERMEDIATES = {"none": (), "mnli": ("intermediate/mnli.gin",), "squad": ("intermediate/squad_v1.gin",)}
TARGETS = {
    "xnli": "targets/xnli.gin",
    "xcopa": ("targets/siqa.gin", "targets/xcopa.gin"),
    "lareqa": "targets/lareqa.gin",
    "tatoeba": "targets/tatoeba.gin",
}
MODELS = {
    "mt5": "models/mt5/small.gin",
    "xlmr": {"gin_file": "models/xlmr/large.gin", "recipes": "encoder", "initial_checkpoint": "/xlmr"},
    "bloom": {"gin_file": "models/bloom/560m.gin", "vocabulary_path": "/bloom", "targets": {"lareqa": None}},
}


def study(**fields) -> StudySpec:
    given = {"models": MODELS, "intermediates": INTERMEDIATES, "targets": TARGETS, "seeds": (0, 1)}
    return StudySpec(**{"name": "s", "study_dir": "/s", "vocabulary_path": "/v"} | given | fields)


def stages(spec) -> dict[str, Stage]:
    return {stage.name: stage for stage in plan(spec, GinFiles())[0]}


def test_each_family_takes_its_own_recipes():
    found = stages(study())
    assert found["target.mt5.mnli.xnli.seed0"].gin_files[-1] == "targets/xnli.gin"
    assert found["target.xlmr.mnli.xnli.seed0"].gin_files == (
        "models/xlmr/large.gin", "runs/finetune.gin", "targets/encoder/xnli.gin",
    )  # fmt: skip
    assert found["intermediate.xlmr.squad.seed1"].gin_files[-1] == "intermediate/encoder/squad_v1.gin"
    assert found["intermediate.bloom.squad.seed1"].gin_files[-1] == "intermediate/squad_v1.gin"
    # A dual encoder is trained where a model takes it; a model that writes is scored as it is.
    assert "target.xlmr.none.lareqa.seed0" in found and "target.mt5.none.lareqa.seed0" not in found
    assert not any(".bloom." in name and "lareqa" in name for name in found)
    # Nothing is trained for Tatoeba, so that no recipe is missing.
    assert found["evaluate.xlmr.mnli.tatoeba.seed1"].gin_files[-1] == "targets/tatoeba.gin"
    assert found["evaluate.xlmr.none.tatoeba"].parent is None


@pytest.mark.parametrize("model", MODELS)
def test_every_stage_of_every_family_is_a_run(model):
    spec = study(models={model: MODELS[model]})
    for stage in {stage.gin_files: stage for stage in stages(spec).values()}.values():
        entry, place = ("evaluate", "EVAL_OUTPUT_DIR") if stage.kind == "evaluate" else ("train", "MODEL_DIR")
        source = "CHECKPOINT_PATH" if entry == "evaluate" else "INITIAL_CHECKPOINT_PATH"
        said = stage_overrides(spec, stage) | {place: "/d", source: "/c"}
        config.load(stage.gin_files, [f"{name}={value!r}" for name, value in said.items()], entry=entry)
        assert config.build(entry).vocabulary_path == spec.vocabulary(model)


def test_a_target_of_two_stages_is_a_chain_that_starts_from_the_intermediate():
    found = stages(study())
    last = found["target.xlmr.mnli.xcopa.seed1"]
    assert last.parent.name == "target.xlmr.mnli.siqa.seed1" and last.gin_files[-1] == "targets/encoder/xcopa.gin"
    assert last.parent.parent is found["intermediate.xlmr.mnli.seed1"]
    assert found["evaluate.xlmr.mnli.xcopa.seed1"].parent == last
    # A target that is another's first stage is trained once.
    both = stages(study(targets=TARGETS | {"siqa": "targets/siqa.gin"}))
    assert both["evaluate.mt5.none.siqa.seed0"].parent is both["target.mt5.none.xcopa.seed0"].parent
    with pytest.raises(UserError, match="two different stages are named target.mt5.none.siqa.seed0"):
        stages(study(targets=TARGETS | {"siqa": "targets/xnli.gin"}))


def test_an_intermediate_checkpoint_is_one_stage_for_all_targets():
    spec = study(
        models={"mt5": "models/mt5/small.gin"}, targets={"xnli": TARGETS["xnli"], "tatoeba": TARGETS["tatoeba"]}
    )
    order, cells = plan(spec, GinFiles())
    kinds = [stage.kind for stage in order]
    # 2 seeds x 2 intermediates; x 3 with 'none' targets; evaluations: 6 of XNLI, 4 of Tatoeba and one without any seed.
    assert [kinds.count(kind) for kind in ("intermediate", "target", "evaluate")] == [4, 6, 11]
    assert len(cells) == 2 * 3 * 2 and len(set(order)) == len(order)
    assert all(stage.parent is None or order.index(stage.parent) < i for i, stage in enumerate(order))


def test_the_nearest_override_wins():
    spec = study(
        overrides={"A": 1, "B": 1, "C": 1, "D": 1, "E": 1, "F": 1},
        stage_overrides={"target": {"B": 2, "C": 2, "D": 2, "E": 2, "F": 2}, "target.xnli": {"C": 3, "D": 3, "F": 3}},
        models={"m": {"gin_file": "models/mt5/small.gin", "overrides": {"D": 4, "E": 4, "F": 4},
                      "stage_overrides": {"target": {"E": 5, "F": 5}, "target.xnli": {"F": 6}}}},
    )  # fmt: skip
    said = stage_overrides(spec, Stage("target", "m", "mnli", "xnli", seed=3))
    assert [said[name] for name in "ABCDEF"] == [1, 2, 3, 4, 5, 6] and said["RANDOM_SEED"] == 3
    other = stage_overrides(spec, Stage("target", "m", "mnli", "xcopa"))
    assert [other[name] for name in "ABCDEF"] == [1, 2, 2, 4, 5, 5]
    assert stage_overrides(spec, Stage("evaluate", "m", "mnli", "xnli"))["F"] == 4
    only = study(stage_overrides={"intermediate.squad": {"A": 7}})
    assert stage_overrides(only, Stage("intermediate", "mt5", "squad"))["A"] == 7
    assert "A" not in stage_overrides(only, Stage("intermediate", "mt5", "mnli"))


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"stage_overrides": {"target.xnil": {}}}, "stage_overrides has 'target.xnil'.*Did you mean target.xnli"),
        ({"stage_overrides": {"targets": {}}}, "Did you mean target"),
        ({"stage_overrides": {"intermediate.none": {}}}, "nothing of this study"),
        ({"models": {"m": {"gin_file": "x", "stage_overrides": {"evaluate.siqa": {}}}}}, r"models\['m'\].stage_overr"),
        ({"models": {"m": {"gin_file": "x", "recipe": "encoder"}}}, "Did you mean recipes"),
        ({"models": {"m": {"recipes": "encoder"}}}, "must be a gin file, or a mapping with 'gin_file'"),
        ({"models": {"m": {"gin_file": "x", "targets": {"xnil": None}}}}, "Did you mean xnli"),
        ({"overlaps": {"mnli": ("xnil",)}}, "Did you mean xnli"),
        ({"selection": "best"}, "study.selection is 'best'; it must be 'last'"),
        ({"workers": 0}, "study.workers is 0"),
        ({"seeds": (1, 1)}, "different numbers"),
        ({"intermediates": {"mnli": ()}}, "'none' with no gin file"),
        ({"models": {"a.b": "x"}}, "may not hold"),
    ],
)
def test_what_a_spec_refuses(fields, message):
    with pytest.raises(UserError, match=message):
        study(**fields)


def test_what_a_plan_refuses(tmp_path):
    own = tmp_path / "own.gin"
    own.write_text("train.mixture_or_task_name = 'mnli'\nevaluate.mixture_or_task_name = 'xnli'\n")
    with pytest.raises(UserError, match="target own of model xlmr: there is no .*encoder/own.gin.*'encoder'"):
        plan(study(models={"xlmr": MODELS["xlmr"]}, targets={"own": str(own)}), GinFiles())
    own.write_text("train.mixture_or_task_name = 'mnli'\n")
    with pytest.raises(UserError, match="does not set evaluate.mixture_or_task_name"):
        plan(study(models={"mt5": MODELS["mt5"]}, targets={"own": str(own)}), GinFiles())
    with pytest.raises(UserError, match="tatoeba.gin sets no train.mixture_or_task_name, but another stage follows"):
        plan(
            study(models={"mt5": MODELS["mt5"]}, targets={"t": ("targets/tatoeba.gin", "targets/xnli.gin")}), GinFiles()
        )
    with pytest.raises(UserError, match="Did you mean"):
        plan(study(models={"mt5": MODELS["mt5"]}, targets={"t": "targets/xnly.gin"}), GinFiles())


def test_fields_of_a_model_are_documented():
    from xtr.study.spec import StudyModel

    for cls in (StudyModel, StudySpec):
        undocumented = [f.name for f in dataclasses.fields(cls) if f"{f.name}" not in cls.__doc__]
        assert set(undocumented) <= {"task_modules", "tfds_tasks", "data_dir", "cache_dir"}
