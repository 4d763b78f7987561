"""`xtr study launch`: stages as jobs of processes on this machine, with launchers of their own."""

import shutil
import string
from pathlib import Path

import pandas as pd
import pytest

from xtr.cli.launch import add_job, job_options
from xtr.cli.main import build_parser, run
from xtr.cli.study_launch import Launches, gin_argv
from xtr.launch import record
from xtr.study.graph import Stage
from xtr.study.jobs import Job


def test_a_jobs_options_and_gin_go_on_word_for_word():
    options = ["--backend=tpu_vm", "--accelerator=v5litepod-16", "--bucket=gs://b/f", "--spot", "--max_hours=3.5"]
    gin = ["--gin_file=a.gin", "--gin_search_paths=x,y"]
    arguments = build_parser().parse_args(["study", "launch", *options, *gin])
    arguments.overrides, arguments.search_paths = ["N='$(a) \"b\"'"], ["x", "y"]
    assert sorted(job_options(arguments)) == sorted(options)
    assert gin_argv(arguments) == [*gin, "--gin.N='$(a) \"b\"'"]
    assert add_job.__doc__


def test_a_job_is_one_of_a_stage_its_address_and_the_studys_folder(tmp_path, monkeypatch):
    stages = [Stage("intermediate", "m", "nli"), Stage("intermediate", "m", "qqp")]

    def names(folder: Path, address: str = "a1") -> list[str]:
        jobs = [Job(each, None, {}, (), address, folder / "stages" / f"{each.name}-{address}") for each in stages]
        return list(Launches("A study of mine", jobs, [], folder / "launched").names.values())

    found = [names(tmp_path / "one"), names(tmp_path / "two"), names(tmp_path / "one", "a2")]
    assert len({name for each in found for name in each}) == 6
    assert all(len(name) <= 40 and set(name) <= set(string.ascii_lowercase + string.digits + "-") for name in found[0])
    monkeypatch.chdir(tmp_path)
    assert names(Path("one")) == found[0]


@pytest.mark.slow
def test_a_study_is_handed_over_stage_by_stage(study_arguments, tmp_path, monkeypatch, capsys):
    folder = Path(study_arguments("")[2].removeprefix("--gin_file=")).parent
    for name in ("tiny.gin", "study.gin"):
        shutil.copy(folder / name, tmp_path)
    file = tmp_path / "study.gin"
    file.write_text(file.read_text().replace(str(folder / "tiny.gin"), "tiny.gin"))
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XTR_STATE_DIR", str(tmp_path / "state"))
    directory = tmp_path / "study"
    small = ("--gin.study.seeds=(0,)", "--gin.study.targets={'xnli': 'targets/xnli.gin'}", "--gin.study.overlaps=None")
    command = [*study_arguments(directory, "launch"), *small, "--poll_seconds=0.2", "--at_a_time=2"]
    command[2] = "--gin_file=study.gin"
    assert run(command) == 0
    said = capsys.readouterr().out
    assert f"{len(record.names())} stages done, {len(record.names())} handed over" in said
    assert (directory / "report" / "report.html").exists()
    assert len(pd.read_parquet(directory / "results" / "results.parquet")) > 0
    assert run(command) == 0 and "0 handed over" in capsys.readouterr().out
