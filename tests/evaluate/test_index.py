"""The candidate index: resumed at its last whole shard, checked, refused for another identity, read like an array."""

import json

import jax
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from xtr.errors import DataError, UserError
from xtr.evaluate import index, search
from xtr.evaluate.metrics import retrieval
from xtr.parallel.mesh import MeshConfig, make_mesh

IDENTITY = {"checkpoint": "runs/a", "step": 7, "model": {"family": "mt5", "num_layers": 2}, "layers": [2]}
VECTORS = np.random.default_rng(0).normal(size=(23, 6)).astype(np.float32)


class Embedder:
    """Gives rows of vectors, remembers which, and is killed after some calls."""

    def __init__(self, vectors=VECTORS, calls=None):
        self.vectors, self.calls, self.asked = vectors, calls, []

    def __call__(self, rows):
        if len(self.asked) == self.calls:
            raise KeyboardInterrupt
        self.asked.append((rows.start, rows.stop))
        return self.vectors[rows.start : rows.stop]


def build(directory, embed, identity=IDENTITY, **settings):
    return index.open_or_build(directory, identity, 23, embed, **{"shard_rows": 5, **settings})


@pytest.mark.parametrize("killed_after", range(5))
def test_a_killed_run_goes_on_behind_the_last_whole_shard(tmp_path, killed_after):
    first, second, done = Embedder(calls=killed_after), Embedder(), []
    with pytest.raises(KeyboardInterrupt):
        build(tmp_path / "index", first)
    if killed_after:
        with pytest.raises(UserError, match=f"{killed_after} of 5 shards"):
            index.open_index(tmp_path / "index", IDENTITY)
    found = build(tmp_path / "index", second, shard_rows=4 if killed_after else 5, advance=done.append)
    assert first.asked + second.asked == [(0, 5), (5, 10), (10, 15), (15, 20), (20, 23)] and sum(done) == 23
    np.testing.assert_array_equal(found[:], VECTORS)
    third = Embedder()
    np.testing.assert_array_equal(build(tmp_path / "index", third)[:], VECTORS)
    assert third.asked == [] and index.open_index(tmp_path / "index").shape == (23, 6)


def test_a_damaged_shard_is_embedded_again_or_named(tmp_path):
    build(tmp_path, Embedder())
    shard = tmp_path / "00001.npy"
    shard.write_bytes(shard.read_bytes()[:-1] + b"\1")
    with pytest.raises(DataError, match="00001.npy.*checksum"):
        index.open_index(tmp_path, IDENTITY)
    embed = Embedder()
    np.testing.assert_array_equal(build(tmp_path, embed)[:], VECTORS)
    assert embed.asked == [(5, 10)]
    (tmp_path / "00004.npy").unlink()
    embed = Embedder()
    build(tmp_path, embed)
    assert embed.asked == [(20, 23)]
    index.open_index(tmp_path, IDENTITY)


def test_an_index_of_something_else_is_refused(tmp_path):
    build(tmp_path / "a", Embedder())
    other = {**IDENTITY, "step": 8, "model": {"family": "mt5", "num_layers": 3}}
    for attempt in (lambda: build(tmp_path / "a", Embedder(), other), lambda: index.open_index(tmp_path / "a", other)):
        with pytest.raises(UserError, match="model.num_layers: 2 -> 3; step: 7 -> 8"):
            attempt()
    with pytest.raises(UserError, match="23 vectors of float32, not 23 of float16"):
        build(tmp_path / "a", Embedder(), dtype="float16")
    with pytest.raises(UserError, match="no candidate index"):
        index.open_index(tmp_path / "b")
    (tmp_path / "b").mkdir()
    (tmp_path / "b" / "notes.txt").touch()
    with pytest.raises(UserError, match="other files"):
        build(tmp_path / "b", Embedder())
    with pytest.raises(UserError, match="float8"):
        build(tmp_path / "c", Embedder(), dtype="float8")


