"""Every layout of checkpoint, on a disk and in a bucket, read to shards: the same bits as were written."""

import dataclasses
import json
import shutil

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest
from jax.sharding import SingleDeviceSharding

from xtr.checkpoints import fill, load, source
from xtr.checkpoints.manager import CheckpointManager
from xtr.errors import UserError
from xtr.models import mt5
from xtr.models.spec import ParamSpec, flatten, from_layers, map_specs, to_layers, unflatten, zeros
from xtr.parallel.mesh import MeshConfig, make_mesh
from xtr.parallel.sharding import tree_shardings
from xtr.train import adafactor

CONFIG = mt5.MT5Config(64, 32, 4, 8, 48, 3, 2, dtype="float32")
UMT5 = dataclasses.replace(CONFIG, relpos_per_layer=True)
LAYOUTS = (
    "xtr", "t5x", "t5x_bf16", "t5x_orbax", "t5x_zarr_folders", "scanned", "scanned_orbax",
    "hf", "hf_sharded", "hf_bf16", "hf_umt5",
)  # fmt: skip
PICKLED = ("hf_bin", "hf_bin_sharded", "hf_bin_bf16")


def model_of(layout):
    return UMT5 if layout.startswith("scanned") or layout == "hf_umt5" else CONFIG


def draw(model, dtype=np.float32):
    rng = np.random.default_rng(0)
    return map_specs(lambda spec: rng.normal(size=spec.shape).astype(dtype), model.param_specs())


def scan(model, params):
    """{name: array} of T5X's scanned layout, by T5X's own axes: layers second, heads and their size apart."""
    arrays = {}
    for path, array in flatten(params).items():
        spec = flatten(model.param_specs())[path]
        array = np.asarray(array)
        if spec.stacked:
            heads, size = model.num_heads, model.head_dim
            if spec.axes[-1] == "joined_kv":
                array = array.reshape(*array.shape[:-1], heads, size)
            elif spec.axes[1] == "joined_kv":
                array = array.reshape(array.shape[0], heads, size, *array.shape[2:])
            array = np.moveaxis(array, 0, 1)
        arrays[spec.t5x.replace(".layers_{layer}.", f".{spec.t5x.split('.')[0]}.")] = array
    return arrays


def save_transformers(path, model, params, *, dtype=None, shard="5GB", pickled=False):
    """Hugging Face's network with our parameters, saved by Hugging Face itself."""
    torch = pytest.importorskip("torch")
    transformers = pytest.importorskip("transformers")
    layout = model.huggingface()
    config = transformers.AutoConfig.for_model(**layout.config)
    network = getattr(transformers, layout.architecture)(config)
    network.lm_head.weight = torch.nn.Parameter(torch.zeros(model.vocab_size, model.emb_dim))
    state = {name: torch.tensor(a) for name, a in to_layers(model.param_specs(), params, "hf").items()}
    network.load_state_dict(state, strict=False)
    if dtype:
        network = network.to(getattr(torch, dtype))
    network.save_pretrained(path, max_shard_size=shard)
    if not pickled:
        return
    # Today's transformers writes no pickled weights any more; the files of old ones are one torch.save each.
    state = network.state_dict()
    for file in path.glob("*.safetensors*"):
        file.unlink()
    if shard == "5GB":
        torch.save(state, path / "pytorch_model.bin")
        return
    names = sorted(state)
    files = {f"pytorch_model-{i + 1:05}-of-00002.bin": names[i::2] for i in range(2)}
    for file, some in files.items():
        torch.save({name: state[name] for name in some}, path / file)
    weight_map = {name: file for file, some in files.items() for name in some}
    (path / "pytorch_model.bin.index.json").write_text(json.dumps({"metadata": {}, "weight_map": weight_map}))


