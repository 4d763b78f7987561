"""The command: exit codes, messages, and what it never starts."""

import subprocess
import sys

import pytest

from xtr.cli.main import run, split_gin
from xtr.errors import UserError

XTR = [sys.executable, "-m", "xtr.cli.main"]


def test_gin_arguments_are_taken_out():
    rest, overrides = split_gin(["train", "--gin_file=a.gin", "--gin.A=1", "--gin.b.c", "x y", "--gin_bindings=D = 2"])
    assert rest == ["train", "--gin_file=a.gin", "--gin_bindings=D = 2"]
    assert overrides == ["A=1", "b.c=x y"]


@pytest.mark.parametrize(
    ("argv", "expected"),
    [
        (["trian"], "Did you mean train?"),
        (["train", "--gin_fil=x"], "unrecognized arguments"),
        (["study"], "required"),
        (["list", "models", "--gin.A=1"], "takes no gin overrides"),
        (["config"], "needs at least one --gin_file"),
    ],
)
def test_wrong_use_is_one_message(argv, expected):
    with pytest.raises(UserError, match=expected):
        run(argv)


def test_exit_code_2_no_traceback_nothing_written_and_no_heavy_import(tmp_path):
    code = (
        "import sys\n"
        "from xtr.cli.main import main\n"
        f"sys.argv = ['xtr', 'train', '--gin_file=runs/nothing.gin', '--gin.MODEL_DIR={tmp_path}/run']\n"
        "try:\n    main()\nfinally:\n    print('tensorflow' in sys.modules)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=tmp_path)
    assert done.returncode == 2 and done.stdout == "False\n"
    assert done.stderr.startswith("xtr: gin file") and "Traceback" not in done.stderr
    assert list(tmp_path.iterdir()) == []


def test_lists(capsys):
    assert run(["list", "models", "--json"]) == 0
    assert '"parameters": 12921057280' in capsys.readouterr().out
    assert run(["list", "gin"]) == 0
    assert "models/mt5/xxl.gin" in capsys.readouterr().out


def test_config_prints_each_value_with_its_place(capsys):
    files = [f"--gin_file={name}" for name in ("models/mt5/xl.gin", "runs/finetune.gin", "targets/xnli.gin")]
    assert run(["config", *files, "--gin.BATCH_SIZE=7"]) == 0
    lines = capsys.readouterr().out.split("\n")
    assert any(line.split("#")[0].strip() == "BATCH_SIZE = 7" and "command line" in line for line in lines)
    assert any(line.startswith("mt5.MT5Config.emb_dim = 2048") and "xtr:models/mt5/xl.gin:" in line for line in lines)
