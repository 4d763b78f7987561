"""What is written in other layouts: the same bits when read back, the same outputs in the program it is written for."""

import dataclasses
import json
import shutil

import flax.serialization
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from xtr.checkpoints import load, safetensors, verify, write
from xtr.checkpoints.manager import CheckpointManager
from xtr.errors import UserError
from xtr.models import bert, bloom, heads, mt5
from xtr.models.spec import flatten, init_params, map_specs
from xtr.train import adafactor

CONFIG = mt5.MT5Config(64, 32, 4, 8, 48, 3, 2, dtype="float32")
UMT5 = dataclasses.replace(CONFIG, relpos_per_layer=True)
XLMR = bert.BertConfig("xlmr", 64, 32, 4, 48, 2, 40, 1, pooler=False, mlm_head=True, dtype="float32")
MODELS = {
    "mt5": CONFIG,
    "umt5": UMT5,
    "mt5 encoder": CONFIG.encoder(),
    "xlmr": XLMR,
    "mbert": dataclasses.replace(XLMR, kind="mbert", type_vocab_size=2),
    "bloom": bloom.BloomConfig(64, 32, 4, 2, dtype="float32"),
    "xlmr classify": heads.WithHead(dataclasses.replace(XLMR, mlm_head=False), "classify", 3),
    "bloom tag": heads.WithHead(bloom.BloomConfig(64, 32, 4, 2, dtype="float32"), "tag", 5),
    "xlmr span": heads.WithHead(dataclasses.replace(XLMR, mlm_head=False), "span"),
    "mbert choose": heads.WithHead(
        dataclasses.replace(XLMR, kind="mbert", type_vocab_size=2, mlm_head=False), "choose"
    ),
}


def slots_of(model, least_size=16):
    return adafactor.slot_specs(adafactor.AdafactorConfig(min_dim_size_to_factor=least_size), model.param_specs())


def save_run(folder, model, *, step=7, seed=0):
    """An xtr run at `step`, with second moments; returns (params, opt_state)."""
    params = jax.tree.map(np.asarray, init_params(model.param_specs(), jax.random.key(seed)))
    rng = np.random.default_rng(seed)
    # Fresh biases and scales are all alike, which would hide one that is taken for another.
    params = jax.tree.map(lambda x: (x + 0.1 * rng.normal(size=x.shape)).astype(np.float32), params)
    is_slot = lambda x: hasattr(x, "axes")  # noqa: E731
    opt_state = jax.tree.map(lambda s: rng.uniform(1, 2, s.shape).astype(np.float32), slots_of(model), is_leaf=is_slot)
    manager = CheckpointManager(folder / "checkpoints")
    manager.save(step, {"step": jnp.int32(step), "params": params, "opt_state": opt_state}, {})
    manager.close()
    return params, opt_state


def opened(path, model):
    checkpoint = load.open_source(*load.resolve(path), model)
    return checkpoint, load.plan(checkpoint, model, draw=False)[0]


def assert_same(a, b):
    jax.tree.map(np.testing.assert_array_equal, a, b)


@pytest.mark.parametrize("name", MODELS)
def test_transformers_reads_what_we_wrote(name, tmp_path):
    model = MODELS[name]
    params, _ = save_run(tmp_path / "run", model)
    write.write_huggingface(*opened(tmp_path / "run", model), model, str(tmp_path / "hf"))
    loaded, origin = load.load_params(tmp_path / "hf", model)
    assert_same(loaded, params)
    assert origin.kind == "hf"
    deviation = verify.transformers_deviation(str(tmp_path / "hf"), params, model)
    if deviation is None:
        pytest.skip("transformers is not installed")
    print(f"{name}: largest relative deviation from transformers {deviation:.2e}")
    assert deviation < 1e-5
    # The check is able to fail: another network is far away.
    other = jax.tree.map(lambda x: x[..., ::-1], params)
    assert verify.transformers_deviation(str(tmp_path / "hf"), other, model) > 1e-2