@pytest.fixture(scope="module")
def written(tmp_path_factory, write_t5x, write_t5x_orbax):
    """written(layout) -> (folder, parameters): a checkpoint of each layout, made on first use."""
    made = {}

    def make(layout):
        if layout in made:
            return made[layout]
        folder = tmp_path_factory.mktemp(layout) / "checkpoint_5"
        model, bf16 = model_of(layout), layout.endswith("bf16")
        params = draw(model, ml_dtypes.bfloat16 if bf16 else np.float32)
        if layout == "xtr":
            folder = folder.parent / "checkpoints" / "5"
            manager = CheckpointManager(folder.parent)
            manager.save(5, {"step": jnp.int32(5), "params": params}, {})
            manager.close()
        elif layout.startswith("hf"):
            save_transformers(
                folder,
                model,
                jax.tree.map(lambda x: x.astype(np.float32), params),
                dtype="bfloat16" if bf16 else None,
                shard="20KB" if "sharded" in layout else "5GB",
                pickled="bin" in layout,
            )
        elif layout in ("t5x", "t5x_bf16", "scanned"):
            arrays = to_layers(model.param_specs(), params) if layout != "scanned" else scan(model, params)
            write_t5x(folder, arrays)
        else:
            arrays = scan(model, params) if "scanned" in layout else to_layers(model.param_specs(), params)
            write_t5x_orbax(folder, arrays, ocdbt=layout != "t5x_zarr_folders")
        made[layout] = folder, jax.tree.map(lambda x: x.astype(np.float32), params)
        return made[layout]

    return make


def assert_same(a, b):
    jax.tree.map(np.testing.assert_array_equal, a, b)


@pytest.mark.parametrize("layout", (*LAYOUTS, *PICKLED))
def test_every_layout_arrives_sharded(written, layout):
    folder, params = written(layout)
    model = model_of(layout)
    shardings = tree_shardings(model.param_specs(), make_mesh(MeshConfig(fsdp=4, tensor=2)))
    loaded, origin = load.load_params(folder, model, shardings, allow_pickle=layout in PICKLED)
    assert_same(loaded, params)
    assert jax.tree.map(lambda x: x.sharding, loaded) == shardings
    assert {x.dtype for x in jax.tree.leaves(loaded)} == {np.dtype(np.float32)}
    kind = "hf" if layout.startswith("hf") else "xtr" if layout == "xtr" else "t5x"
    assert origin == load.Origin(kind, str(folder), 0 if kind == "hf" else 5, has_slots=False)


@pytest.mark.parametrize("layout", ["xtr", "t5x", "scanned", "hf_sharded"])
def test_every_layout_in_pieces_on_devices(written, layout, monkeypatch):
    """Pieces much smaller than an array, so that nothing is put together on the host."""
    monkeypatch.setattr(fill, "PIECE", 700)
    monkeypatch.setattr(fill, "IN_FLIGHT", 2000)
    folder, params = written(layout)
    model = model_of(layout)
    specs = model.param_specs()
    devices = jax.devices()
    for shardings in (
        tree_shardings(specs, make_mesh(MeshConfig(fsdp=2), devices[:2])),
        # Six shards of a kernel's joined axis cut heads in two.
        tree_shardings(specs, make_mesh(MeshConfig(fsdp=1, tensor=8), devices)),
        map_specs(lambda _: SingleDeviceSharding(devices[3]), specs),
    ):
        loaded, _ = load.load_params(folder, model, shardings)
        assert_same(loaded, params)
        assert jax.tree.map(lambda x: x.sharding, loaded) == shardings
        monkeypatch.setattr(fill, "PIECE", 5000)


