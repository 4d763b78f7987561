"""train, eval, infer and cache as commands, on the tiny world."""

import gzip
import json

import numpy as np
import pandas as pd
import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from xtr.cli.main import run
from xtr.errors import DataError, UserError
from xtr.evaluate.journal import Journal
from xtr.evaluate.predictor import Predictor


@pytest.fixture(scope="module")
def common(world, cache_dir, study_arguments, tmp_path_factory):
    model = next(a for a in study_arguments("x") if a.startswith("--gin_file=")).replace("study.gin", "tiny.gin")
    places = [
        f"--gin.VOCABULARY_PATH={world.vocabulary_path}",
        f"--gin.VOCAB_SIZE={-(-world.vocabulary_size // 128) * 128}",
    ]
    data = [f"--gin.DATA_DIR={world.directory}", f"--gin.CACHE_DIR={cache_dir}"]
    return model, places, data


@pytest.fixture(scope="module")
def trained(common, tmp_path_factory):
    model, places, data = common
    directory = tmp_path_factory.mktemp("runs") / "trained"
    arguments = [
        *("train", model, "--gin_file=runs/finetune.gin", "--gin_file=targets/xnli.gin", *places, *data),
        f"--gin.MODEL_DIR={directory}",
        *("--gin.TRAIN_STEPS=3", "--gin.BATCH_SIZE=8", "--gin.TASK_FEATURE_LENGTHS={'inputs': 64, 'targets': 16}"),
        *("--gin.EVAL_PERIOD=3", "--gin.EVAL_STEPS=2"),
    ]
    assert run(arguments) == 0
    return directory, arguments


def test_run_directory(trained):
    directory, _ = trained
    names = {path.name for path in directory.iterdir()}
    assert {"config.gin", "operative_config.gin", "overrides.gin", "environment.json", "checkpoints", "DONE"} <= names
    done = json.loads((directory / "DONE").read_text())
    assert done["steps"] == 3 and done["loss_normalizing_factor"] == "NUM_REAL_TARGET_TOKENS"
    assert "TRAIN_STEPS = 3" in (directory / "overrides.gin").read_text()
    assert json.loads((directory / "environment.json").read_text())["packages"]["jax"]


def test_a_finished_run_is_recognised_and_another_one_refused(trained, capsys):
    _, arguments = trained
    assert run(arguments) == 0
    assert "was done already" in capsys.readouterr().out
    with pytest.raises(UserError, match="batch_size: 8 -> 16"):
        run([*arguments, "--gin.BATCH_SIZE=16"])


def test_a_vocabulary_that_does_not_fit_is_refused(trained, tmp_path):
    _, arguments = trained
    with pytest.raises(UserError, match="more than the 128 rows"):
        run([*arguments, f"--gin.MODEL_DIR={tmp_path / 'run'}", "--gin.VOCAB_SIZE=128"])


def test_text_is_denoised_among_other_tasks_and_needs_no_validation_split(common, tmp_path):
    model, places, data = common
    arguments = [
        *("train", model, "--gin_file=runs/intermediate.gin", *places, *data, "--gin.TRAIN_STEPS=2"),
        *("--gin.BATCH_SIZE=8", "--gin.TASK_FEATURE_LENGTHS={'inputs': 64, 'targets': 64}", "--gin.EVAL_PERIOD=2"),
    ]
    where = f"--gin.MODEL_DIR={tmp_path / 'mixed'}"
    assert run([*arguments, where, "--gin_file=intermediate/mnli_denoise.gin", "--gin.EVAL_STEPS=1"]) == 0
    with pytest.raises(UserError, match="no task of text.corpus has a split 'validation'"):
        run([*arguments, f"--gin.MODEL_DIR={tmp_path / 'text'}", "--gin.MIXTURE_OR_TASK_NAME=text.corpus"])
    assert not (tmp_path / "text").exists()


def evaluation(common, trained, target, directory, *more):
    model, places, data = common
    files = ("--gin_file=runs/eval.gin", f"--gin_file=targets/{target}.gin")
    where = (f"--gin.CHECKPOINT_PATH={trained[0]}", f"--gin.EVAL_OUTPUT_DIR={directory}")
    return ["eval", model, *files, *where, *places, *data, "--gin.LENGTH_BUCKETS=(64, 128)", *more]


