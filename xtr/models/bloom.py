"""BLOOM (arXiv 2211.05100): a decoder with a norm over its embeddings, ALiBi instead of positions, and a tied head.

Axes: B batch, S input length, T greatest output length, Q query length, M key (memory) length, C continuations of an
input, N = B*C rows of a decoding cache, D embedding, H heads, K head size, J joined heads, V vocabulary, L layers.
Numerics follow Hugging Face's BLOOM: pre-norm, biases everywhere, tanh GELU, attention divided by sqrt(head size).
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from xtr.errors import UserError
from xtr.models import spec as spec_lib
from xtr.models.cache import Cache, age
from xtr.models.layers import (
    MASKED,
    MLP,
    Constrain,
    Context,
    Dense,
    LayerNorm,
    attend,
    check_settings,
    embed,
    remat,
    same_segment,
    unconstrained,
    unstack,
)
from xtr.models.spec import HuggingFaceLayout, Initializer, ParamSpec

NORM_EPSILON = 1e-5


@dataclass(frozen=True)
class BloomConfig:
    """Sizes and settings of a BLOOM.

    Attributes:
      num_heads: heads of attention, a divisor of emb_dim; no power of two is needed.
      dropout_rate: share dropped while training, in [0, 1): of each sublayer's output and of attention probabilities.
        The released networks were pretrained without.
      dtype: compute dtype, 'bfloat16' or 'float32' (logits and loss are f32 always).
      params_dtype: of the parameters between steps, 'float32' or 'bfloat16'.
      remat: what the backward pass recomputes: 'none', 'minimal' (all but products with weights) or 'full' (all but
        each layer's input).

    Raises:
      UserError: a value that no BLOOM can have.
    """

    vocab_size: int
    emb_dim: int
    num_heads: int
    num_layers: int
    dropout_rate: float = 0.0
    dtype: str = "bfloat16"
    params_dtype: str = "float32"
    remat: str = "minimal"

    def __post_init__(self):
        for name in ("vocab_size", "emb_dim", "num_heads", "num_layers"):
            value = getattr(self, name)
            least = self.pad_id + 1 if name == "vocab_size" else 1
            if isinstance(value, bool) or not isinstance(value, int) or value < least:
                raise UserError(f"BloomConfig.{name} must be a whole number of at least {least}, not {value!r}.")
        if self.emb_dim % self.num_heads:
            raise UserError(
                f"BloomConfig.emb_dim must be a multiple of num_heads, not {self.emb_dim} with {self.num_heads} heads."
            )
        check_settings(self)

    family = "bloom"
    vocabulary_kind = "bpe"
    pad_id = 3
    eos_id = 2
    max_length = None
    causal = True

    @property
    def width(self) -> int:
        """Size of a state."""
        return self.emb_dim

    @property
    def head_dim(self) -> int:
        """Size of one attention head."""
        return self.emb_dim // self.num_heads

    @property
    def objectives(self) -> tuple[str, ...]:
        """Training objectives."""
        return ("causal",)

    def encoder(self) -> "BloomConfig":
        """The config of the part that `encode` needs: the network as it is."""
        return self

    def param_specs(self) -> dict[str, Any]:
        """The specs of all parameters, nested as the parameters are."""
        return spec_lib.stored_as(self.params_dtype, param_specs(self))

    def huggingface(self) -> HuggingFaceLayout:
        """How Hugging Face stores this network. The released files lack `base_prefix`."""
        config = {
            "model_type": "bloom",
            "vocab_size": self.vocab_size,
            "hidden_size": self.emb_dim,
            "n_layer": self.num_layers,
            "n_head": self.num_heads,
            "layer_norm_epsilon": NORM_EPSILON,
            "initializer_range": 0.02,
            "apply_residual_connection_post_layernorm": False,
            "hidden_dropout": 0.0,
            "attention_dropout": 0.0,
            "tie_word_embeddings": True,
            "bos_token_id": 1,
            "eos_token_id": self.eos_id,
            "pad_token_id": self.pad_id,
        }
        return HuggingFaceLayout(
            architecture="BloomForCausalLM",
            config=config,
            base_prefix="transformer.",
            left_out={r"lm_head\.weight": "a copy of the word embeddings"},
        )

    def network(self, params: Mapping[str, Any], constrain: Constrain | None = None) -> "Bloom":
        """The network over `params`."""
        return Bloom(self, params, constrain)


def param_specs(config: BloomConfig) -> dict[str, Any]:
    """The specs of all parameters, nested as the parameters are. Initialisers are BLOOM's.

    query_key_value's outputs are ordered [head, (query, key, value), K], so that a shard of them is whole heads.
    """
    c = config
    layer = "h.{layer}"

    def spec(hf: str, sizes: dict[str, int], init: Initializer, **others: Any) -> ParamSpec:
        shape, axes = tuple(sizes.values()), tuple(sizes)
        if "{layer}" in hf:
            shape, axes = (c.num_layers, *shape), (spec_lib.LAYERS, *axes)
        return ParamSpec(shape=shape, axes=axes, init=init, hf=f"transformer.{hf}", **others)

    def dense(hf: str, inputs: dict[str, int], outputs: dict[str, int]) -> dict[str, ParamSpec]:
        return {
            "kernel": spec(f"{hf}.weight", inputs | outputs, spec_lib.normal_02, hf_transpose=True),
            "bias": spec(f"{hf}.bias", outputs, spec_lib.zeros),
        }

    def norm(hf: str) -> dict[str, ParamSpec]:
        return {
            "scale": spec(f"{hf}.weight", {"embed": c.emb_dim}, spec_lib.ones),
            "bias": spec(f"{hf}.bias", {"embed": c.emb_dim}, spec_lib.zeros),
        }

    embedding, hidden = {"embed": c.emb_dim}, {"mlp": 4 * c.emb_dim}
    return {
        "token_embedder": {
            "embedding": spec("word_embeddings.weight", {"vocab": c.vocab_size} | embedding, spec_lib.normal_02)
        },
        "embedding_norm": norm("word_embeddings_layernorm"),
        "layers": {
            "attention_norm": norm(f"{layer}.input_layernorm"),
            "attention": {
                "query_key_value": dense(
                    f"{layer}.self_attention.query_key_value", embedding, {"joined_kv": 3 * c.emb_dim}
                ),
                "out": dense(f"{layer}.self_attention.dense", {"joined_kv": c.emb_dim}, embedding),
            },
            "mlp_norm": norm(f"{layer}.post_attention_layernorm"),
            "mlp": {
                "wi": dense(f"{layer}.mlp.dense_h_to_4h", embedding, hidden),
                "wo": dense(f"{layer}.mlp.dense_4h_to_h", hidden, embedding),
            },
        },
        "final_norm": norm("ln_f"),
    }


def alibi_slopes(num_heads: int) -> np.ndarray:
    """What each head adds to its scores for a step towards the query, f32 [H].

    For n heads, a power of two, 2^(-8i/n) for i = 1..n. Other numbers: those of the power of two below, then every
    second one (i = 1, 3, 5, ...) of twice that power.
    Source: ALiBi (arXiv 2108.12409), section 3 and the authors' rule for other numbers of heads.
    """
    power = 2 ** int(math.log2(num_heads))
    exponents = [-8.0 * i / power for i in range(1, power + 1)]
    exponents += [-8.0 * i / (2 * power) for i in range(1, 2 * (num_heads - power), 2)]
    return np.exp2(exponents).astype(np.float32)


class Layer(nnx.Module):
    """Causal self-attention and MLP, each with a norm before and a residual around."""

    def __init__(self, params: Mapping[str, Any], config: BloomConfig, context: Context):
        self.attention_norm = LayerNorm(params["attention_norm"], context, NORM_EPSILON)
        self.query_key_value = Dense(params["attention"]["query_key_value"], ("embed", "joined_kv"), context)
        self.out = Dense(params["attention"]["out"], ("joined_kv", "embed"), context)
        self.mlp_norm = LayerNorm(params["mlp_norm"], context, NORM_EPSILON)
        self.mlp = MLP(params["mlp"], context, approximate=True)
        self.num_heads = config.num_heads
        self.head_dim = config.head_dim
        self.scale = 1.0 / math.sqrt(config.head_dim)
        self.context = context

    def project(self, x_BTD: jax.Array) -> tuple[jax.Array, jax.Array, jax.Array]:
        """Queries, keys and values, each BHTK."""
        fused_BTJ = self.query_key_value(self.attention_norm(x_BTD))
        fused_BTH3K = fused_BTJ.reshape(*x_BTD.shape[:2], self.num_heads, 3, self.head_dim)
        fused_BTH3K = self.context.constrain(fused_BTH3K, ("batch", "length", "heads", None, "kv"))
        query_BHTK, key_BHTK, value_BHTK = fused_BTH3K.transpose(3, 0, 2, 1, 4)
        return query_BHTK, key_BHTK, value_BHTK

    def _bias(self, offsets: jax.Array) -> jax.Array:
        """ALiBi of offsets (key position minus query position) [..., 1, Q, M]: f32, broadcastable to BHQM."""
        return alibi_slopes(self.num_heads)[:, None, None] * offsets.astype(jnp.float32)

    def _finish(self, x_BTD: jax.Array, mixed_BTJ: jax.Array, keys: Sequence[jax.Array | None]) -> jax.Array:
        """The residual sums of attention's output and of the MLP; a dropout key for each."""

        def drop(y_BTD, key):
            return self.context.dropout(y_BTD, self.context.own_mask(key, y_BTD.shape, ("batch", "length", "embed")))

        x_BTD = x_BTD + drop(self.out(mixed_BTJ), keys[0])
        x_BTD = x_BTD + drop(self.mlp(self.mlp_norm(x_BTD)), keys[1])
        return self.context.constrain(x_BTD, ("batch", "length", "embed"))

    def __call__(
        self, x_BSD: jax.Array, mask: jax.Array, offsets_SS: jax.Array, key: jax.Array | None
    ) -> tuple[jax.Array, tuple[jax.Array, jax.Array]]:
        """Whole sequences: the next x_BSD, and this layer's keys and values, each BHSK."""
        key_probs, *keys = [None] * 3 if key is None else jax.random.split(key, 3)
        query_BHSK, *memory = self.project(x_BSD)
        shape = (*query_BHSK.shape[:3], x_BSD.shape[1])
        keep_probs = self.context.own_mask(key_probs, shape, ("batch", "heads", None, None))
        settings = {"mask": mask, "bias": self._bias(offsets_SS), "scale": self.scale, "keep": keep_probs}
        mixed_BSJ = attend(self.context, query_BHSK, memory, **settings)
        return self._finish(x_BSD, mixed_BSJ, keys), tuple(memory)

    def step(
        self,
        x_N1D: jax.Array,
        query_NH1K: jax.Array,
        prompt: tuple[jax.Array, jax.Array],
        own: tuple[jax.Array, jax.Array],
        mask_B1CM: jax.Array,
        offsets_B1CM: jax.Array,
    ) -> jax.Array:
        """One token a row: the next x_N1D.

        Args:
          query_NH1K: from `project`.
          prompt: keys and values of the prompts, BHSK, which all continuations of an input share.
          own: keys and values of what each row has written, NHTK.
          mask_B1CM, offsets_B1CM: of the prompt and of the row's own tokens, M = S + T; C is 1 where all continuations
            have the same.
        """
        (prompt_key_BHSK, prompt_value_BHSK), batch = prompt, prompt[0].shape[0]
        own_key_BCHTK, own_value_BCHTK = (a.reshape(batch, -1, *a.shape[1:]) for a in own)
        # All continuations of an input are queries to the one copy of its prompt; the softmax goes over both parts.
        query_BHCK = query_NH1K.reshape(batch, -1, self.num_heads, self.head_dim).swapaxes(1, 2)
        f32 = {"preferred_element_type": jnp.float32}
        scores = [
            jnp.einsum("bhck,bhsk->bhcs", query_BHCK, prompt_key_BHSK, **f32),
            jnp.einsum("bhck,bchtk->bhct", query_BHCK, own_key_BCHTK, **f32),
        ]
        scores_BHCM = jnp.concatenate(scores, axis=-1) * self.scale + self._bias(offsets_B1CM)
        probs_BHCM = jax.nn.softmax(jnp.where(mask_B1CM, scores_BHCM, MASKED), axis=-1).astype(self.context.dtype)
        probs_BHCS, probs_BHCT = jnp.split(probs_BHCM, [prompt_key_BHSK.shape[2]], axis=-1)
        mixed_BHCK = jnp.einsum("bhcs,bhsk->bhck", probs_BHCS, prompt_value_BHSK, **f32)
        mixed_BHCK += jnp.einsum("bhct,bchtk->bhck", probs_BHCT, own_value_BCHTK, **f32)
        mixed_N1J = mixed_BHCK.astype(self.context.dtype).swapaxes(1, 2).reshape(x_N1D.shape[0], 1, -1)
        return self._finish(x_N1D, mixed_N1J, (None, None))


class Bloom(nnx.Module):
    """The network: a view over the nested dict of parameters (`param_specs`' tree), cheap to build under `jax.jit`.

    Args:
      config: sizes and settings.
      params: arrays, stacked by layer; stored in any float dtype, used in `config.dtype`.
      constrain: optional `(array, logical_axes) -> array` that states a sharding, as in `xtr.models.mt5.MT5`.
    """

    def __init__(self, config: BloomConfig, params: Mapping[str, Any], constrain: Constrain | None = None):
        context = Context(jnp.dtype(config.dtype), config.dropout_rate, constrain or unconstrained)
        self.config = config
        self.context = context
        self.embedding = nnx.Param(params["token_embedder"]["embedding"])
        self.embedding_norm = LayerNorm(params["embedding_norm"], context, NORM_EPSILON)
        self.layers = Layer(params["layers"], config, context)
        self.final_norm = LayerNorm(params["final_norm"], context, NORM_EPSILON)

    def _embed(self, tokens_BT: jax.Array) -> jax.Array:
        x_BTD = embed(self.embedding[...], tokens_BT, self.context)
        x_BTD = self.context.constrain(x_BTD.astype(jnp.float32), ("batch", "length", "embed"))
        return self.context.constrain(self.embedding_norm(x_BTD), ("batch", "length", "embed"))

    def _run(
        self,
        tokens_BS: jax.Array,
        segment_ids_BS: jax.Array | None,
        dropout_key: jax.Array | None,
        collect: Callable[[jax.Array, tuple[jax.Array, jax.Array]], Any],
    ) -> tuple[jax.Array, jax.Array, Any]:
        """Runs the layers on whole sequences.

        Returns:
          The normed embeddings, the last layer's output before the final norm, and collect(output, (keys, values)) of
          each layer.
        """
        c, length = self.config, tokens_BS.shape[1]
        ids_BS = (tokens_BS != c.pad_id).astype(jnp.int32) if segment_ids_BS is None else segment_ids_BS
        # Measured from the query, not from the start of the row: an offset is the same in every packed segment, and
        # near keys, on which the softmax dwells, keep all digits of their scores.
        offsets_SS = jnp.arange(length)[None, :] - jnp.arange(length)[:, None]
        mask = same_segment(ids_BS, ids_BS) & (offsets_SS <= 0)
        embedded_BSD = self._embed(tokens_BS)

        def body(x_BSD, layer_and_place):
            layer, place = layer_and_place
            key = None if dropout_key is None else jax.random.fold_in(dropout_key, place)
            x_BSD, memory = layer(x_BSD, mask, offsets_SS, key)
            return x_BSD, collect(x_BSD, memory)

        x_BSD, collected = jax.lax.scan(remat(body, c.remat), embedded_BSD, (self.layers, jnp.arange(c.num_layers)))
        return embedded_BSD, x_BSD, collected

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
        """States of tokens, each of which sees those before it in its own example.

        Args:
          tokens_BS: int ids, padded on the right with the config's `pad_id`.
          segment_ids_BS: packed examples, contiguous runs of one id >= 1, 0 for padding; None: one example a row.
          positions_BS, token_types_BS: part of every family's interface; BLOOM sees offsets inside a run only.
          dropout_key: None for no dropout.
          all_layers: return every layer's output.
          readout: with `all_layers`, what to keep of each layer's x_BSD (say, a mean over S): the large array is then
            never held for all layers.

        Returns:
          x_BSD after the final norm, in the compute dtype; with `all_layers` [L+1, B, S, D]: 0 the normed embeddings,
          i the output of layer i, the last one after the final norm. Vectors at padding hold nothing of use.
        """
        del positions_BS, token_types_BS

        def collect(x_BSD, _):
            return readout(x_BSD) if all_layers else None

        embedded_BSD, x_BSD, outputs = self._run(tokens_BS, segment_ids_BS, dropout_key, collect)
        x_BSD = self.context.constrain(self.final_norm(x_BSD), ("batch", "length", "embed"))
        if not all_layers:
            return x_BSD
        return jnp.concatenate([readout(embedded_BSD)[None], outputs[:-1], readout(x_BSD)[None]])

    def head(self) -> jax.Array:
        """The output kernel [D, V], f32: the transposed embedding table."""
        return self.context.constrain(self.embedding[...].astype(jnp.float32).T, (None, "output_vocab"))

    def logits(self, y_BTD: jax.Array) -> jax.Array:
        """f32 logits [..., V] of states [..., D]."""
        flat = y_BTD.astype(jnp.float32).reshape(-1, y_BTD.shape[-1])
        return (flat @ self.head()).reshape(*y_BTD.shape[:-1], -1)

    def start(self, tokens_BS: jax.Array, max_length: int) -> tuple[Cache, jax.Array]:
        """Reads the prompts at once.

        Args:
          tokens_BS: prompts of any lengths, padded on the right with the config's `pad_id`.
          max_length: greatest number of tokens that will be written.

        Returns:
          The cache, and first_B, each prompt's last token, to be fed at index 0. A row of padding alone (a filler of
          the last batch) starts from a padding token.
        """
        # The last token is not among the keys: it is fed at index 0 and stands, like all after it, at its own place.
        last_B = jnp.maximum((tokens_BS != self.config.pad_id).sum(axis=1, dtype=jnp.int32) - 1, 0)
        _, _, (key_LBHSK, value_LBHSK) = self._run(tokens_BS, None, None, lambda _, memory: memory)
        first_B = jnp.take_along_axis(tokens_BS, last_B[:, None], axis=1)[:, 0]
        seen_BS = jnp.arange(tokens_BS.shape[1]) < last_B[:, None]
        prompts = tuple(unstack((key_LBHSK, value_LBHSK), self.config.num_layers))
        return Cache.empty(prompts, seen_BS, max_length), first_B.astype(jnp.int32)

    def decode_step(
        self, tokens_N: jax.Array, index: jax.Array | int, cache: Cache, positions_N: jax.Array | None = None
    ) -> tuple[jax.Array, Cache]:
        """One step of incremental decoding.

        Args:
          tokens_N: the token of each row: the prompt's last, then those written.
          index: 0 <= index < the cache's `max_length`, the place that is written: the one after the last step's, the
            first after the last.
          cache: as the steps before left it.
          positions_N: how many tokens each row was fed before, below `max_length`; None: `index`, for rows that all
            began at place 0.

        Returns:
          y_ND after the final norm, and the cache with this step in it.
        """
        index = jnp.asarray(index, jnp.int32)
        (batch, length), max_length = cache.seen_BS.shape, cache.own[0][0].shape[2]
        # What a row writes follows its own prompt, wherever the prompt's padding ends.
        seen_B11 = cache.seen_BS.sum(axis=1, dtype=jnp.int32)[:, None, None]
        positions = index if positions_N is None else positions_N.reshape(batch, -1, 1)
        age_T = age(index, max_length)
        offsets_BCS = jnp.arange(length) - seen_B11 - positions
        offsets_BCT = jnp.broadcast_to(-age_T, (*offsets_BCS.shape[:2], max_length))
        offsets_B1CM = jnp.concatenate([offsets_BCS, offsets_BCT], axis=-1)[:, None]
        seen_BCS = jnp.broadcast_to(cache.seen_BS[:, None], offsets_BCS.shape)
        seen_BCT = jnp.broadcast_to(age_T <= positions, offsets_BCT.shape)
        mask_B1CM = jnp.concatenate([seen_BCS, seen_BCT], axis=-1)[:, None]
        zero = jnp.zeros((), jnp.int32)
        x_N1D = self._embed(tokens_N[:, None])
        own = []
        # Written out, not scanned: a loop over stacked caches would copy a layer's at every step.
        for layer, memory, prompt in zip(
            unstack(self.layers, self.config.num_layers), cache.own, cache.inputs, strict=True
        ):
            query_NH1K, *new = layer.project(x_N1D)
            memory = tuple(
                jax.lax.dynamic_update_slice(old_NHTK, new_NH1K, (zero, zero, index, zero))
                for old_NHTK, new_NH1K in zip(memory, new, strict=True)
            )
            own.append(memory)
            x_N1D = layer.step(x_N1D, query_NH1K, prompt, memory, mask_B1CM, offsets_B1CM)
        return self.final_norm(x_N1D)[:, 0], cache._replace(own=tuple(own))
