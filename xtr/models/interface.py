"""What every model family offers: a frozen config that describes the parameters, and a network over them.

Axes: B batch, S input length, T output length, C continuations of an input, N = B*C rows of a decoding cache,
D embedding, V vocabulary, L layers.
"""

from collections.abc import Callable, Mapping
from typing import Any, Protocol

import jax

from xtr.models.layers import Constrain
from xtr.models.spec import HuggingFaceLayout


class Encoder(Protocol):
    """A network whose states heads and retrieval read: mT5's encoder, XLM-R, mBERT, BLOOM."""

    config: "ModelConfig"

    def encode(
        self,
        tokens_BS: jax.Array,
        *,
        segment_ids_BS: jax.Array | None = None,
        positions_BS: jax.Array | None = None,
        token_types_BS: jax.Array | None = None,
        dropout_key: jax.Array | None = None,
        all_layers: bool = False,
        readout: Callable[[jax.Array], jax.Array] = lambda x_BSD: x_BSD,
    ) -> jax.Array:
        """States of the last layer, x_BSD, in the compute dtype; with `all_layers` readout(x) of each, [L+1, ...].

        Args:
          tokens_BS: int ids.
          segment_ids_BS: packed examples, contiguous runs of one id >= 1, 0 for padding. None: one example a row, and
            padding is the config's `pad_id`.
          positions_BS: 0-based place of each token in its own example; None: counted from the start of the row. Only
            families with absolute positions read them.
          token_types_BS: 0 or 1, the first or second text of a pair; only mBERT reads them.
          dropout_key: None for no dropout.
          all_layers: 0 the embeddings, i the output of layer i, the last one after the final norm where there is one.
          readout: what to keep of each layer's x_BSD (say, a mean over S), so that the large array is never held for
            all layers.
        """
        ...


class DecodingCache(Protocol):
    """What incremental decoding keeps of the tokens so far, for each row. A pytree of arrays with rows in front.

    An input may have C continuations (beams, samples, choices): row b*C + c is continuation c of input b. What all
    continuations of an input share (an encoder's keys and values) may be held once. `xtr.models.cache` has the cache of
    mT5 and BLOOM, and each operation for one array.
    """

    def repeat(self, times: int) -> "DecodingCache":
        """The cache for `times` continuations of each input, made from one of each (as `start` leaves it)."""
        ...

    def reorder(self, source_BC: jax.Array) -> "DecodingCache":
        """For beams: row b*C + c of the result is row b*C + source_BC[b, c] of this cache."""
        ...

    def insert(self, new: "DecodingCache", places_GF: jax.Array) -> "DecodingCache":
        """For rows that begin while others go on: the cache whose rows at `places_GF` are those of `new` (as `start`
        leaves it), one continuation of each. Rows are in G groups of equal size; row g*F + f of `new` becomes the row
        at places_GF[g, f] of group g."""
        ...

    def constrain(self, constrain: Constrain) -> "DecodingCache":
        """The cache laid out on a mesh by `constrain(array, logical axes)`."""
        ...

    def select(self, places_GF: jax.Array, length: int) -> "DecodingCache":
        """The rows at `places_GF` alone (see `insert`), with room for inputs of `length` tokens or more."""
        ...


class Generator(Encoder, Protocol):
    """A network that writes text token by token: mT5 and BLOOM."""

    def start(self, tokens_BS: jax.Array, max_length: int) -> tuple[DecodingCache, jax.Array]:
        """Reads the inputs once.

        Args:
          tokens_BS: inputs (of an encoder-decoder) or prompts (of a decoder), padded on the right with `pad_id`.
          max_length: greatest number of tokens that will be generated.

        Returns:
          The cache, and first_B: the token to feed at index 0 (0 for mT5, the prompt's last token for BLOOM).
        """
        ...

    def decode_step(
        self,
        tokens_N: jax.Array,
        index: jax.Array | int,
        cache: DecodingCache,
        positions_N: jax.Array | None = None,
    ) -> tuple[jax.Array, DecodingCache]:
        """Feeds each row its next token; returns y_ND after the final norm, and the cache with it.

        Args:
          index: 0 <= index < `max_length`, rising by one from step to step; after the last comes 0 again.
          positions_N: how many tokens each row was fed before, below `max_length`; None: `index`, for rows that all
            began at 0.
        """
        ...

    def head(self) -> jax.Array:
        """The output kernel [D, V], f32: logits are y @ head."""
        ...


class ModelConfig(Protocol):
    """A family's frozen dataclass of sizes and settings; gin builds it. Equal configs describe equal networks."""

    vocab_size: int
    dtype: str
    dropout_rate: float

    @property
    def family(self) -> str:
        """The family's name in results: 'mt5', 'umt5', 'xlmr', 'mbert', 'bloom'."""
        ...

    @property
    def vocabulary_kind(self) -> str:
        """Kind of vocabulary it reads (see `xtr.data.vocabulary`): 't5', 'xlmr', 'wordpiece' or 'bpe'."""
        ...

    @property
    def pad_id(self) -> int:
        """The token that fills rows."""
        ...

    @property
    def width(self) -> int:
        """Size D of a state."""
        ...

    @property
    def num_layers(self) -> int:
        """Layers L that `encode` goes through."""
        ...

    @property
    def max_length(self) -> int | None:
        """The most tokens of one text, where positions are absolute; None for no limit."""
        ...

    @property
    def causal(self) -> bool:
        """Whether a state sees only the tokens before it, so that a word is read at its last sub-token."""
        ...

    @property
    def objectives(self) -> tuple[str, ...]:
        """Names of the training objectives (`xtr.train.objectives`) that this very network can do."""
        ...

    def encoder(self) -> "ModelConfig":
        """The config of the part that `encode` needs (mT5 without its decoder, BERT without pooler and MLM head)."""
        ...

    def param_specs(self) -> dict[str, Any]:
        """Nested dict of `ParamSpec`, the single source of shapes, initialisation, sharding and checkpoint names."""
        ...

    def huggingface(self) -> HuggingFaceLayout:
        """How Hugging Face stores this network."""
        ...

    def network(self, params: Mapping[str, Any], constrain: Constrain | None = None) -> Any:
        """The network over `params` (arrays, nested as `param_specs`); an `Encoder` or a `Generator`."""
        ...