@pytest.mark.parametrize(
    "layout",
    [
        pytest.param(name, marks=[pytest.mark.slow] * (name in ("t5x_bf16", "t5x_zarr_folders", "hf_bf16", "hf_umt5")))
        for name in LAYOUTS
    ],
)
def test_every_layout_from_a_bucket(written, layout, fake_gcs):
    folder, params = written(layout)
    place = fake_gcs / "layouts" / layout / folder.name
    shutil.copytree(folder, place, dirs_exist_ok=True)
    path = f"gs://bucket/layouts/{layout}/{folder.name}"
    model = model_of(layout)
    shardings = tree_shardings(model.param_specs(), make_mesh(MeshConfig(fsdp=4, tensor=2)))
    sent = fake_gcs.server.sent
    loaded, origin = load.load_params(path, model, shardings)
    assert_same(loaded, params)
    assert origin.path == path
    if layout.startswith("hf"):  # every byte is fetched once, though eight devices share them
        assert fake_gcs.server.sent - sent < 1.2 * sum(p.stat().st_size for p in place.iterdir())
    # The folder above it means its newest checkpoint, for the layouts that number theirs.
    if not layout.startswith("hf"):
        assert load.inspect(f"gs://bucket/layouts/{layout}").path == path


def test_a_parameter_may_be_kept_in_bfloat16(written):
    folder, params = written("t5x")

    class Half(mt5.MT5Config):
        def param_specs(self):
            return map_specs(lambda s: dataclasses.replace(s, dtype="bfloat16"), super().param_specs())

    loaded, _ = load.load_params(folder, Half(**dataclasses.asdict(CONFIG)))
    assert_same(loaded, jax.tree.map(lambda x: x.astype(ml_dtypes.bfloat16), params))


def test_a_folder_of_t5x_checkpoints_means_the_newest(written, tmp_path):
    for step in (5, 40, 300):
        (tmp_path / f"checkpoint_{step}").symlink_to(written("t5x")[0])
    (tmp_path / "checkpoint_4000").mkdir()  # nothing in it
    assert load.inspect(tmp_path).path == str(tmp_path / "checkpoint_300")


# ---------------------------------------------------------------------------------------------------- second moments


@dataclasses.dataclass
class State:
    params: dict
    opt_state: dict


def slots_of(model, least_size=1):
    return adafactor.slot_specs(adafactor.AdafactorConfig(min_dim_size_to_factor=least_size), model.param_specs())


def blank_state(model, slots):
    mesh = make_mesh(MeshConfig(fsdp=4, tensor=2))

    def put(specs):
        arrays = jax.tree.map(lambda s: np.zeros(s.shape, np.float32), specs, is_leaf=lambda x: hasattr(x, "axes"))
        return jax.tree.map(jax.device_put, arrays, tree_shardings(specs, mesh))

    return State(put(model.param_specs()), put(slots))


def moments(model):
    """{parameter: mean over other axes of a random array in the parameter's shape}, all that factoring keeps of it."""
    rng = np.random.default_rng(1)
    return {path: rng.uniform(1, 2, spec.shape) for path, spec in flatten(model.param_specs()).items()}


def expected_slots(model, slots, full):
    """Our own slots of full moments: means over the axes that a slot lacks."""
    out = {}
    for name, slot in flatten(slots).items():
        path, _, kind = name.rpartition("/")
        dims = adafactor.factored_dims(adafactor.AdafactorConfig(min_dim_size_to_factor=1), model_spec(model, path))
        out[name] = full[path] if kind == "v" else full[path].mean(dims[1] if kind == "v_row" else dims[0])
        assert out[name].shape == slot.shape
    return unflatten({name: a.astype(np.float32) for name, a in out.items()})


def model_spec(model, path):
    return flatten(model.param_specs())[path]


def t5x_slots(model, slots, full):
    """{T5X's name: its slots} of the unscanned layout: one layer's arrays."""
    flat = flatten(expected_slots(model, slots, full))
    out = {}
    for name, array in flat.items():
        path, _, kind = name.rpartition("/")
        spec = model_spec(model, path)
        for i in range(spec.shape[0] if spec.stacked else 1):
            of_layer = array[i] if spec.stacked else array
            out.setdefault(spec.t5x.replace("{layer}", str(i)), {})[kind] = of_layer
    return out