@pytest.mark.parametrize("wrong", ["checkpoint", "vocabulary", "languages"])
def test_what_is_refused_leaves_nothing(common, trained, tmp_path, wrong):
    directory, nothing = tmp_path / "new", f"{tmp_path / 'nothing'}"
    mistake = {"checkpoint": "INITIAL_CHECKPOINT_PATH", "vocabulary": "VOCABULARY_PATH"}.get(wrong)
    if mistake:
        with pytest.raises(UserError, match="nothing"):
            run([*trained[1], f"--gin.MODEL_DIR={directory}", f"--gin.{mistake}={nothing}"])
        assert not directory.exists()
    mistake = {"checkpoint": "CHECKPOINT_PATH='nothing'", "languages": "LANGUAGES=('xx',)"}.get(wrong)
    if mistake:
        with pytest.raises(UserError, match="nothing|xx"):
            run(evaluation(common, trained, "xnli", directory, f"--gin.{mistake}"))
        assert not directory.exists()


TARGETS = [("xnli", ["accuracy"]), ("xquad", ["em", "f1"]), ("tatoeba", ["accuracy"])]


@pytest.mark.parametrize(("target", "metrics"), TARGETS)
def test_eval_scores_every_language(common, trained, target, metrics, tmp_path):
    assert run(evaluation(common, trained, target, tmp_path / "eval")) == 0
    rows = pd.read_parquet(tmp_path / "eval" / "results.parquet")
    test = rows[rows["split"] == ("queries" if target == "tatoeba" else "test")]
    expected = {"qaa", "qab", "qac"} | ({"en"} if target != "tatoeba" else set())
    assert set(test["language"]) == expected | {f"mean {len(expected)}/{len(expected)}"}
    assert set(metrics) <= set(test["metric"]) and test["value"].between(0, 100).all()
    mean = test["language"].str.startswith("mean ")
    for metric, value in test[mean].set_index("metric")["value"].items():
        assert np.isclose(value, test[~mean & (test["metric"] == metric)]["value"].mean())
    for row in test[~mean & test["metric"].isin(metrics)].itertuples():
        path = tmp_path / "eval" / "predictions" / "run" / f"{target}.{row.language}.{row.split}.jsonl"
        records = [json.loads(line) for line in path.read_text().removesuffix("\n").split("\n")]
        assert len(records) == row.n and row.step == 3
        assert np.isclose(np.mean([r["contributions"][row.metric] for r in records]), row.value)


def test_eval_does_not_depend_on_batches_or_buckets(common, trained, tmp_path):
    values = []
    for i, more in enumerate(["--gin.TOKENS_PER_BATCH=512", "--gin.LENGTH_BUCKETS=(128,)"]):
        assert run(evaluation(common, trained, "xnli", tmp_path / str(i), more)) == 0
        values.append((tmp_path / str(i) / "predictions" / "run" / "xnli.qab.test.jsonl").read_text())
    first, second = ([json.loads(line) for line in text.split("\n") if line] for text in values)
    assert [r["prediction"] for r in first] == [r["prediction"] for r in second]
    np.testing.assert_allclose([r["scores"] for r in first], [r["scores"] for r in second], rtol=1e-5)


def test_eval_limit_and_languages(common, trained, tmp_path):
    more = ("--gin.LIMIT=5", "--gin.LANGUAGES=('qaa', 'en')")
    assert run(evaluation(common, trained, "xnli", tmp_path / "eval", *more)) == 0
    rows = pd.read_parquet(tmp_path / "eval" / "results.parquet")
    assert dict(zip(rows["language"], rows["n"], strict=True)) == {"qaa": 5, "en": 5, "mean 2/4": 10}
    with pytest.raises(UserError, match="xnli has no qa; found: en, qaa, qab, qac. Did you mean"):
        run(evaluation(common, trained, "xnli", tmp_path / "other", "--gin.LANGUAGES=('qa',)"))


def predictions_of(directory):
    return {path.name: path.read_bytes() for path in (directory / "predictions" / "run").iterdir()}


@pytest.mark.parametrize("target", ["xnli", "xquad"])
def test_a_killed_evaluation_goes_on_with_the_same_bits(common, trained, target, tmp_path, monkeypatch):
    """It stops in the middle of its second language, with half a line written."""
    small = ("--gin.TOKENS_PER_BATCH=512", "--gin.evaluate.examples_per_shard=8")
    assert run(evaluation(common, trained, target, tmp_path / "whole", *small)) == 0
    written, add = [], Journal.add

    def stop_after(most):
        def adding(journal, shard, records):
            if len(written) == most:
                with open(journal.path, "ab") as out:
                    out.write(b'{"shard": 7, "rec')
                raise KeyboardInterrupt
            written.append((journal.path.name, shard))
            add(journal, shard, records)

        return adding

    monkeypatch.setattr(Journal, "add", stop_after(10**9))
    assert run(evaluation(common, trained, target, tmp_path / "counted", *small)) == 0
    first = written[0][0]
    of_the_first = sum(name == first for name, _ in written)
    everything = set(written)
    assert of_the_first > 1 and len(everything) == len(written) > of_the_first + 1

    written.clear()
    monkeypatch.setattr(Journal, "add", stop_after(of_the_first + 1))
    arguments = evaluation(common, trained, target, tmp_path / "killed", *small)
    with pytest.raises(KeyboardInterrupt):
        run(arguments)
    killed = tmp_path / "killed"
    assert not (killed / "DONE").exists() and len(list(killed.glob("predictions/run/*.partial"))) == 1
    done_before = set(written)
    written.clear()
    monkeypatch.setattr(Journal, "add", stop_after(10**9))
    assert run(arguments) == 0
    assert set(written) == everything - done_before and (killed / "DONE").exists()
    assert predictions_of(killed) == predictions_of(tmp_path / "whole")
    tables = [pd.read_parquet(path / "results.parquet") for path in (killed, tmp_path / "whole")]
    pd.testing.assert_frame_equal(*tables)


