"""gin: what is read, what is refused, and what each refusal says."""

import json

import pytest

from xtr import config
from xtr.cli.main import run
from xtr.errors import UserError

FINETUNE = ["models/mt5/small.gin", "runs/finetune.gin", "targets/xnli.gin"]
PLACES = ["MODEL_DIR=/tmp/run", "VOCABULARY_PATH=/tmp/sp.model"]


def load(files=FINETUNE, overrides=(), entry="train", search_paths=()):
    return config.load(files, [*PLACES, *overrides], search_paths, entry=entry)


def refusal(*args, **kwargs) -> str:
    with pytest.raises(UserError) as caught:
        load(*args, **kwargs)
    return str(caught.value)


def test_t5x_macros_work_verbatim(tmp_path):
    load(
        FINETUNE[:2],
        [
            "MIXTURE_OR_TASK_NAME='mnli'",
            "TASK_FEATURE_LENGTHS={'inputs': 512, 'targets': 84}",
            "TRAIN_STEPS=1_020_000",
            "INITIAL_CHECKPOINT_PATH='/ckpt/checkpoint_1000000'",
            "BATCH_SIZE=64",
            "DROPOUT_RATE=0.05",
            "LOSS_NORMALIZING_FACTOR=234496",
            "EVAL_PERIOD=100",
            "EVAL_STEPS=5",
            "RANDOM_SEED=7",
            "USE_CACHED_TASKS=False",
        ],
    )
    run = config.build("train")
    assert (run.mixture_or_task_name, run.task_feature_lengths) == ("mnli", {"inputs": 512, "targets": 84})
    assert (run.train_steps, run.batch_size, run.model.dropout_rate) == (1_020_000, 64, 0.05)
    assert (run.loss_normalizing_factor, run.eval_period, run.eval_steps) == (234496, 100, 5)
    assert (run.random_seed, run.use_cached_tasks) == (7, False)
    assert run.initial_checkpoint_path == "/ckpt/checkpoint_1000000"
    config.load(
        ["models/mt5/small.gin", "runs/eval.gin"],
        ["CHECKPOINT_PATH=/c", "EVAL_OUTPUT_DIR=/e", "MIXTURE_OR_TASK_NAME=xnli", PLACES[1]],
        entry="evaluate",
    )
    assert config.build("evaluate").mixture_or_task_name == "xnli"


def test_bare_string_needs_no_quotes():
    load(overrides=["INITIAL_CHECKPOINT_PATH=gs://bucket/a b/checkpoint_1000000"])
    assert config.build("train").initial_checkpoint_path == "gs://bucket/a b/checkpoint_1000000"


def test_unknown_macro_is_an_error_with_the_near_name():
    message = refusal(overrides=["TRIAN_STEPS=10"])
    assert "command line: TRIAN_STEPS is set but nothing" in message and "Did you mean TRAIN_STEPS" in message


def test_unknown_macro_in_a_file_names_its_line(tmp_path):
    (tmp_path / "mine.gin").write_text("# a comment\nBTACH_SIZE = 4\n")
    message = refusal([*FINETUNE, "mine.gin"], search_paths=[str(tmp_path)])
    assert f"{tmp_path}/mine.gin:2" in message and "BATCH_SIZE" in message


@pytest.mark.parametrize(
    ("override", "expected"),
    [
        ("train.batchsize=3", "Did you mean batch_size?"),
        ("trian.batch_size=3", "Did you mean train"),
        ("BATCH_SIZE={3", "cannot read '{3'"),
        ("BATCH_SIZE=@mt5.MT5Confg()", "Did you mean mt5.MT5Config?"),
        ("BATCH_SIZE", "not of the form NAME=VALUE"),
    ],
)
def test_bad_overrides(override, expected):
    assert expected in refusal(overrides=[override])


def test_override_that_a_binding_shadows_is_an_error():
    message = refusal(overrides=["MIXTURE_OR_TASK_NAME=squad_v1"])
    assert "train.mixture_or_task_name is set to 'mnli' at xtr:targets/xnli.gin" in message


def test_override_that_a_scope_shadows_is_an_error(tmp_path):
    (tmp_path / "scoped.gin").write_text(
        "train.optimizer = @mine/adafactor.Adafactor()\nmine/adafactor.Adafactor.decay_rate = 0.5\n"
    )
    message = refusal([*FINETUNE, "scoped.gin"], ["adafactor.Adafactor.decay_rate=0.9"], search_paths=[str(tmp_path)])
    assert "mine/adafactor.Adafactor.decay_rate" in message and "scoped.gin:2" in message