def scanned_slots(model, full):
    """{T5X's name: its slots} of the scanned layout, by T5X's logical factor rules: 'embed' is the row, layers a batch
    axis, everything else the column; unfactored without both; not stacked matrices by size."""
    arrays = scan(model, unflatten(full))
    out = {}
    for spec in flatten(model.param_specs()).values():
        name = spec.t5x.replace(".layers_{layer}.", f".{spec.t5x.split('.')[0]}.")
        array = arrays[name].astype(np.float32)
        if len(spec.layer_shape) < 2 or "embed" not in spec.axes:
            out[name] = {"v": array}
        elif not spec.stacked:
            small, large = np.argsort(array.shape)
            out[name] = {"v_row": array.mean(large), "v_col": array.mean(small)}
        else:
            row = 0 if spec.axes[1] == "embed" else array.ndim - 1
            columns = tuple(a for a in range(array.ndim) if a not in (row, 1))
            out[name] = {"v_row": array.mean(columns), "v_col": array.mean(row)}
    return out


@pytest.mark.parametrize("layout", ["t5x", "t5x_orbax", "t5x_zarr_folders", "scanned", "scanned_orbax"])
def test_second_moments_come_along(layout, tmp_path, write_t5x, write_t5x_orbax):
    model = model_of(layout)
    slots = slots_of(model)
    if "scanned" in layout:  # there small parameters are factored too, and the bias tables are not
        for stack in ("encoder", "decoder"):
            spec = model.param_specs()[stack]["layers"]["relpos_bias"]["rel_embedding"]
            table = {"v": adafactor.SlotSpec(spec.shape, spec.axes)}
            slots[stack]["layers"]["relpos_bias"]["rel_embedding"] = table
    full, params = moments(model), draw(model)
    if "scanned" in layout:
        arrays, stored = scan(model, params), scanned_slots(model, full)
    else:
        arrays, stored = to_layers(model.param_specs(), params), t5x_slots(model, slots, full)
    folder = tmp_path / "checkpoint_1000"
    if layout in ("t5x", "scanned"):
        write_t5x(folder, arrays, step=1000, slots=stored)
    else:
        write_t5x_orbax(folder, arrays, step=1000, slots=stored, ocdbt=layout != "t5x_zarr_folders")
    initial = load.open_initial(folder, model, slots)
    assert (initial.origin.step, initial.origin.has_slots) == (1000, True)
    state = load.initial_state(initial, blank_state(model, slots))
    assert_same(state.params, params)
    wanted = expected_slots(model, slots, full)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-6), state.opt_state, wanted)


def test_moments_that_are_factored_otherwise_start_afresh_and_that_is_said(tmp_path, write_t5x, capsys):
    folder = write_t5x(tmp_path / "c", scan(UMT5, draw(UMT5)), slots=scanned_slots(UMT5, moments(UMT5)))
    initial = load.open_initial(folder, UMT5, slots_of(UMT5, least_size=128))
    assert not initial.origin.has_slots
    assert "second moments are not used and start afresh" in capsys.readouterr().err
    assert load.inspect(folder).has_slots  # without the run's own slots, all that is known is that there are some


def test_another_optimizer_takes_no_second_moments(tmp_path, write_t5x, capsys):
    slots = t5x_slots(CONFIG, slots_of(CONFIG), moments(CONFIG))
    folder = write_t5x(tmp_path / "c", to_layers(CONFIG.param_specs(), draw(CONFIG)), slots=slots)
    adam = map_specs(lambda s: {"mu": adafactor.SlotSpec(s.shape, s.axes)}, CONFIG.param_specs())
    assert not load.open_initial(folder, CONFIG, adam).origin.has_slots
    assert "another optimizer starts its own" in capsys.readouterr().err


# ---------------------------------------------------------------------------------------------------- what differs


