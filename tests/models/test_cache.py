"""Rows of a decoding cache: taken, put, and begun while others go on."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from xtr.models import spec as spec_lib
from xtr.models.bloom import BloomConfig
from xtr.models.cache import age, put_rows, take_rows
from xtr.models.mt5 import MT5Config

CONFIGS = [
    MT5Config(30, 16, 2, 8, 32, 1, 2, dtype="float32"),
    MT5Config(30, 16, 2, 8, 32, 1, 2, dtype="float32", relpos_per_layer=True),
    BloomConfig(30, 16, 2, 2, dtype="float32"),
]


@settings(max_examples=20, deadline=None)
@given(st.integers(1, 3), st.integers(1, 4), st.data())
def test_rows_are_put_where_they_are_taken(groups, rows, data):
    places = [data.draw(st.permutations(range(rows))) for _ in range(groups)]
    count = data.draw(st.integers(0, rows))
    places_GF = jnp.asarray(places, jnp.int32).reshape(groups, rows)[:, :count]
    array = np.arange(groups * rows * 2).reshape(groups * rows, 2)
    picked = np.concatenate([array[g * rows + np.asarray(own, int)] for g, own in enumerate(places_GF)])
    np.testing.assert_array_equal(take_rows(jnp.asarray(array), places_GF), picked)
    changed = put_rows(jnp.asarray(array), jnp.asarray(-picked - 1), places_GF)
    np.testing.assert_array_equal(take_rows(changed, places_GF), -picked - 1)
    assert (np.asarray(changed) != array).any(axis=1).sum() == groups * count


@settings(max_examples=20, deadline=None)
@given(st.integers(1, 9), st.data())
def test_age_counts_steps_back_around_the_ring(places, data):
    place = data.draw(st.integers(0, places - 1))
    ages = age(jnp.int32(place), places)
    np.testing.assert_array_equal(ages, [(place - j) % places for j in range(places)])


@pytest.mark.parametrize("config", CONFIGS, ids=lambda c: c.family)
def test_rows_that_begin_later_go_on_as_if_alone(config):
    """Two rows begin at place 0; two steps later a third takes the place of the second; all cross the ring's end."""
    params = spec_lib.init_params(config.param_specs(), jax.random.key(0))
    model, room, eos_free = config.network(params), 5, slice(4, 30)
    rng = np.random.default_rng(0)
    inputs = np.full((3, 7), config.pad_id, np.int32)
    for row, length in enumerate((7, 3, 5)):
        inputs[row, :length] = rng.integers(eos_free.start, eos_free.stop, length)
    fed = rng.integers(4, 30, (3, room)).astype(np.int32)

    def alone(row):
        cache, first = model.start(inputs[row : row + 1], room)
        fed[row, 0] = first[0]
        out = []
        for index in range(room):
            y, cache = model.decode_step(fed[row, index : index + 1], index, cache)
            out.append(np.asarray(y[0]))
        return out

    one, two, three = (alone(row) for row in range(3))
    cache, _ = model.start(inputs[:2], room)
    for index in range(2):
        y, cache = model.decode_step(fed[:2, index], index, cache)
        np.testing.assert_allclose(y, [one[index], two[index]], rtol=1e-4, atol=1e-5)
    new, _ = model.start(inputs[2:], room)
    cache = cache.insert(new, jnp.array([[1]]))
    for index in range(2, room):
        y, cache = model.decode_step(
            np.array([fed[0, index], fed[2, index - 2]]), index, cache, np.array([index, index - 2])
        )
        np.testing.assert_allclose(y, [one[index], three[index - 2]], rtol=1e-4, atol=1e-5)
    # The first has all its tokens; the other goes on alone, past the ring's end, with room for longer inputs.
    cache = cache.select(jnp.array([[1]]), 11)
    for step, place in ((3, 0), (4, 1)):
        y, cache = model.decode_step(fed[2:, step], place, cache, np.array([step]))
        np.testing.assert_allclose(y, [three[step]], rtol=1e-4, atol=1e-5)