def test_several_files_with_an_index(tmp_path):
    params, _ = save_run(tmp_path / "run", CONFIG)
    write.write_huggingface(*opened(tmp_path / "run", CONFIG), CONFIG, str(tmp_path / "hf"), shard_bytes=30_000)
    files = sorted(tmp_path.glob("hf/*.safetensors"))
    assert len(files) > 5
    assert max(file.stat().st_size for file in files) < 30_000 + 3_000
    index = json.loads((tmp_path / "hf" / "model.safetensors.index.json").read_text())
    assert index["metadata"]["total_size"] == sum(x.nbytes for x in jax.tree.leaves(params))
    assert set(index["weight_map"].values()) == {file.name for file in files}
    assert_same(load.load_params(tmp_path / "hf", CONFIG)[0], params)
    deviation = verify.transformers_deviation(str(tmp_path / "hf"), params, CONFIG)
    assert deviation is None or deviation < 1e-5


def test_the_library_reads_our_files(tmp_path):
    theirs = pytest.importorskip("safetensors.numpy")
    arrays = {"a": np.arange(12, dtype=np.float32).reshape(3, 4), "b": np.ones((2,), np.float32)}
    shapes = {name: a.shape for name, a in arrays.items()}
    safetensors.write_file(str(tmp_path / "x"), shapes, np.dtype(np.float32), arrays.values())
    found = theirs.load_file(tmp_path / "x")
    assert_same(found, arrays)


@pytest.mark.parametrize("model", [CONFIG, UMT5], ids=["mt5", "umt5"])
def test_t5x_with_second_moments(model, tmp_path):
    params, opt_state = save_run(tmp_path / "run", model, step=7)
    output = tmp_path / "checkpoint_7"
    write.write_t5x(*opened(tmp_path / "run", model), model, slots_of(model), str(output))
    loaded, origin = load.load_params(output, model)
    assert_same(loaded, params)
    assert origin == load.Origin("t5x", str(output), 7, has_slots=True)
    initial = load.open_initial(output, model, slots_of(model))
    assert initial.origin.has_slots
    state = load.initial_state(initial, State(*jax.tree.map(jnp.zeros_like, (params, opt_state))))
    assert_same(state.params, params)
    assert_same(state.opt_state, opt_state)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["checkpoint_7", "run"]


@dataclasses.dataclass
class State:
    params: dict
    opt_state: dict


def test_t5x_files_are_those_of_t5x(oracles, tmp_path):
    """The recorded checkpoint of T5X, read and written again: the same msgpack contents, the same files."""
    recorded = oracles / "t5x_mt5_micro"
    sizes = json.loads((recorded / "config.json").read_text())
    names = ("vocab_size", "emb_dim", "num_heads", "head_dim", "mlp_dim", "num_encoder_layers", "num_decoder_layers")
    model = mt5.MT5Config(*(sizes[name] for name in names), dtype="float32")
    original = recorded / "t5x_legacy" / "checkpoint_0"
    for form in ("t5x_legacy", "t5x_orbax"):
        output = tmp_path / form
        source = opened(recorded / form / "checkpoint_0", model)
        write.write_t5x(*source, model, slots_of(model, 128), str(output))
        theirs, ours = (
            flax.serialization.msgpack_restore((folder / "checkpoint").read_bytes()) for folder in (original, output)
        )
        jax.tree.map(np.testing.assert_array_equal, ours, theirs)
        files = {p.relative_to(original) for p in original.rglob("*") if p.is_file()}
        assert files == {p.relative_to(output) for p in output.rglob("*") if p.is_file()}
        for file in files:
            if file.name == ".zarray":
                assert json.loads((output / file).read_text()) == json.loads((original / file).read_text())
        loaded = [load.load_params(folder, model)[0] for folder in (original, output)]
        assert_same(*loaded)


def test_t5x_from_hugging_face_starts_at_step_0(tmp_path):
    params, _ = save_run(tmp_path / "run", CONFIG)
    write.write_huggingface(*opened(tmp_path / "run", CONFIG), CONFIG, str(tmp_path / "hf"))
    slots = slots_of(CONFIG)
    write.write_t5x(*opened(tmp_path / "hf", CONFIG), CONFIG, slots, str(tmp_path / "t5x"))
    loaded, origin = load.load_params(tmp_path / "t5x", CONFIG)
    assert_same(loaded, params)
    assert (origin.step, origin.has_slots) == (0, False)
    checkpoint, _ = opened(tmp_path / "t5x", CONFIG)
    for path, spec in flatten(CONFIG.param_specs()).items():
        found = checkpoint.slots[spec.t5x.replace("{layer}", "0")]
        kinds = {n.rpartition("/")[2]: s for n, s in flatten(slots).items() if n.rpartition("/")[0] == path}
        assert {kind: a.shape for kind, a in found.items()} == {
            kind: s.shape[1:] if spec.stacked else s.shape for kind, s in kinds.items()
        }