@pytest.mark.parametrize("layout", ["t5x", "t5x_orbax", "hf", "hf_sharded", "xtr"])
def test_an_encoder_alone_leaves_the_decoder_aside_and_says_so(written, layout, capsys):
    folder, params = written(layout)
    loaded, _ = load.load_params(folder, CONFIG.encoder())
    assert_same(loaded, {name: params[name] for name in ("token_embedder", "encoder")})
    assert "left aside: this run has no decoder." in capsys.readouterr().err


@pytest.mark.parametrize("layout", ["t5x", "t5x_orbax", "scanned", "hf", "hf_sharded", "hf_bin"])
def test_one_error_names_everything_with_its_shape(written, layout):
    folder, _ = written(layout)
    model = model_of(layout)
    other = dataclasses.replace(model, mlp_dim=56, num_decoder_layers=3)
    with pytest.raises(UserError) as error:
        load.load_params(folder, other, allow_pickle=True)
    text = str(error.value)
    if layout == "scanned":
        assert "shape of encoder.encoder.mlp.wi_0.kernel: (32, 3, 48), not (32, 3, 56)" in text
        assert "shape of decoder.decoder.self_attention.query.kernel: (32, 2, 4, 8), not (32, 3, 4, 8)" in text
        assert text.count("\n  ") == 3 + 15
    elif layout.startswith("hf"):
        name = "decoder.block.2.layer.1.EncDecAttention.q.weight"
        assert f"missing: {name} (32, 32)" in text
        assert "shape of encoder.block.0.layer.1.DenseReluDense.wi_0.weight: (48, 32), not (56, 32)" in text
        assert text.count("\n  ") == 14 + 5 * 3
    else:
        assert "missing: decoder.layers_2.encoder_decoder_attention.query.kernel (32, 32)" in text
        assert "shape of encoder.layers_0.mlp.wi_0.kernel: (32, 48), not (32, 56)" in text
        assert text.count("\n  ") == 14 + 5 * 3


def test_mt5_cannot_be_read_from_umt5s_layout(written):
    with pytest.raises(UserError) as error:
        load.load_params(written("scanned")[0], CONFIG)
    assert "missing: encoder.relpos_bias.rel_embedding (4, 32)" in str(error.value)
    assert "not expected: encoder.encoder.relpos_bias.rel_embedding (4, 3, 32)" in str(error.value)


def damage(folder, layout):
    """Harms one array in some way and returns (its name, its shape, what the message should say)."""
    wo = "encoder.layers_1.mlp.wo.kernel"
    hf = "encoder.block.1.layer.1.DenseReluDense.wo.weight"
    if layout == "t5x":
        (folder / f"target.{wo}" / "1.1").unlink()
        return wo, (48, 32), "1 of its 4 chunks are not there"
    if layout == "t5x_cut":
        file = folder / f"target.{wo}" / "1.1"
        file.write_bytes(file.read_bytes()[:50])
        return wo, (48, 32), ""
    if layout == "t5x_zarr_folders":
        shutil.rmtree(folder / "state" / f"target.{wo}")
        return wo, (48, 32), None
    if layout == "hf":
        file = folder / "model.safetensors"
        content = file.read_bytes()
        length = int.from_bytes(content[:8], "little")
        header = json.loads(content[8 : 8 + length])
        header.pop("__metadata__")
        last = max(header, key=lambda name: header[name]["data_offsets"][1])
        file.write_bytes(content[:-10])
        return last, tuple(header[last]["shape"]), "ends before its last byte"
    index = json.loads((folder / "model.safetensors.index.json").read_text())["weight_map"]
    (folder / index[hf]).unlink()
    return hf, (32, 48), f"its file {index[hf]} cannot be read"