@pytest.mark.parametrize("damage", ["{", "{}", "[]", '{"format": 2}', "count"])
def test_a_damaged_manifest_is_named(tmp_path, damage):
    build(tmp_path, Embedder())
    manifest = tmp_path / index.MANIFEST
    if damage == "count":
        damage = json.dumps(json.loads(manifest.read_text()) | {"count": -1})
    manifest.write_text(damage)
    with pytest.raises(DataError, match="manifest.json"):
        build(tmp_path, Embedder())


def test_vectors_that_do_not_fit_are_named(tmp_path):
    with pytest.raises(DataError, match="candidates 0 to 4: vectors \\(4, 6\\)"):
        build(tmp_path / "a", lambda rows: VECTORS[:4])
    with pytest.raises(DataError, match="candidates 5 to 9: vectors \\(5, 7\\)"):
        build(tmp_path / "b", lambda rows: np.ones((5, 7 if rows.start else 6)))
    broken = VECTORS.copy()
    broken[12, 3] = np.inf
    with pytest.raises(DataError, match="candidate 12: .* float32"):
        build(tmp_path / "c", Embedder(broken))
    with pytest.raises(DataError, match="candidate 0: .* float16"):
        build(tmp_path / "d", Embedder(VECTORS * 1e6), dtype="float16")


@settings(max_examples=40)
@given(data=st.data())
def test_it_is_read_like_an_array(tmp_path_factory, data):
    shape = data.draw(st.sampled_from([(23, 6), (23, 3, 2)]))
    vectors = VECTORS[:, : np.prod(shape[1:])].reshape(shape)
    directory = tmp_path_factory.mktemp("index")
    found = build(directory, Embedder(vectors), shard_rows=data.draw(st.integers(1, 30)))
    rows = data.draw(
        st.one_of(st.slices(23), st.lists(st.integers(0, 22), max_size=30).map(lambda n: np.array(n, np.int64)))
    )
    layers = [(found, vectors)]
    if len(shape) == 3:
        layers = [(found.layer(n), vectors[:, n]) for n in range(3)]
    for own, wanted in layers:
        assert tuple(own.shape) == wanted.shape and len(own) == 23
        np.testing.assert_array_equal(own[rows], wanted[rows])


def test_an_index_is_searched_as_its_vectors_are(tmp_path, monkeypatch):
    monkeypatch.setattr(search, "_SMALL", 0)
    query_QD = np.random.default_rng(1).normal(size=(9, 6)).astype(np.float32)
    for dtype in ("float32", "float16"):
        found = build(tmp_path / dtype, Embedder(), dtype=dtype)
        index_QK, score_QK = search.top_k(query_QD, found, 5, block_bytes=2**21)
        wanted = retrieval.top_k(query_QD, VECTORS.astype(dtype), 5)
        np.testing.assert_array_equal(index_QK, wanted[0])
        np.testing.assert_array_equal(score_QK, wanted[1])


def test_the_digest_of_weights_sees_every_change_and_no_sharding():
    rng = np.random.default_rng(0)
    params = {"a": rng.normal(size=(16, 4)).astype(np.float32), "b": rng.normal(size=8).astype(jax.numpy.bfloat16)}
    digest = index.weights_digest(params)
    mesh = make_mesh(MeshConfig(), jax.devices())
    sharded = jax.device_put(params, jax.NamedSharding(mesh, jax.P("fsdp")))
    assert index.weights_digest(sharded) == digest
    changed = [
        {**params, "a": np.nextafter(params["a"], np.float32(9), where=rng.permutation(64).reshape(16, 4) == 3,
                                     out=params["a"].copy())},
        {**params, "a": params["a"][::-1].copy()},
        {**params, "a": params["a"][:, ::-1].copy()},
        {"a": params["a"], "c": params["b"]},
        {**params, "b": params["b"].astype(np.float32)},
    ]  # fmt: skip
    assert len({digest, *map(index.weights_digest, changed)}) == len(changed) + 1
