"""The page of docs/scaling.md: its cases are runs, its commands are commands, and what is not compiled is said."""

import shlex

import pytest

from xtr.cli import main, scaling
from xtr.cli.plan import load
from xtr.parallel.topology import parse
from xtr.plan.compile import PROGRAMS


@pytest.mark.parametrize("case", scaling.CASES, ids=lambda c: f"{c.model}-{c.topology}-{c.slices}-{c.program}")
def test_every_case_is_a_run_that_divides(case):
    run, slice_ = load(case.gin_files, case.all_overrides), parse(case.topology, case.slices)
    sizes = run.train.mesh.sizes(slice_.num_devices, case.slices)
    assert sizes[0] % case.slices == 0
    assert run.train.batch_size == case.batch and case.batch % (sizes[0] * sizes[1]) == 0
    assert case.program in [program for programs in PROGRAMS.values() for program in programs]


@pytest.mark.parametrize("case", scaling.CASES, ids=lambda c: f"{c.model}-{c.topology}-{c.slices}-{c.program}")
def test_its_command_is_the_same_run(case):
    words = shlex.split(case.command)
    assert words[0] == "xtr"
    rest, overrides = main.split_gin(words[1:])
    arguments = main.build_parser().parse_args(rest)
    assert load(arguments.gin_file, overrides) == load(case.gin_files, case.all_overrides)
    assert (arguments.topology, arguments.slices) == (case.topology, case.slices)


def test_a_page_without_compiled_programs(tmp_path):
    page = tmp_path / "scaling.md"
    assert scaling.main([str(page), "--cached", "--cache_dir", str(tmp_path)]) == 0
    text = page.read_text()
    assert text.count("not compiled yet") == len(scaling.CASES)
    rows = [line for line in text.splitlines() if line.startswith("|")]
    assert {row.count("|") for row in rows} == {len(scaling.COLUMNS) + 1}
