"""`xtr convert`: from any layout to Hugging Face's and T5X's, with the checks that --verify makes."""

import jax
import numpy as np
import pytest

from xtr.checkpoints import load, verify, write
from xtr.cli.main import run
from xtr.config import build_model
from xtr.errors import UserError
from xtr.models.spec import init_params
from xtr.train import adafactor

GIN = ["--gin_file=models/mt5/micro.gin", "--gin.VOCAB_SIZE=96"]


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    """A T5X checkpoint of the micro model."""
    from xtr.checkpoints.manager import CheckpointManager

    folder = tmp_path_factory.mktemp("convert")
    model = build_model(["models/mt5/micro.gin"], ["VOCAB_SIZE=96"])
    manager = CheckpointManager(folder / "run")
    manager.save(4, {"params": init_params(model.param_specs(), jax.random.key(0))}, {})
    manager.close()
    source = load.open_source(*load.resolve(folder / "run"), model)
    places, _ = load.plan(source, model, draw=False)
    slots = adafactor.slot_specs(adafactor.AdafactorConfig(), model.param_specs())
    write.write_t5x(source, places, model, slots, str(folder / "t5x"))
    return folder / "t5x", model


def test_there_and_back(checkpoint, tmp_path, capsys):
    t5x, model = checkpoint
    hf, back = tmp_path / "hf", tmp_path / "back"
    arguments = ["convert", *GIN, "--verify"]
    assert run([*arguments, f"--checkpoint={t5x}", "--to=huggingface", f"--output={hf}"]) == 0
    out = capsys.readouterr().out
    assert "read back: equal bits" in out
    if "not compared" not in out:
        deviation = float(out.split("largest relative deviation from transformers' ")[1])
        print(f"deviation of the logits: {deviation:.2e}")
        assert deviation < 1e-5
    assert run([*arguments, f"--checkpoint={hf}", "--to=t5x", f"--output={back}"]) == 0
    out = capsys.readouterr().out
    assert "read back: equal bits" in out and "deviation from those of the source 0.00e+00" in out
    first, second = (load.load_params(folder, model)[0] for folder in (t5x, back))
    jax.tree.map(np.testing.assert_array_equal, first, second)


def test_a_failed_check_is_exit_code_1(checkpoint, tmp_path, capsys, monkeypatch):
    arguments = ["convert", *GIN, "--verify", f"--checkpoint={checkpoint[0]}", "--to=huggingface"]
    monkeypatch.setattr(verify, "transformers_deviation", lambda *_: 3e-4)
    assert run([*arguments, f"--output={tmp_path / 'a'}"]) == 1
    assert "3.00e-04, more than 1e-04" in capsys.readouterr().out
    monkeypatch.setattr(verify, "transformers_deviation", lambda *_: None)
    assert run([*arguments, f"--output={tmp_path / 'b'}"]) == 0
    assert "not compared" in capsys.readouterr().out
    monkeypatch.setattr(verify, "differing", lambda *_: ["encoder/x"])
    assert run([*arguments, f"--output={tmp_path / 'c'}"]) == 1
    assert "1 parameters differ: encoder/x" in capsys.readouterr().out


def test_wrong_use(checkpoint, tmp_path):
    where = [f"--checkpoint={checkpoint[0]}", f"--output={tmp_path / 'out'}"]
    with pytest.raises(UserError, match="needs the model: --gin_file"):
        run(["convert", "--to=t5x", *where])
    with pytest.raises(UserError, match="invalid choice: 'flax'"):
        run(["convert", *GIN, "--to=flax", *where])
    with pytest.raises(UserError, match="does not fit the model:\n  shape of decoder.logits_dense.kernel"):
        run(["convert", *GIN[:1], "--gin.VOCAB_SIZE=128", "--to=huggingface", *where])
    bloom = tmp_path / "bloom"
    bloom.mkdir()
    (bloom / "config.json").write_text('{"model_type": "bloom"}')
    (bloom / "model.safetensors").write_bytes(b"")
    with pytest.raises(UserError, match="is of the type 'bloom' .* but the model is 'mt5'"):
        run(["convert", *GIN, "--to=t5x", f"--checkpoint={bloom}", where[1]])
    assert not (tmp_path / "out").exists()