def test_predictions_are_graded_again_without_the_model(common, trained, tmp_path, capsys, monkeypatch):
    directory, copy = tmp_path / "eval", tmp_path / "copy"
    assert run(evaluation(common, trained, "xquad", directory)) == 0
    monkeypatch.setattr("xtr.evaluate.engine.open_predictor", None)
    monkeypatch.setattr("xtr.evaluate.engine.ensure_cached", None)
    before, table = predictions_of(directory), pd.read_parquet(directory / "results.parquet")
    changed = directory / "predictions" / "run" / "xquad.qab.test.jsonl"
    records = [json.loads(line) for line in changed.read_text().split("\n") if line]
    for record in records:
        record["prediction"] = record["gold"][0]
    changed.write_text("".join(json.dumps(record, ensure_ascii=False) + "\n" for record in records))
    assert run(["eval", f"--from_predictions={directory}", f"--gin.EVAL_OUTPUT_DIR={copy}"]) == 0
    pd.testing.assert_frame_equal(pd.read_parquet(directory / "results.parquet"), table)
    again = pd.read_parquet(copy / "results.parquet")
    for rows, right in ((again, True), (table, False)):
        scores = rows[(rows["language"] == "qab") & rows["metric"].isin(["em", "f1"])]["value"]
        assert len(scores) == 2 and ((scores == 100.0) == right).all()

    def untouched(rows):
        kept = rows[~rows["language"].str.startswith("mean") & (rows["language"] != "qab")]
        return kept.sort_values(["language", "split", "metric"], ignore_index=True)

    pd.testing.assert_frame_equal(untouched(again), untouched(table))
    changed.write_bytes(before[changed.name])
    assert run(["eval", "--from_predictions", str(directory)]) == 0
    assert predictions_of(directory) == before
    some = ["eval", f"--from_predictions={directory}", "--languages=qab,qaa"]
    with pytest.raises(UserError, match="languages: None -> 'qab,qaa'"):
        run(some)
    assert run([*some, f"--gin.EVAL_OUTPUT_DIR={tmp_path / 'some'}"]) == 0
    assert "mean 2/4" in capsys.readouterr().out
    with pytest.raises(UserError, match="holds no predictions: give the EVAL_OUTPUT_DIR"):
        run(["eval", f"--from_predictions={trained[0]}"])


def test_an_example_that_cannot_be_scored_is_named(common, trained, tmp_path, monkeypatch):
    rank = Predictor.rank

    def broken(self, *arguments):
        scores = np.array(rank(self, *arguments))
        scores[0, 0] = np.nan
        return scores

    monkeypatch.setattr(Predictor, "rank", broken)
    with pytest.raises(DataError, match=r"xnli\.\w+, example '\d+' cannot be scored: its scores is not a number"):
        run(evaluation(common, trained, "xnli", tmp_path / "eval"))
    assert not list(tmp_path.glob("eval/predictions/run/*.jsonl")) and not (tmp_path / "eval" / "DONE").exists()


def test_eval_by_its_own_options(common, trained, tmp_path, capsys):
    arguments = evaluation(common, trained, "xnli", tmp_path / "eval")
    arguments += ["--tasks=xnli.qaa,xnli.qab", "--limit=4", "--log_samples", "2"]
    assert run(arguments) == 0
    rows = pd.read_parquet(tmp_path / "eval" / "results.parquet")
    assert set(rows[rows["split"] == "test"]["language"]) == {"qaa", "qab", "mean 2/4"} and set(rows["n"]) == {4, 8}
    out = capsys.readouterr().out
    assert out.count("  input          xnli: premise: ") == 6 and out.count("  gold   ") == 6
    assert out.index("mean 2/4") < out.index("  input") and "xnli, qaa, test: " in out


