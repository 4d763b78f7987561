"""`xtr list`: what there is, by kind, language and stage, and what is not there and why."""

import json
import subprocess
import sys

import pytest

from xtr.cli import tables
from xtr.cli.main import run
from xtr.errors import UserError

XTR = [sys.executable, "-m", "xtr.cli.main"]


@pytest.fixture(autouse=True)
def nothing_is_registered(monkeypatch):
    """Other tests of this process register tasks; a command's own process has none."""
    if "seqio" in sys.modules:
        for registry in (sys.modules["seqio"].TaskRegistry, sys.modules["seqio"].MixtureRegistry):
            monkeypatch.setattr(registry, "_REGISTRY", {})
    if "xtr.tasks" in sys.modules:
        monkeypatch.setattr(sys.modules["xtr.tasks"], "_catalog", None)


@pytest.fixture
def there(world, monkeypatch):
    """The world's folder, as the environment gives it; there is no vocabulary."""
    for name in ("XTR_VOCABULARY_PATH", "XTR_CACHE_DIR", "XTR_TFDS_TASKS", "XTR_FORMAT"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("XTR_DATA_DIR", str(world.directory))
    return world


def listed(capsys, *argv) -> list[dict]:
    assert run(["list", *argv, "--json"]) == 0
    return json.loads(capsys.readouterr().out)


def test_tasks_by_kind_language_stage_and_target(there, capsys):
    tasks = {task["task"]: task for task in listed(capsys, "tasks")}
    assert tasks["mnli"] == {
        "task": "mnli", "kind": "classification", "language": "en", "stage": "intermediate", "target": "mnli",
        "scored by": "rank", "metrics": ["accuracy"], "splits": ["train", "validation"],
    }  # fmt: skip
    kind = [task["task"] for task in listed(capsys, "tasks", "--kind", "span_qa")]
    assert kind == [name for name, task in tasks.items() if task["kind"] == "span_qa"] and len(kind) > 2
    narrow = listed(capsys, "tasks", "--stage", "target", "--target", "xnli", "--language", there.languages[-1])
    assert [task["task"] for task in narrow] == [f"xnli.{there.languages[-1]}"]


def test_mixtures_say_members_and_rates(there, capsys):
    mixtures = {mixture["mixture"]: mixture for mixture in listed(capsys, "mixtures")}
    assert mixtures["nli_qa"]["members"] == ["mnli", "squad_v1"]
    assert mixtures["nli_qa"]["rates"] == "by min(examples, 131,072)^(1/2)"
    assert mixtures["xnli"]["rates"] == "equal" and mixtures["text.corpus"]["rates"] == "by examples"
    assert "xnli" not in {m["mixture"] for m in listed(capsys, "mixtures", "--stage", "pretrain")}


def test_languages_say_found_due_and_absent(there, tmp_path, capsys):
    for name in ("xnli", "languages.json"):
        (tmp_path / name).symlink_to(there.directory / name)
    rows = {row["language"]: row for row in listed(capsys, "languages", "--data_dir", str(tmp_path))}
    assert rows["en"]["found"] == ["mnli", "xnli"] and rows["en"]["due"] == ["xnli", "xquad"]
    assert "xnli" not in rows["en"]["absent"] and "no file" in rows["en"]["absent"]["xquad"]
    assert run(["list", "languages", "--data_dir", str(tmp_path)]) == 0
    said = capsys.readouterr()
    assert said.out.startswith("language") and "xquad.en, " in said.err
    with pytest.raises(UserError, match="no tasks found for --target xquad"):
        run(["list", "tasks", "--data_dir", str(tmp_path), "--target", "xquad", "--json"])
    said = capsys.readouterr()
    assert said.out == "[]\n" and said.err.count("not there: xquad.en, ") == 1


def test_mixtures_say_what_they_leave_out(there, tmp_path, capsys):
    (tmp_path / "xnli").mkdir()
    for name in ("languages.json", "xnli/test-en.tsv", "xnli/dev-en.tsv"):
        (tmp_path / name).symlink_to(there.directory / name)
    (mixture,) = listed(capsys, "mixtures", "--data_dir", str(tmp_path))
    others = [f"xnli.{language}" for language in there.languages if language != "en"]
    assert mixture["members"] == ["xnli.en"] and sorted(mixture["left out"]) == sorted(others)
    assert all("no file" in why for why in mixture["left out"].values())
    assert run(["list", "mixtures", "--data_dir", str(tmp_path)]) == 0
    said = capsys.readouterr()
    assert f"xnli goes without {', '.join(mixture['left out'])}: no file" in said.err


@pytest.mark.parametrize(
    ("argv", "expected"),
    [
        (["--kind", "span_q"], "no kind 'span_q'. Did you mean span_qa?.*classification"),
        (["--stage", "finetune"], "no stage 'finetune'.*There are: intermediate, pretrain, target"),
        (["--language", "eng"], "no language 'eng'.*There are:.*en"),
        (["--target", "xnly"], "no target 'xnly'. Did you mean xnli?"),
    ],
)
def test_an_unknown_filter_names_the_nearest(there, argv, expected):
    with pytest.raises(UserError, match=expected):
        run(["list", "tasks", *argv])


def test_no_task_of_known_kind_and_language(there, capsys):
    with pytest.raises(UserError, match="no tasks found for --kind tagging"):
        run(["list", "tasks", "--kind", "tagging"])


def test_a_users_module_is_listed_without_a_vocabulary(there, tmp_path, capsys):
    (tmp_path / "mine.py").write_text(
        "import seqio, tensorflow as tf\nfrom xtr.tasks import output_features\n"
        "def read(split, shuffle_files, seed=None):\n"
        "    return tf.data.Dataset.from_tensor_slices({'inputs': ['a'], 'targets': ['b']})\n"
        "seqio.TaskRegistry.add('mine_listed', source=seqio.FunctionDataSource(read, ['train']),\n"
        "    preprocessors=[seqio.preprocessors.tokenize], output_features=output_features())\n"
    )
    tasks = listed(capsys, "tasks", "--task_modules", str(tmp_path / "mine.py"), "--kind", "text2text")
    assert [(task["task"], task["scored by"]) for task in tasks] == [("mine_listed", "generate")]


def test_a_pipe_gets_a_whole_line_a_row_and_exit_code_2_comes_without_traceback(there, capsys):
    names = [mixture["mixture"] for mixture in listed(capsys, "mixtures")]
    done = subprocess.run([*XTR, "list", "mixtures"], capture_output=True, text=True, check=True)
    header, *lines = done.stdout.split("\n")[:-1]
    assert [line.split()[0] for line in lines] == names
    assert all(line[header.index("rates") - 1] == " " for line in lines)
    done = subprocess.run([*XTR, "list", "tasks", "--kind", "x"], capture_output=True, text=True)
    assert done.returncode == 2 and "no kind 'x'" in done.stderr and "Traceback" not in done.stderr


ROWS = [
    {"task": f"target.{code}", "kind": "classification", "n": 1234, "why": "a reason of some words", "none": ""}
    for code in ("en", "sw", "zh")
]


@pytest.mark.parametrize(("width", "heading"), [(80, ""), (50, "kind classification")])
def test_on_a_terminal_no_line_is_wider_and_no_cell_is_cut(monkeypatch, capsys, width, heading):
    monkeypatch.setattr("sys.stdout.isatty", lambda: True)
    monkeypatch.setattr(tables.console, "_width", width)
    tables.print_table(ROWS)
    out = capsys.readouterr().out
    lines = out.split("\n")
    assert max(map(len, lines)) <= width and "none" not in out and out.count("1,234") == 3
    assert not heading or lines.count(heading) == 1
    assert [line.split()[0] for line in lines if line.startswith("target.")] == [row["task"] for row in ROWS]


def test_what_cannot_be_fitted_is_wrapped_between_words(monkeypatch, capsys):
    monkeypatch.setattr("sys.stdout.isatty", lambda: True)
    monkeypatch.setattr(tables.console, "_width", 40)
    words = [" ".join(f"w{i}{j}" for j in range(20)) for i in range(3)]
    tables.print_table([{"name": f"row{i}", "words": text} for i, text in enumerate(words)])
    out = capsys.readouterr().out
    assert max(map(len, out.split("\n"))) <= 40 and set(" ".join(words).split()) <= set(out.split())


def test_line_ends_and_wide_characters_keep_a_row_on_its_line(capsys):
    tables.print_table([{"a": "x\ny\u2028z", "b": "1"}, {"a": "你好", "b": "2"}])
    lines = capsys.readouterr().out.split("\n")
    assert lines[1].startswith("x\\ny\\u2028z  1") and lines[2] == "你好         2"
