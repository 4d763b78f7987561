"""docs/cloud.md: each of its commands is run on the fake cloud, or dry, or read by the parser that it is meant for."""

import re
import shlex
import subprocess
from pathlib import Path

import pytest

from xtr.cli.main import build_parser, run
from xtr.errors import DataError
from xtr.launch import recipes
from xtr.launch.execute import Run, execute

ROOT = Path(__file__).parent.parent.parent
TEXT = (ROOT / "docs" / "cloud.md").read_text()
COMMANDS = [block.replace("\\\n", " ") for block in re.findall(r"^```shell\n(.*?)^```", TEXT, re.M | re.S)]


def launches() -> list[list[str]]:
    return [words[1:] for words in map(shlex.split, COMMANDS) if words[:3] == ["xtr", "launch", "train"]]


def test_there_are_ten_commands():
    section = TEXT.partition("## Ten commands")[2].partition("\n## ")[0]
    assert [int(n) for n in re.findall(r"^(\d+)\. ", section, re.M)] == list(range(1, 11))
    assert section.count("```shell\n") == len(COMMANDS) == 10


@pytest.mark.parametrize("command", COMMANDS, ids=lambda command: " ".join(command.split()[:4]))
def test_every_command_is_one_that_its_program_takes(command, cloud, capsys):
    words = shlex.split(command)
    if words[0] == "gcloud":
        if words[1:4] == ["storage", "buckets", "create"]:
            cloud.bucket.rmdir()
        done = execute(Run(tuple(words)))
        assert done.code == 0, done.err
    elif words[:2] == ["xtr", "doctor"]:
        assert words[2] == "--dir=gs://my-bucket"
        from xtr import doctor

        assert [finding.mark for finding in doctor.check_folder("gs://my-bucket")] == ["ok"]
    elif words[:3] == ["xtr", "launch", "train"]:
        own = [word.replace("--check", "--check=names") for word in words[1:]]
        Path("dist").mkdir()
        Path("dist/xtr-0.1.0-py3-none-any.whl").touch()
        if "--check=names" not in own:
            own.append("--dry_run")
        assert run(own) == 0
    elif words[0] == "xtr":
        build_parser().parse_args(words[1:])
    else:
        assert words == ["python", "-m", "build", "--wheel"]


def test_the_launch_is_the_one_that_a_recipe_spells_out():
    (recipe,) = [path for path in recipes.shipped() if path.stem == "tpu_vm_v5e"]
    block = re.search(r"```shell\n(.*?)```", recipe.read_text(), re.S)[1]
    spelt = [word for word in recipes.arguments(block, str(recipe)) if word != "--dry_run"]
    check, job = launches()
    assert [word for word in check if word != "--check"] == job
    assert sorted(job) == sorted(spelt)


@pytest.mark.parametrize(
    "words",
    [
        r"""--a="my \$(date) \`date\` \"it's\" \\ \n" """, r"""--a='$(date) "x"'\'' \$'""", r"""--a=\$b\ c'd'"e" """,
        "--a=1 \\\n  --b='' \"\" --c@x:y/z+%,.=_-",
    ],
)  # fmt: skip
def test_a_recipes_command_is_read_as_bash_reads_it(words):
    words = f"xtr launch train --dry_run {words}\n"
    done = subprocess.run(["bash", "-c", f"printf '%s\\0' {words}"], capture_output=True, text=True, check=True)
    assert ["xtr", *recipes.arguments(words, "here")] == done.stdout.split("\0")[:-1]


@pytest.mark.parametrize(
    "more", ["$(date)", '"$HOME"', "`date`", "; rm x", "> x", "*", "~/x", "# x", "'open", "a&", "\nrm"]
)
def test_a_recipes_command_in_which_bash_reads_more_is_refused(more):
    with pytest.raises(DataError, match="must be plain words"):
        recipes.arguments(f"xtr launch train --dry_run {more}\n", "here")


@pytest.mark.parametrize("path", recipes.shipped(), ids=lambda path: path.stem)
def test_commands_of_recipes_are_read_as_bash_reads_them(path):
    for command in re.findall(r"```shell\n(.*?)```", path.read_text(), re.S):
        done = subprocess.run(["bash", "-c", f"printf '%s\\0' {command}"], capture_output=True, text=True, check=True)
        assert ["xtr", *recipes.arguments(command, path.name)] == done.stdout.split("\0")[:-1]


def test_the_wheel_is_named_as_it_is_built():
    import xtr

    assert f"xtr-{xtr.__version__}-py3-none-any.whl" in TEXT


def test_every_recipe_is_linked():
    for path in recipes.shipped():
        assert f"../launch/recipes/{path.name}" in TEXT


def test_every_option_that_is_told_of_exists(capsys):
    with pytest.raises(SystemExit):
        run(["launch", "train", "--help"])
    known = set(re.findall(r"--\w+", capsys.readouterr().out)) | {"--update", "--json", "--dir", "--hosts", "--timeout"}
    prose = re.sub(r"```.*?```", "", TEXT, flags=re.S)
    told = {option for line in prose.split("\n") if "xpk " not in line for option in re.findall(r"`(--\w+)", line)}
    assert told <= known, told - known


def test_codes_and_counts_are_those_of_the_watch():
    from xtr.launch.watch import EXIT_CODES, Outcome, Policy

    policy = Policy()
    assert EXIT_CODES[Outcome.NO_CAPACITY] == 1 and EXIT_CODES[Outcome.DEADLINE] == EXIT_CODES[Outcome.STOPPED] == 42
    assert policy.tries == 8 and policy.quick == 120  # 'eight times', 'two minutes of nine starts'
