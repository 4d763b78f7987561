"""Wherever a name is unknown, the error says which known one is nearest, and nothing is started."""

import sys

import pytest

from xtr.cli.main import run
from xtr.data import cache, cache_writer
from xtr.errors import UserError

MODULE = """
import seqio
import xtr.tasks

{}
"""


@pytest.fixture(autouse=True)
def in_this_process(monkeypatch):
    """The cache writer runs here: a process of its own for each error would take seconds."""
    for name in ("DATA_DIR", "CACHE_DIR", "VOCABULARY_PATH", "FORMAT", "TFDS_TASKS"):
        monkeypatch.setenv(f"XTR_{name}", "")
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.setattr(cache, "_run_writer", cache_writer.write)
    yield
    if "seqio" in sys.modules:  # what a module registered here is nothing for the tests that follow
        seqio = sys.modules["seqio"]
        for name in [name for name in seqio.TaskRegistry.names() if name.startswith("own_")]:
            seqio.TaskRegistry.remove(name)


@pytest.fixture
def command(world, cache_dir, study_arguments, tmp_path):
    """`command(name, *more)`: the arguments of a command that would work but for `more`."""
    model = next(a for a in study_arguments("x") if a.startswith("--gin_file=")).replace("study.gin", "tiny.gin")
    size = -(-world.vocabulary_size // 128) * 128
    places = [
        f"--gin.VOCABULARY_PATH={world.vocabulary_path}", f"--gin.VOCAB_SIZE={size}",
        f"--gin.DATA_DIR={world.directory}", f"--gin.CACHE_DIR={cache_dir}",
    ]  # fmt: skip
    data = f"--data_dir={world.directory}"
    commands = {
        "train": [
            "train", model, "--gin_file=runs/finetune.gin", *places, f"--gin.MODEL_DIR={tmp_path / 'out'}",
            "--gin.MIXTURE_OR_TASK_NAME=nli_qa", "--gin.TRAIN_STEPS=1", "--gin.BATCH_SIZE=8",
            "--gin.TASK_FEATURE_LENGTHS={'inputs': 64, 'targets': 16}",
        ],
        "eval": [
            "eval", model, "--gin_file=runs/eval.gin", *places, f"--gin.EVAL_OUTPUT_DIR={tmp_path / 'out'}",
            "--gin.MIXTURE_OR_TASK_NAME=xnli", "--gin.CHECKPOINT_PATH=nothing",
        ],
        "cache": ["cache", f"--vocabulary_path={world.vocabulary_path}", data, f"--cache_dir={cache_dir}"],
        "list": ["list", "tasks", data],
        "data": ["data"],
        "study": study_arguments(tmp_path / "out"),
    }  # fmt: skip
    return lambda name, *more: [*commands[name], *more]


UNKNOWN = [
    (("train", "--gin.MIXTURE_OR_TASK_NAME=mnil"), "'mnil'", "mnli"),
    (("train", "--gin.MIXTURE_OR_TASK_NAME=xnli.qa"), "'xnli.qa'", "xnli.qaa"),
    (("train", "--gin.TASK_MODULES=json.tol"), "json.tol", "json.tool"),
    (("train", "--gin.TFDS_TASKS=squad_v11"), "'squad_v11'", "squad_v1"),
    (("train", "--gin.TFDS_TASKS=('mnl',)"), "'mnl'", "mnli"),
    (("train", "--gin.MIXING={'mnlii': 1, 'squad_v1': 2}"), "'mnlii'", "mnli"),
    (("train", "--gin.MIXING=proportionl"), "'proportionl'", "proportional"),
    (("train", "--gin.train.objective=seq2sek"), "'seq2sek'", "seq2seq"),
    (("train", "--gin.TRAIN_STEP=3"), "TRAIN_STEP ", "TRAIN_STEPS"),
    (("train", "--gin.train.batchsize=3"), "'batchsize'", "batch_size"),
    (("train", "--gin_file=targets/xnil.gin"), "'targets/xnil.gin'", "targets/xnli.gin"),
    (("eval", "--gin.MIXTURE_OR_TASK_NAME=xnil"), "'xnil'", "xnli"),
    (("eval", "--gin.evaluate.dev_task_name=xnli.e"), "'xnli.e'", "xnli.en"),
    (("eval", "--gin.evaluate.split=tset"), "'tset'", "test"),
    (("eval", "--gin.evaluate.dev_task_name=xnli.en", "--gin.evaluate.dev_split=valid"), "'valid'", "validation"),
    (("eval", "--gin.LANGUAGES=('qaaa',)"), "qaaa", "qaa"),
    (("eval", "--gin.LANGUAGES=en,qax"), "no qax", "qaa"),
    (("eval", "--gin.DECODE_METHOD=beem"), "'beem'", "beam"),
    (("cache", "nli_aq"), "'nli_aq'", "nli_qa"),
    (("cache", "mnli", "--format=encodr"), "'encodr'", "encoder"),
    (("cache", "mnli", "--tfds_tasks=xnl"), "'xnl'", "xnli"),
    (("cache", "mnli", "--task_module=x"), "--task_module", "--task_modules"),
    (("list", "--kind=clasification"), "'clasification'", "classification"),
    (("list", "--language=qaaa"), "'qaaa'", "qaa"),
    (("list", "--target=xnl"), "'xnl'", "xnli"),
    (("list", "--stage=intermediat"), "'intermediat'", "intermediate"),
    (("list", "--task_modules=jsn"), "jsn", "json"),
    (("data", "download", "squad_v", "--data_dir=."), "'squad_v'", "squad_v2"),
    (("data", "verfy"), "'verfy'", "verify"),
    (("study", "--gin.study.stage_overrides={'pretrian': {}}"), "'pretrian'", "pretrain"),
    (("study", "--gin.study.intermediates={'none': (), 'nli': ('intermediate/mnl.gin',)}"), "mnl.gin", "mnli.gin"),
]


@pytest.mark.parametrize(("arguments", "unknown", "nearest"), UNKNOWN, ids=[" ".join(case[0]) for case in UNKNOWN])
def test_an_unknown_name_gives_the_nearest(command, arguments, unknown, nearest, tmp_path):
    with pytest.raises(UserError, match=rf"(?s){unknown}.*Did you mean (\S+, )*\S*{nearest}\b"):
        run(command(*arguments))
    assert not (tmp_path / "out").exists()


def test_an_unknown_command():
    with pytest.raises(UserError, match="'trian'. Did you mean train"):
        run(["trian"])


OWN = [
    ("seqio.MixtureRegistry.add('own_a', [('mnlii', 1)])", "mnlii", "mnli"),
    ("seqio.MixtureRegistry.add('own_b', [('squad', 1.0)])", "squad", "squad_v1"),
    ("xtr.tasks.describe('own_c', xtr.tasks.TaskInfo('clasification', 'en', 'own', 'rank', ()))", "'clasification'",
     "classification"),
    ("xtr.tasks.describe('own_d', xtr.tasks.TaskInfo('text', 'en', 'own', 'genrate', ()))", "'genrate'", "generate"),
    ("xtr.tasks.tsv_task('own_e', kind='txt', language='en', files={'train': 'x.tsv'}, text='t')", "'txt'", "text"),
    ("xtr.tasks.tsv_task('own_f', kind='text', language='swa', files={'train': 'x.tsv'}, text='t')", "'swa'", "sw"),
    ("xtr.tasks.tsv_task('own_g', kind='text', language='en', files={'train': 'module.p'}, text='t')", "module.p",
     "module_own_g.py"),
]  # fmt: skip


@pytest.mark.parametrize(("call", "unknown", "nearest"), OWN, ids=[case[0][:40] for case in OWN])
def test_an_unknown_name_in_a_users_module(command, call, unknown, nearest, tmp_path):
    module = tmp_path / f"module_{call[call.index('own_') :][:5]}.py"  # a name of its own: it stays imported
    module.write_text(MODULE.format(call))
    with pytest.raises(UserError, match=rf"(?s){unknown}.*Did you mean (\S+, )*{nearest}"):
        run(command("train", f"--gin.TASK_MODULES={module}"))


def test_an_unknown_metric_of_a_users_task(command, tmp_path):
    (tmp_path / "rows.jsonl").write_text('{"t": "a", "y": 1}\n')
    module = tmp_path / "module_metric.py"
    call = (
        "xtr.tasks.jsonl_task('own_metric', kind='classification', language='en', files={'test': 'rows.jsonl'}, "
        "text_a='t', label='y', label_names=('a', 'b'), metrics=('acuracy',))"
    )
    module.write_text(MODULE.format(call))
    with pytest.raises(UserError, match="own_metric is scored by acuracy.*Did you mean accuracy"):
        run(command("eval", f"--gin.TASK_MODULES={module}", "--gin.MIXTURE_OR_TASK_NAME=own_metric"))
    with pytest.raises(UserError, match=r"module_metrc\.py, but there is no file.*Did you mean module_metric\.py"):
        run(command("eval", f"--gin.TASK_MODULES={tmp_path / 'module_metrc.py'}"))
