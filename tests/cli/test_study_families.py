"""One study of three families: mT5 as text, XLM-R with heads, BLOOM both ways; each with its own vocabulary."""

import json
from pathlib import Path

import pandas as pd
import pytest

from xtr import config
from xtr.cli.main import run
from xtr.cli.study_load import GinFiles, configurer
from xtr.evaluate import engine
from xtr.study.jobs import prepare

STUDY = """
study.name = 'families'
study.study_dir = %STUDY_DIR
study.data_dir = %DATA_DIR
study.cache_dir = %CACHE_DIR
study.models = {{
    'mt5': {{'gin_file': '{folder}/mt5.gin', 'vocabulary_path': '{t5}'}},
    'xlmr': {{
        'gin_file': '{folder}/xlmr.gin', 'vocabulary_path': '{xlmr}', 'recipes': 'encoder',
        'pretrain': ('runs/mlm.gin',),
        'overrides': {{'TASK_FEATURE_LENGTHS': {{'inputs': 64}}}},
        'stage_overrides': {{
            'pretrain': {{'bert.BertConfig.mlm_head': True}},
            'intermediate': {{'WARMUP_STEPS': 1}}, 'target': {{'WARMUP_STEPS': 1}},
            'intermediate.both': {{'HEADS': {{'nli': ('classify', 3), 'qa': 'span'}}}},
            'intermediate.qa': {{'MAX_QUERY_LENGTH': 16, 'DOC_STRIDE': 16}},
        }},
    }},
    'bloom': {{
        'gin_file': '{folder}/bloom.gin', 'vocabulary_path': '{bpe}', 'pretrain': ('runs/causal.gin',),
        'overrides': {{'TASK_FEATURE_LENGTHS': {{'inputs': 224, 'targets': 32}}}},
        'stage_overrides': {{
            'target.xnli': {{'WARMUP_STEPS': 1}}, 'evaluate': {{'LENGTH_BUCKETS': (224,), 'LIMIT': 4}},
        }},
        'intermediates': {{'both': None}},
        'targets': {{'xnli': 'targets/encoder/xnli.gin'}},
    }},
}}
study.pretrain = ('runs/pretrain.gin',)
study.intermediates = {{
    'none': (), 'qa': ('intermediate/squad_v1.gin',), 'both': ('intermediate/nli_qa.gin',),
}}
study.targets = {{'xnli': 'targets/xnli.gin', 'tatoeba': 'targets/tatoeba.gin'}}
study.seeds = (0,)
study.resamples = 100
study.workers = 2
study.overrides = {{'VOCAB_SIZE': 1024, 'TASK_FEATURE_LENGTHS': {{'inputs': 128, 'targets': 32}}}}
study.stage_overrides = {{
    'pretrain': {{'MIXTURE_OR_TASK_NAME': 'text.corpus', 'TRAIN_STEPS': 2, 'BATCH_SIZE': 8}},
    'intermediate': {{'TRAIN_STEPS': 2, 'BATCH_SIZE': 8}},
    'target': {{'TRAIN_STEPS': 2, 'BATCH_SIZE': 8}},
    'evaluate': {{'LENGTH_BUCKETS': (128,), 'LIMIT': 8, 'evaluate.max_decode_length': 4}},
}}
"""
MODELS = {
    "mt5": "mt5.MT5Config.emb_dim = 16\nmt5.MT5Config.mlp_dim = 16\n",
    "xlmr": "bert.BertConfig.emb_dim = 16\nbert.BertConfig.mlp_dim = 16\nbert.BertConfig.num_layers = 1\n",
    "bloom": "bloom.BloomConfig.emb_dim = 16\nbloom.BloomConfig.num_layers = 1\n",
}


@pytest.fixture(scope="module")
def arguments(world, cache_dir, small_vocabularies, tmp_path_factory):
    folder = tmp_path_factory.mktemp("families")
    for name, smaller in MODELS.items():
        (folder / f"{name}.gin").write_text(f"include 'models/{name}/micro.gin'\n{smaller}")
    (folder / "study.gin").write_text(STUDY.format(folder=folder, **small_vocabularies))
    places = {"STUDY_DIR": folder / "study", "DATA_DIR": world.directory, "CACHE_DIR": cache_dir}
    given = [f"--gin.{name}={path}" for name, path in places.items()]
    return lambda action: ["study", action, f"--gin_file={folder / 'study.gin'}", *given]


def test_the_plan_of_three_families(arguments, capsys):
    assert run([*arguments("plan"), "--json"]) == 0
    stages = {stage["stage"]: stage for stage in json.loads(capsys.readouterr().out)["stages"]}
    assert stages["intermediate.xlmr.both.seed0"]["gin_files"][-1] == "intermediate/encoder/nli_qa.gin"
    assert stages["target.bloom.qa.xnli.seed0"]["gin_files"][-1] == "targets/encoder/xnli.gin"
    assert not any(".bloom.both." in name for name in stages) and len(stages) == 12 + 12 + 8
    assert all(stage["chip_hours"] > 0 for stage in stages.values())


@pytest.mark.slow
def test_a_study_of_three_families_runs(arguments, capsys):
    assert run(arguments("run")) == 0
    capsys.readouterr()
    assert run([*arguments("status"), "--json"]) == 0
    stages = json.loads(capsys.readouterr().out)["stages"]
    assert {stage["state"] for stage in stages} == {"done"}
    table = pd.read_parquet(Path(stages[0]["directory"]).parents[1] / "results" / "results.parquet")
    found = set(zip(table["model"], table["family"], table["intermediate"], table["target"], strict=True))
    targets = ("xnli", "tatoeba")
    expected = {(m, m, i, t) for m in ("mt5", "xlmr") for i in ("none", "qa", "both") for t in targets}
    expected |= {("bloom", "bloom", i, t) for i in ("none", "qa") for t in targets}
    assert found == expected and table["value"].notna().all()


def test_models_that_heads_read_are_as_large_as_what_is_read():
    """An mT5 of which nothing reads the decoder is an encoder among encoders."""
    config.load(["studies/families.gin"], [], entry="study")
    jobs, _ = prepare(config.build("study"), configurer(()), GinFiles(()), lambda *_: None, look_inside=False)
    sizes: dict[str, set[int]] = {}
    for job in jobs:
        if job.stage.kind == "evaluate":
            sizes.setdefault(job.stage.model, set()).add(engine._parameters(job.run))
    assert all(len(found) == 1 for found in sizes.values())  # Tatoeba's too, which reads no head
    millions = {model: round(found.pop() / 1e6) for model, found in sizes.items()}
    assert millions == {
        "xlmr-large": 559, "xlmr-xl": 3476, "mt5-large": 564, "mt5-xl": 1670, "bloom-560m": 559, "bloom-3b": 3003
    }  # fmt: skip