def test_adamw_leaves_no_second_moments(tmp_path):
    params = jax.tree.map(np.asarray, init_params(CONFIG.param_specs(), jax.random.key(0)))
    moments = map_specs(lambda s: {name: np.ones(s.shape, np.float32) for name in ("mu", "nu")}, CONFIG.param_specs())
    manager = CheckpointManager(tmp_path / "run")
    manager.save(3, {"params": params, "opt_state": moments}, {})
    manager.close()
    write.write_t5x(*opened(tmp_path / "run", CONFIG), CONFIG, slots_of(CONFIG), str(tmp_path / "t5x"))
    assert load.inspect(tmp_path / "t5x").step == 0


def test_every_way_round(tmp_path):
    """xtr -> T5X -> Hugging Face -> T5X: equal bits all along, for umT5, whose layouts differ most."""
    params, _ = save_run(tmp_path / "run", UMT5)
    write.write_t5x(*opened(tmp_path / "run", UMT5), UMT5, slots_of(UMT5), str(tmp_path / "a"))
    write.write_huggingface(*opened(tmp_path / "a", UMT5), UMT5, str(tmp_path / "b"), shard_bytes=50_000)
    write.write_t5x(*opened(tmp_path / "b", UMT5), UMT5, slots_of(UMT5), str(tmp_path / "c"))
    assert_same(load.load_params(tmp_path / "c", UMT5)[0], params)
    sources = [opened(tmp_path / name, UMT5)[0] for name in ("run", "c")]
    assert verify.differing(*sources, UMT5) == []


@pytest.mark.parametrize("bad", ["nan", "zero", "flipped"])
def test_the_check_of_bits_sees_everything(tmp_path, bad):
    save_run(tmp_path / "run", CONFIG)
    write.write_huggingface(*opened(tmp_path / "run", CONFIG), CONFIG, str(tmp_path / "hf"))
    file = tmp_path / "hf" / "model.safetensors"
    content = bytearray(file.read_bytes())
    if bad == "flipped":
        content[-1] ^= 1
    else:
        content[-4:] = np.float32({"nan": np.nan, "zero": -0.0}[bad]).tobytes()
    file.write_bytes(content)
    sources = [opened(tmp_path / name, CONFIG)[0] for name in ("run", "hf")]
    assert verify.differing(*sources, CONFIG) == ["token_embedder/embedding"]
    assert verify.differing(sources[1], sources[1], CONFIG) == []


@pytest.mark.parametrize("to", ["hf", "t5x"])
def test_nothing_is_written_over_and_nothing_half(tmp_path, to, monkeypatch):
    save_run(tmp_path / "run", CONFIG)

    def convert(output):
        source = opened(tmp_path / "run", CONFIG)
        if to == "hf":
            write.write_huggingface(*source, CONFIG, output)
        else:
            write.write_t5x(*source, CONFIG, slots_of(CONFIG), output)

    (tmp_path / "there").mkdir()
    with pytest.raises(UserError, match="something at .*there already"):
        convert(str(tmp_path / "there"))
    with pytest.raises(UserError, match="to a local disk only"):
        convert("gs://bucket/x")
    chunks = next((tmp_path / "run").rglob("ocdbt.process_0/d"))
    shutil.rmtree(chunks)
    with pytest.raises(UserError, match="cannot be read"):
        convert(str(tmp_path / "new"))
    assert sorted(p.name for p in tmp_path.iterdir()) == ["run", "there"]


def test_t5x_has_no_bert(tmp_path):
    save_run(tmp_path / "run", XLMR)
    with pytest.raises(UserError, match="T5X has no such network"):
        write.write_t5x(*opened(tmp_path / "run", XLMR), XLMR, slots_of(XLMR), str(tmp_path / "t5x"))