@pytest.mark.parametrize("place", ["local", "gs"])
@pytest.mark.parametrize("layout", ["t5x", "t5x_cut", "t5x_zarr_folders", "hf", "hf_sharded"])
def test_what_is_damaged_is_named_with_its_shape(written, tmp_path, layout, place, request):
    original, _ = written("t5x" if layout == "t5x_cut" else layout)
    parent = tmp_path if place == "local" else request.getfixturevalue("fake_gcs") / f"damaged_{layout}"
    copy = parent / "copy"
    shutil.copytree(original, copy)
    name, shape, why = damage(copy, layout)
    with pytest.raises(UserError) as error:
        load.load_params(copy if place == "local" else f"gs://bucket/damaged_{layout}/copy", CONFIG)
    said = f"missing: {name} {shape}" if why is None else f"cannot be read at the array {name} {shape}: "
    assert said in str(error.value)
    assert (why or "") in str(error.value)


@pytest.mark.parametrize("layout", ["t5x_orbax", "xtr"])
def test_a_cut_database_is_an_error(written, tmp_path, layout):
    original, _ = written(layout)
    copy = tmp_path / original.name
    shutil.copytree(original, copy)
    files = [p for p in (copy / "state").rglob("d/*") if p.is_file()]
    for file in files:
        file.write_bytes(file.read_bytes()[:100])
    with pytest.raises(UserError, match=r"cannot be read"):
        load.load_params(copy, CONFIG)


def test_integers_are_no_weights(tmp_path, write_t5x):
    arrays = to_layers(CONFIG.param_specs(), draw(CONFIG))
    arrays["decoder.decoder_norm.scale"] = np.arange(32, dtype=np.int32)
    folder = write_t5x(tmp_path / "c", arrays)
    with pytest.raises(UserError, match=r"decoder_norm\.scale \(32,\): it is stored as int32, not as floating-point"):
        load.load_params(folder, CONFIG)


@pytest.mark.parametrize("layout", PICKLED)
def test_pickled_weights_need_permission(written, layout):
    folder, _ = written(layout)
    assert load.inspect(folder).kind == "hf"
    with pytest.raises(UserError, match="can run code .*save_pretrained.*ALLOW_PICKLE = True .*--allow_pickle"):
        load.load_params(folder, CONFIG)


def test_pickled_code_does_not_run_even_then(tmp_path):
    torch = pytest.importorskip("torch")

    class Bad:
        def __reduce__(self):
            return (open, (str(tmp_path / "ran"), "w"))

    torch.save({"shared.weight": Bad()}, tmp_path / "pytorch_model.bin")
    with pytest.raises(UserError, match="PyTorch cannot read it"):
        load.load_params(tmp_path, CONFIG, allow_pickle=True)
    assert not (tmp_path / "ran").exists()


def test_a_bad_header_or_index(tmp_path):
    (tmp_path / "model.safetensors").write_bytes(b"\xff" * 20)
    with pytest.raises(UserError, match=r"model\.safetensors cannot be read: it is not a safetensors file"):
        load.load_params(tmp_path, CONFIG)
    (tmp_path / "model.safetensors").unlink()
    (tmp_path / "model.safetensors.index.json").write_text("[]")
    with pytest.raises(UserError, match="is damaged: it is no index of weights"):
        load.load_params(tmp_path, CONFIG)


# ---------------------------------------------------------------------------------------------------- heads, families


@dataclasses.dataclass(frozen=True)
class WithHead(mt5.MT5Config):
    """A model with a small head that no other layout has a name for."""

    labels: int = 3

    def param_specs(self):
        head = ParamSpec((self.emb_dim, self.labels), ("embed", "labels"), zeros, "classifier.weight", fresh=True)
        return super().param_specs() | {"head": {"kernel": head}}


HEADED = WithHead(**dataclasses.asdict(CONFIG))