def test_every_missing_required_value_is_named_at_once():
    with pytest.raises(UserError) as caught:
        config.load(["models/mt5/small.gin", "runs/finetune.gin"], entry="train")
    message = str(caught.value)
    for name in ("MODEL_DIR", "VOCABULARY_PATH", "MIXTURE_OR_TASK_NAME", "TASK_FEATURE_LENGTHS", "TRAIN_STEPS"):
        assert f"{name} (xtr:runs/" in message


def test_missing_run_file_is_said():
    assert "Add --gin_file=runs/finetune.gin" in refusal(["models/mt5/small.gin"])


def test_unknown_gin_file():
    assert "Did you mean models/mt5/small.gin" in refusal(["models/mt5/smal.gin"])


def test_a_later_file_wins_and_its_place_is_known(tmp_path):
    (tmp_path / "mine.gin").write_text("BATCH_SIZE = 4\n")
    loaded = load([*FINETUNE, "mine.gin"], search_paths=[str(tmp_path)])
    assert config.build("train").batch_size == 4
    assert loaded.effective["BATCH_SIZE"].where == f"{tmp_path}/mine.gin:1"


def test_bad_values_are_refused_before_any_run():
    load(overrides=["TASK_FEATURE_LENGTHS={'input': 3}"])
    with pytest.raises(UserError, match="TASK_FEATURE_LENGTHS"):
        config.build("train")


@pytest.mark.parametrize("name", [n for n in config.shipped_gin_files()])
def test_every_shipped_file_parses(name):
    statements = config._read_file(config.find_gin_file(name, []), [])
    assert statements or name.endswith("common.gin")


PUBLISHED = {
    "mt5/small": 300_176_768,
    "mt5/base": 582_401_280,
    "mt5/large": 1_229_581_312,
    "mt5/xl": 3_742_619_648,
    "mt5/xxl": 12_921_057_280,
    "umt5/small": 306_601_984,
    "umt5/base": 592_043_520,
    "umt5/xl": 3_768_356_864,
    "umt5/xxl": 12_972_531_712,
    "xlmr/base": 277_453_056,
    "xlmr/large": 558_840_832,
    "xlmr/xl": 3_475_929_600,
    "xlmr/xxl": 10_695_954_432,
    "mbert/cased": 177_853_440,
    "bloom/560m": 559_214_592,
    "bloom/1b1": 1_065_314_304,
    "bloom/1b7": 1_722_408_960,
    "bloom/3b": 3_002_557_440,
    "bloom/7b1": 7_069_016_064,
    "bloom/176b": 176_247_271_424,
}


def test_the_list_of_models_has_every_published_size_with_its_parameters(capsys):
    assert run(["list", "models", "--json"]) == 0
    facts = {fact["model"]: fact for fact in json.loads(capsys.readouterr().out)}
    published = {name: fact for name, fact in facts.items() if fact["size"] != "micro"}
    assert {name: fact["parameters"] for name, fact in published.items()} == PUBLISHED
    assert published["bloom/560m"]["XTREME-R languages"] == "21 of 50"
    assert published["mt5/xxl"]["f32"] == "48.13 GiB" and published["mt5/xxl"]["bf16"] == "24.07 GiB"


@pytest.mark.parametrize("size", ["small", "base", "xl", "xxl"])
def test_umt5_has_the_parameters_of_transformers_umt5(size):
    torch, transformers = pytest.importorskip("torch"), pytest.importorskip("transformers")
    model = config.build_model([f"models/umt5/{size}.gin"])
    settings = {k: v for k, v in model.huggingface().config.items() if k != "model_type"}
    with torch.device("meta"):
        theirs = transformers.UMT5ForConditionalGeneration(transformers.UMT5Config(**settings))
    tied = theirs.lm_head.weight is theirs.shared.weight  # transformers 5 ties them, whatever the config says
    count = sum(p.numel() for p in theirs.parameters()) + tied * model.vocab_size * model.emb_dim
    assert count == PUBLISHED[f"umt5/{size}"]


@pytest.mark.parametrize("size", ["small", "base", "large", "xl", "xxl"])
def test_published_sizes_build_in_a_run(size):
    from xtr.models import spec

    load([f"models/mt5/{size}.gin", *FINETUNE[1:]])
    assert spec.count(config.build("train").model.param_specs()) == PUBLISHED[f"mt5/{size}"]