def test_infer(common, trained, tmp_path, capsys):
    model, places, _ = common
    (tmp_path / "in.txt").write_text("xnli: premise: a hypothesis: b\nsecond\u2028line\n")
    where = [f"--gin.INPUT_FILE={tmp_path / 'in.txt'}", f"--gin.OUTPUT_FILE={tmp_path / 'out.jsonl'}"]
    checkpoint = f"--gin.CHECKPOINT_PATH={trained[0]}"
    assert run(["infer", model, "--gin_file=runs/infer.gin", checkpoint, *places, *where]) == 0
    records = [json.loads(line) for line in (tmp_path / "out.jsonl").read_text().removesuffix("\n").split("\n")]
    assert [r["input"] for r in records] == ["xnli: premise: a hypothesis: b", "second\u2028line"]
    assert all(r["log_prob"] <= 0 and r.keys() == {"input", "prediction", "log_prob"} for r in records)

    def again(*more):
        assert run(["infer", model, "--gin_file=runs/infer.gin", checkpoint, *places, *where, *more]) == 0
        return [json.loads(line) for line in (tmp_path / "out.jsonl").read_text().removesuffix("\n").split("\n")]

    again("--gin.infer.length_buckets=(4,)")
    assert "in.txt: 2 of 2 lines have more than 4 tokens and are cut: line 1, 2." in capsys.readouterr().err
    beams = again("--gin.DECODE_METHOD=beam", "--gin.NUM_BEAMS=3", "--gin.MAX_DECODE_LENGTH=5")
    assert all(len(r["alternatives"]) == 2 for r in beams)
    sampling = ("--gin.DECODE_METHOD=sample", "--gin.TEMPERATURE=2.0", "--gin.decoding.Decoding.samples=3")
    samples = again(*sampling, "--gin.TOP_K=50", "--gin.TOP_P=0.9")
    assert [len(r["alternatives"]) for r in samples] == [2, 2]
    assert samples == again(*sampling, "--gin.TOP_K=50", "--gin.TOP_P=0.9")
    assert samples != again(*sampling, "--gin.TOP_K=50", "--gin.TOP_P=0.9", "--gin.decoding.Decoding.seed=1")
    with pytest.raises(UserError, match="set DECODE_METHOD to 'sample'"):
        again("--gin.TEMPERATURE=0.7")


def test_how_an_evaluation_decodes_is_part_of_what_it_is(common, trained, tmp_path):
    more = ("--gin.LIMIT=3", "--gin.LANGUAGES=('qaa',)", "--gin.DECODE_METHOD=beam", "--gin.NUM_BEAMS=2")
    assert run(evaluation(common, trained, "xquad", tmp_path / "eval", *more)) == 0
    assert set(pd.read_parquet(tmp_path / "eval" / "results.parquet")["n"]) == {3}
    with pytest.raises(UserError, match="decoding.beams: 2 -> 3"):
        run(evaluation(common, trained, "xquad", tmp_path / "eval", *more, "--gin.NUM_BEAMS=3"))


def test_cache_lists_what_it_wrote(world, cache_dir, capsys):
    arguments = ["cache", "mnli", f"--vocabulary_path={world.vocabulary_path}", f"--data_dir={world.directory}"]
    assert run([*arguments, f"--cache_dir={cache_dir}", "--json"]) == 0
    (fact,) = json.loads(capsys.readouterr().out)
    assert fact["task"] == "mnli" and fact["examples"] == {"train": 60, "validation": 20}


def test_curves_of_speed_and_a_profile(common, tmp_path):
    model, places, data = common
    directory = tmp_path / "profiled"
    arguments = [
        *("train", model, "--gin_file=runs/finetune.gin", "--gin_file=targets/xnli.gin", *places, *data),
        *(f"--gin.MODEL_DIR={directory}", "--gin.TRAIN_STEPS=4", "--gin.BATCH_SIZE=8"),
        *("--gin.TASK_FEATURE_LENGTHS={'inputs': 64, 'targets': 16}", "--gin.EVAL_PERIOD=0"),
    ]
    with pytest.raises(UserError, match="PROFILE_STEPS is '3:2'"):
        run([*arguments, "--gin.PROFILE_STEPS=3:2"])
    assert not directory.exists()
    assert run([*arguments, "--gin.PROFILE_STEPS=2:3"]) == 0
    board = directory / "tensorboard" / "train"
    curves = EventAccumulator(str(board), size_guidance={"tensors": 0})
    curves.Reload()
    tags = set(curves.Tags()["tensors"])
    named = ("target_tokens_per_second", "seconds_per_step", "data_wait_share", "first_step_seconds")
    assert {f"timing/{name}" for name in named} <= tags
    (path,) = board.glob("plugins/profile/*/*.trace.json.gz")
    events = json.loads(gzip.decompress(path.read_bytes()))["traceEvents"]
    assert [e["args"]["step_num"] for e in events if e.get("ph") == "X" and e["name"] == "train"] == ["2", "3"]
