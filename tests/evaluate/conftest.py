"""A generator whose distributions are a table, so that decoding can be checked by hand; and recorded T5X results."""

import dataclasses
import json
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from xtr.models import spec as spec_lib
from xtr.models.cache import put_rows, reorder_rows, repeat_rows, take_rows
from xtr.models.mt5 import MT5Config, param_specs

STATES = 97


@dataclasses.dataclass(frozen=True)
class TableConfig:
    """What decoding, scoring and batching read of a config."""

    vocab_size: int
    pad_id: int = 0
    causal: bool = True

    def network(self, params, constrain=None):
        return TableModel(self, params)


class TableCache(NamedTuple):
    state_N: jax.Array

    def repeat(self, times):
        return TableCache(repeat_rows(self.state_N, times, axis=0))

    def reorder(self, source_BC):
        return TableCache(reorder_rows(self.state_N, source_BC, axis=0))

    def insert(self, new, places_GF):
        return TableCache(put_rows(self.state_N, new.state_N, places_GF))

    def constrain(self, constrain):
        return TableCache(constrain(self.state_N, ("batch",)))

    def select(self, places_GF, length):
        return TableCache(take_rows(self.state_N, places_GF))


class TableModel:
    """Logits are the row of a table that a hash of the prompt and of all tokens so far names."""

    def __init__(self, config, table):
        self.config, self.table = config, table

    def _next(self, state, token):
        return (state * 31 + token + 1) % STATES

    def start(self, tokens_BS, max_length):
        """The state after all but the prompt's last token, which is fed first."""
        tokens_BS = jnp.asarray(tokens_BS)
        last_B = jnp.maximum((tokens_BS != self.config.pad_id).sum(axis=1) - 1, 0)

        def read(i, state_B):
            return jnp.where(i < last_B, self._next(state_B, tokens_BS[:, i]), state_B)

        state_B = jax.lax.fori_loop(0, tokens_BS.shape[1], read, jnp.zeros(tokens_BS.shape[0], jnp.int32))
        return TableCache(state_B), jnp.take_along_axis(tokens_BS, last_B[:, None], axis=1)[:, 0]

    def decode_step(self, tokens_N, index, cache, positions_N=None):
        state_N = self._next(cache.state_N, tokens_N)
        return self.table[state_N], TableCache(state_N)

    def head(self):
        return jnp.eye(self.config.vocab_size)

    def log_probs(self, prompt, continuation) -> np.ndarray:
        """Next token's distribution by plain Python, f64 [V]."""
        state = 0
        for token in (*prompt, *continuation):
            state = self._next(state, int(token))
        logits = np.asarray(self.table[state], np.float64)
        return logits - np.logaddexp.reduce(logits)


@pytest.fixture(scope="session")
def table_model():
    """A function: (vocabulary size, seed, scale of the logits, settings of the config) -> `TableModel`."""

    def make(vocab_size, seed=0, scale=1.5, **settings):
        table = np.random.default_rng(seed).normal(size=(STATES, vocab_size)) * scale
        return TableModel(TableConfig(vocab_size, **settings), jnp.asarray(table, jnp.float32))

    return make


@pytest.fixture(scope="session")
def t5x_trained(oracles):
    """T5X's recorded arrays, the network's config, and the parameters after its 24 steps."""
    folder = oracles / "t5x_mt5_micro"
    config = json.loads((folder / "config.json").read_text())
    config = MT5Config(**{k: v for k, v in config.items() if k in MT5Config.__dataclass_fields__})
    arrays, prefix = np.load(folder / "oracle.npz"), "params24/"
    trained = {n.removeprefix(prefix).replace("/", "."): arrays[n] for n in arrays.files if n.startswith(prefix)}
    return arrays, config, spec_lib.from_layers(param_specs(config), trained)