@pytest.mark.parametrize("layout", ["xtr", "t5x", "hf"])
def test_a_missing_head_is_drawn_anew_or_an_error(written, layout, capsys):
    folder, params = written(layout)
    loaded, _ = load.load_params(folder, HEADED, key=jax.random.key(0))
    assert loaded.pop("head")["kernel"].shape == (32, 3)
    assert_same(loaded, params)
    assert "has no head/kernel of this shape: drawn anew." in capsys.readouterr().err
    with pytest.raises(UserError, match="missing: .*(classifier.weight|head.kernel) "):
        load.load_params(folder, HEADED)


def test_a_head_of_another_task(tmp_path, capsys):
    params = draw(CONFIG) | {"head": {"kernel": np.ones((32, 5), np.float32)}}
    manager = CheckpointManager(tmp_path)
    manager.save(1, {"params": params}, {})
    manager.close()
    assert_same(load.load_params(tmp_path, CONFIG)[0], draw(CONFIG))
    assert "params/head/kernel left aside: this run has no such head." in capsys.readouterr().err
    loaded, _ = load.load_params(tmp_path, HEADED, key=jax.random.key(0))
    assert loaded["head"]["kernel"].shape == (32, 3)
    with pytest.raises(UserError, match=r"shape of params/head/kernel: \(32, 5\), not \(32, 3\)"):
        load.load_params(tmp_path, HEADED)
    same = dataclasses.replace(HEADED, labels=5)
    assert_same(load.load_params(tmp_path, same)[0], params)
    state = load.initial_state(load.open_initial(tmp_path, HEADED, slots_of(HEADED)), blank_state(HEADED, {}))
    assert_same(state.params, draw(CONFIG) | {"head": {"kernel": np.zeros((32, 3))}})


def test_a_family_that_t5x_does_not_have(written):
    class Nameless(mt5.MT5Config):
        def param_specs(self):
            return map_specs(lambda s: dataclasses.replace(s, t5x=None), super().param_specs())

    with pytest.raises(UserError, match="T5X has no such network"):
        load.load_params(written("t5x")[0], Nameless(**dataclasses.asdict(CONFIG)))


def test_names_with_and_without_prefix_and_older_ones(tmp_path):
    """Arrays of another class of the same family, and of an old version of it."""
    from xtr.checkpoints import huggingface
    from xtr.models.spec import HuggingFaceLayout

    names = HuggingFaceLayout(
        "BertModel",
        {},
        base_prefix="bert.",
        aliases=((r"LayerNorm\.gamma$", "LayerNorm.weight"),),
        left_out={r"(bert\.)?pooler\..*": "this run has no pooler", r"cls\..*": "this run has no such head"},
    )
    array = source.in_memory(np.ones(3, np.float32))
    for stored, wanted in (
        ({"bert.a.weight", "bert.x.LayerNorm.gamma"}, {"a.weight", "x.LayerNorm.weight"}),
        ({"a.weight", "x.LayerNorm.weight"}, {"bert.a.weight", "bert.x.LayerNorm.weight"}),
        ({"bert.a.weight", "x.LayerNorm.gamma"}, {"bert.a.weight", "x.LayerNorm.weight"}),
    ):
        arrays, aside = huggingface._named({name: array for name in stored}, names, wanted)
        assert set(arrays) == wanted and not aside
    arrays, aside = huggingface._named(dict.fromkeys(["pooler.w", "cls.w", "other"], array), names, {"a"})
    assert set(arrays) == {"other"}
    assert aside == {"this run has no pooler": ["pooler.w"], "this run has no such head": ["cls.w"]}
    arrays, _ = huggingface._named(dict.fromkeys(["bert.a", "a"], array), names, {"a"})
    assert "two arrays of the checkpoint mean it" in arrays["a"].fault


def test_from_layers_agrees(written):
    """The loader and the plain conversion of whole arrays are two ways to the same parameters."""
    folder, params = written("hf")
    checkpoint = load.open_source("hf", str(folder), CONFIG)
    arrays = {name: a.read(source.whole(a.shape)) for name, a in checkpoint.arrays.items()}
    assert_same(from_layers(CONFIG.param_specs(), arrays, "hf"), params)
