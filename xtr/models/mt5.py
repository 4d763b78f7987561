"""mT5 (arXiv 2010.11934): T5 1.1 with a multilingual vocabulary and an output head of its own; and umT5 (arXiv
2304.09151), which has a relative position bias in every layer.

Axes: B batch, S encoder length, T decoder length, M cache length, C continuations of an input, N = B*C, D embedding,
H heads, K head size, F MLP hidden, V vocabulary, L layers. Numerics follow T5X's network and Hugging Face's MT5:
pre-norm, gated GELU, one relative bias table a stack, shared by its layers (umT5: one a layer).
"""

import dataclasses
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from xtr.errors import UserError
from xtr.models import flash_attention
from xtr.models import spec as spec_lib
from xtr.models.cache import Cache, age
from xtr.models.layers import (
    NORM_EPSILON,
    Attention,
    Constrain,
    Context,
    GatedMLP,
    RelativeBias,
    RMSNorm,
    Seen,
    check_settings,
    embed,
    remat,
    unconstrained,
    unstack,
)
from xtr.models.spec import HuggingFaceLayout, Initializer, ParamSpec, variance_scaling

Masks = Sequence[jax.Array | None]  # dropout masks of one layer, in the order of their use


@dataclass(frozen=True)
class MT5Config:
    """Sizes and settings of an mT5 or umT5.

    Attributes:
      num_decoder_layers: 0 for the encoder alone, without decoder and output head.
      dropout_rate: share of activations dropped while training, in [0, 1).
      dtype: compute dtype, 'bfloat16' or 'float32' (logits and loss are f32 always).
      params_dtype: of the parameters between steps, 'float32' or 'bfloat16'.
      relpos_buckets, relpos_max_distance: of the relative position bias.
      relpos_per_layer: False: one bias table a stack (mT5); True: one a layer (umT5, T5X's `scalable_t5`).
      remat: what the backward pass recomputes: 'none', 'minimal' (all but products with weights: faster than 'none',
        which stores every intermediate of every layer) or 'full' (all but each layer's input).

    Raises:
      UserError: a value that no mT5 can have.
    """

    vocab_size: int
    emb_dim: int
    num_heads: int
    head_dim: int
    mlp_dim: int
    num_encoder_layers: int
    num_decoder_layers: int
    dropout_rate: float = 0.0
    dtype: str = "bfloat16"
    params_dtype: str = "float32"
    relpos_buckets: int = 32
    relpos_max_distance: int = 128
    relpos_per_layer: bool = False
    remat: str = "minimal"

    def __post_init__(self):
        sizes = ("vocab_size", "emb_dim", "num_heads", "head_dim", "mlp_dim")
        for name in (*sizes, "num_encoder_layers", "num_decoder_layers"):
            value = getattr(self, name)
            least = 0 if name == "num_decoder_layers" else 1
            if isinstance(value, bool) or not isinstance(value, int) or value < least:
                raise UserError(f"MT5Config.{name} must be a whole number of at least {least}, not {value!r}.")
        check_settings(self)
        if self.relpos_buckets < 4 or self.relpos_buckets % 4 or self.relpos_max_distance <= self.relpos_buckets // 2:
            raise UserError(
                "MT5Config.relpos_buckets must be a multiple of 4 and relpos_max_distance more than half of it, not "
                f"{self.relpos_buckets!r} and {self.relpos_max_distance!r}."
            )

    vocabulary_kind = "t5"
    pad_id = 0
    max_length = None
    causal = False

    @property
    def family(self) -> str:
        """The model family's name in results."""
        return "umt5" if self.relpos_per_layer else "mt5"

    @property
    def width(self) -> int:
        """Size of a state."""
        return self.emb_dim

    @property
    def num_layers(self) -> int:
        """Layers of the encoder."""
        return self.num_encoder_layers

    @property
    def objectives(self) -> tuple[str, ...]:
        """Training objectives: none for the encoder alone, which needs a head."""
        return ("seq2seq",) if self.num_decoder_layers else ()

    def encoder(self) -> "MT5Config":
        """The config of the encoder alone."""
        return dataclasses.replace(self, num_decoder_layers=0)

    def param_specs(self) -> dict[str, Any]:
        """The specs of all parameters, nested as the parameters are. Initialisers are T5X's."""
        return spec_lib.stored_as(self.params_dtype, param_specs(self))

    def huggingface(self) -> HuggingFaceLayout:
        """How Hugging Face stores this network."""
        name = "UMT5" if self.relpos_per_layer else "MT5"
        whole = self.num_decoder_layers > 0
        copies = "a copy of shared.weight"
        config = {
            "model_type": name.lower(),
            "vocab_size": self.vocab_size,
            "d_model": self.emb_dim,
            "d_kv": self.head_dim,
            "d_ff": self.mlp_dim,
            "num_layers": self.num_encoder_layers,
            "num_decoder_layers": self.num_decoder_layers or self.num_encoder_layers,
            "num_heads": self.num_heads,
            "relative_attention_num_buckets": self.relpos_buckets,
            "relative_attention_max_distance": self.relpos_max_distance,
            "dropout_rate": 0.1,
            "layer_norm_epsilon": NORM_EPSILON,
            "feed_forward_proj": "gated-gelu",
            "is_encoder_decoder": True,
            "tie_word_embeddings": False,
            "decoder_start_token_id": 0,
            "pad_token_id": 0,
            "eos_token_id": 1,
        }
        left_out = {r"(encoder|decoder)\.embed_tokens\.weight": copies}
        if not whole:
            left_out |= {r"decoder\..*": "this run has no decoder", r"lm_head\.weight": "this run has no decoder"}
        return HuggingFaceLayout(
            architecture=f"{name}ForConditionalGeneration" if whole else f"{name}EncoderModel",
            config=config,
            left_out=left_out,
        )

    def network(self, params: Mapping[str, Any], constrain: Constrain | None = None) -> "MT5":
        """The network over `params`."""
        return MT5(self, params, constrain)


def _stack_specs(config: MT5Config, stack: str, num_layers: int) -> dict[str, Any]:
    """Specs of the encoder or the decoder."""
    c = config
    blocks = {"encoder": ["attention", "mlp"], "decoder": ["self_attention", "encoder_decoder_attention", "mlp"]}[stack]
    norms = {"encoder_decoder_attention": "pre_cross_attention_layer_norm"}
    hf_projections = {"query": "q", "key": "k", "value": "v", "out": "o"}

    def stacked(t5x: str, hf: str, shape: tuple[int, ...], axes: tuple[str, ...], init: Initializer) -> ParamSpec:
        return ParamSpec(
            shape=(num_layers, *shape),
            axes=(spec_lib.LAYERS, *axes),
            init=init,
            t5x=f"{stack}.layers_{{layer}}.{t5x}",
            hf=f"{stack}.block.{{layer}}.layer.{hf}.weight",
            hf_transpose=len(shape) == 2,
        )

    relpos_shape, relpos_axes = (c.num_heads, c.relpos_buckets), ("heads", "relpos_buckets")
    relpos_hf = "0.SelfAttention.relative_attention_bias"

    def kernel(t5x: str, hf: str, axes: tuple[str, str], distribution: str, divide: float = 1.0):
        shape = tuple({"embed": c.emb_dim, "joined_kv": c.num_heads * c.head_dim, "mlp": c.mlp_dim}[a] for a in axes)
        init = variance_scaling("fan_in", distribution, stacked=True, divide=divide)
        return {"kernel": stacked(f"{t5x}.kernel", hf, shape, axes, init)}

    layers: dict[str, Any] = {}
    for i, block in enumerate(blocks):
        norm = norms.get(block, f"pre_{block}_layer_norm")
        layers[norm] = {"scale": stacked(f"{norm}.scale", f"{i}.layer_norm", (c.emb_dim,), ("embed",), spec_lib.ones)}
        if block == "mlp":
            mlp_axes = {"wi_0": ("embed", "mlp"), "wi_1": ("embed", "mlp"), "wo": ("mlp", "embed")}
            layers[block] = {
                name: kernel(f"mlp.{name}", f"{i}.DenseReluDense.{name}", axes, "truncated_normal")
                for name, axes in mlp_axes.items()
            }
            continue
        hf_block = "EncDecAttention" if block == "encoder_decoder_attention" else "SelfAttention"
        layers[block] = {
            name: kernel(
                f"{block}.{name}",
                f"{i}.{hf_block}.{hf_name}",
                ("joined_kv", "embed") if name == "out" else ("embed", "joined_kv"),
                "normal",
                # T5 has no 1/sqrt(head size) in its attention: the query's initialiser carries it.
                divide=math.sqrt(c.head_dim) if name == "query" else 1.0,
            )
            for name, hf_name in hf_projections.items()
        }
    if c.relpos_per_layer:
        init = variance_scaling("fan_avg", "uniform", stacked=True)
        rel_embedding = stacked("relpos_bias.rel_embedding", relpos_hf, relpos_shape, relpos_axes, init)
        shared = {}
        layers["relpos_bias"] = {"rel_embedding": rel_embedding}
    else:
        rel_embedding = ParamSpec(
            shape=relpos_shape,
            axes=relpos_axes,
            init=variance_scaling("fan_avg", "uniform"),
            t5x=f"{stack}.relpos_bias.rel_embedding",
            hf=f"{stack}.block.0.layer.{relpos_hf}.weight",
            hf_transpose=True,
        )
        shared = {"relpos_bias": {"rel_embedding": rel_embedding}}
    return shared | {
        "layers": layers,
        f"{stack}_norm": {
            "scale": ParamSpec(
                shape=(c.emb_dim,),
                axes=("embed",),
                init=spec_lib.ones,
                t5x=f"{stack}.{stack}_norm.scale",
                hf=f"{stack}.final_layer_norm.weight",
            )
        },
    }


def param_specs(config: MT5Config) -> dict[str, Any]:
    """The specs of all parameters, nested as the parameters are. Initialisers are T5X's."""
    encoder = _stack_specs(config, "encoder", config.num_encoder_layers)
    embedding = ParamSpec(
        shape=(config.vocab_size, config.emb_dim),
        axes=("vocab", "embed"),
        init=spec_lib.normal,
        t5x="token_embedder.embedding",
        hf="shared.weight",
    )
    specs = {"token_embedder": {"embedding": embedding}, "encoder": encoder}
    if not config.num_decoder_layers:
        return specs
    decoder = _stack_specs(config, "decoder", config.num_decoder_layers)
    decoder["logits_dense"] = {
        "kernel": ParamSpec(
            shape=(config.emb_dim, config.vocab_size),
            axes=("embed", "output_vocab"),
            init=variance_scaling("fan_in", "truncated_normal"),
            t5x="decoder.logits_dense.kernel",
            hf="lm_head.weight",
            hf_transpose=True,
        )
    }
    return specs | {"decoder": decoder}


def _own_bias(config: MT5Config, params: Mapping[str, Any], context: Context, *, bidirectional: bool):
    """A layer's own relative bias where every layer has one (umT5), else None."""
    if not config.relpos_per_layer:
        return None
    distance = config.relpos_max_distance
    return RelativeBias(params["relpos_bias"], bidirectional=bidirectional, max_distance=distance, context=context)


class EncoderLayer(nnx.Module):
    """Self-attention and MLP, each with a norm before and a residual around."""

    def __init__(self, params: Mapping[str, Any], config: MT5Config, context: Context):
        self.pre_attention_layer_norm = RMSNorm(params["pre_attention_layer_norm"], context)
        self.attention = Attention(params["attention"], config.head_dim, context)
        self.pre_mlp_layer_norm = RMSNorm(params["pre_mlp_layer_norm"], context)
        self.mlp = GatedMLP(params["mlp"], context)
        self.relpos_bias = _own_bias(config, params, context, bidirectional=True)
        self.context = context

    def __call__(self, x_BSD: jax.Array, mask: jax.Array | Seen, bias: jax.Array | None, keep: Masks) -> jax.Array:
        drop = self.context.dropout
        if self.relpos_bias is not None:
            bias = self.relpos_bias(x_BSD.shape[1])
        y_BSD = self.pre_attention_layer_norm(x_BSD)
        y_BSD = self.attention(y_BSD, self.attention.memory(y_BSD), mask=mask, bias=bias, keep=keep[0])
        x_BSD = x_BSD + drop(y_BSD, keep[1])
        x_BSD = x_BSD + drop(self.mlp(self.pre_mlp_layer_norm(x_BSD), keep[2]), keep[3])
        return self.context.constrain(x_BSD, ("batch", "length", "embed"))


class DecoderLayer(nnx.Module):
    """Causal self-attention, attention to the encoder, and MLP, each with a norm before and a residual around."""

    def __init__(self, params: Mapping[str, Any], config: MT5Config, context: Context):
        self.pre_self_attention_layer_norm = RMSNorm(params["pre_self_attention_layer_norm"], context)
        self.self_attention = Attention(params["self_attention"], config.head_dim, context)
        self.pre_cross_attention_layer_norm = RMSNorm(params["pre_cross_attention_layer_norm"], context)
        self.encoder_decoder_attention = Attention(params["encoder_decoder_attention"], config.head_dim, context)
        self.pre_mlp_layer_norm = RMSNorm(params["pre_mlp_layer_norm"], context)
        self.mlp = GatedMLP(params["mlp"], context)
        self.relpos_bias = _own_bias(config, params, context, bidirectional=False)
        self.context = context

    def after_self_attention(
        self, x_BTD: jax.Array, cross: tuple[jax.Array, jax.Array], cross_mask: jax.Array | Seen, keep: Masks
    ) -> jax.Array:
        """Attention to the encoder's keys and values, then the MLP; four dropout masks."""
        drop = self.context.dropout
        y_BTD = self.pre_cross_attention_layer_norm(x_BTD)
        y_BTD = self.encoder_decoder_attention(y_BTD, cross, mask=cross_mask, keep=keep[0])
        x_BTD = x_BTD + drop(y_BTD, keep[1])
        x_BTD = x_BTD + drop(self.mlp(self.pre_mlp_layer_norm(x_BTD), keep[2]), keep[3])
        return self.context.constrain(x_BTD, ("batch", "length", "embed"))

    def __call__(
        self,
        x_BTD: jax.Array,
        encoded_BSD: jax.Array,
        mask: jax.Array | Seen,
        cross_mask: jax.Array | Seen,
        bias: jax.Array | None,
        keep: Masks,
    ) -> jax.Array:
        if self.relpos_bias is not None:
            bias = self.relpos_bias(x_BTD.shape[1])
        y_BTD = self.pre_self_attention_layer_norm(x_BTD)
        memory = self.self_attention.memory(y_BTD)
        y_BTD = self.self_attention(y_BTD, memory, mask=mask, bias=bias, keep=keep[0])
        x_BTD = x_BTD + self.context.dropout(y_BTD, keep[1])
        cross = self.encoder_decoder_attention.memory(encoded_BSD)
        return self.after_self_attention(x_BTD, cross, cross_mask, keep[2:])


class MT5(nnx.Module):
    """The network: a view over the nested dict of parameters (`param_specs`' tree), cheap to build under `jax.jit`.

    Args:
      config: sizes and settings.
      params: arrays, stacked by layer; stored in any float dtype, used in `config.dtype`.
      constrain: optional `(array, logical_axes) -> array` that states a sharding. It sees activations, and every weight
        inside the loop over layers, after the cast to the compute dtype and with None in the place of 'embed': the
        gather of a weight sharded along 'embed'.
    """

    def __init__(self, config: MT5Config, params: Mapping[str, Any], constrain: Constrain | None = None):
        kernel = flash_attention.kernel_for(constrain, config.head_dim)
        context = Context(jnp.dtype(config.dtype), config.dropout_rate, constrain or unconstrained, kernel)
        encoder = params["encoder"]
        biases = {"max_distance": config.relpos_max_distance, "context": context}
        shared_bias = not config.relpos_per_layer
        self.config = config
        self.context = context
        self.embedding = nnx.Param(params["token_embedder"]["embedding"])
        self.encoder_bias = RelativeBias(encoder["relpos_bias"], bidirectional=True, **biases) if shared_bias else None
        self.encoder_layers = EncoderLayer(encoder["layers"], config, context)
        self.encoder_norm = RMSNorm(encoder["encoder_norm"], context)
        if not config.num_decoder_layers:
            return
        decoder = params["decoder"]
        self.decoder_bias = RelativeBias(decoder["relpos_bias"], bidirectional=False, **biases) if shared_bias else None
        self.decoder_layers = DecoderLayer(decoder["layers"], config, context)
        self.decoder_norm = RMSNorm(decoder["decoder_norm"], context)
        self.logits_kernel = nnx.Param(decoder["logits_dense"]["kernel"])

    def _mask(self, seen: Seen, length: int = 0) -> jax.Array | Seen:
        """What attention takes: `seen` itself where the kernel takes it, with a relative bias of that length."""
        return seen if self.context.kernel_at(length) else seen.mask()

    def _embed(self, tokens_BT: jax.Array, keep: jax.Array | None) -> jax.Array:
        x_BTD = self.context.dropout(embed(self.embedding[...], tokens_BT, self.context), keep)
        return self.context.constrain(x_BTD.astype(self.context.dtype), ("batch", "length", "embed"))

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
        """Encodes tokens.

        Args:
          tokens_BS: int ids, 0 is padding.
          segment_ids_BS: packed examples, contiguous runs of one id >= 1, 0 for padding; None: one example a row.
          positions_BS, token_types_BS: part of every family's interface; mT5 sees offsets inside a run only.
          dropout_key: None for no dropout.
          all_layers: return every layer's output.
          readout: with `all_layers`, what to keep of each layer's x_BSD (say, a mean over S): the large array is then
            never held for all layers.

        Returns:
          x_BSD after the final norm, in the compute dtype; with `all_layers` [L+1, B, S, D]: 0 the embeddings, i the
          output of layer i, the last one after the final norm. Vectors at padding hold nothing of use.
        """
        del positions_BS, token_types_BS
        c, (batch, length) = self.config, tokens_BS.shape
        keep_first, keep_layers, keep_last = self.context.stack_masks(
            None if dropout_key is None else jax.random.fold_in(dropout_key, 0),
            batch,
            c.emb_dim,
            c.num_encoder_layers,
            (c.num_heads * length, c.emb_dim, c.mlp_dim, c.emb_dim),
            # As in T5X, dropout of the encoder's output alone has a mask of its own for each position.
            length * c.emb_dim,
        )
        ids_BS = (tokens_BS != 0).astype(jnp.int32) if segment_ids_BS is None else segment_ids_BS
        mask = self._mask(Seen(ids_BS, ids_BS), length)
        bias = None if self.encoder_bias is None else self.encoder_bias(length)
        embedded_BSD = self._embed(tokens_BS, keep_first)

        def body(x_BSD, layer_and_masks):
            layer, keep = layer_and_masks
            x_BSD = layer(x_BSD, mask, bias, keep)
            return x_BSD, readout(x_BSD) if all_layers else None

        x_BSD, outputs = jax.lax.scan(remat(body, c.remat), embedded_BSD, (self.encoder_layers, keep_layers))
        x_BSD = self.context.dropout(self.encoder_norm(x_BSD), keep_last)
        x_BSD = self.context.constrain(x_BSD, ("batch", "length", "embed"))
        if not all_layers:
            return x_BSD
        return jnp.concatenate([readout(embedded_BSD)[None], outputs[:-1], readout(x_BSD)[None]])

    def decode(
        self,
        tokens_BT: jax.Array,
        encoded_BSD: jax.Array,
        *,
        encoder_mask_BS: jax.Array,
        encoder_segment_ids_BS: jax.Array | None = None,
        segment_ids_BT: jax.Array | None = None,
        positions_BT: jax.Array | None = None,
        target_mask_BT: jax.Array | None = None,
        dropout_key: jax.Array | None = None,
    ) -> jax.Array:
        """Runs the decoder on whole sequences (teacher forcing).

        Args:
          tokens_BT: decoder inputs (targets moved right by one; each example starts with 0).
          encoded_BSD: from `encode`.
          encoder_mask_BS: bool, True at real encoder tokens.
          encoder_segment_ids_BS: given together with `segment_ids_BT` where the encoder is packed too; without it every
            decoder segment sees the whole encoder row (several targets for one input).
          segment_ids_BT: packed examples, contiguous runs, 0 for padding.
          positions_BT: part of every family's interface; mT5 needs none.
          target_mask_BT: bool, True at real targets; changes only what is computed at padding.
          dropout_key: None for no dropout.

        Returns:
          y_BTD after the final norm, in the compute dtype.
        """
        del positions_BT
        c, (batch, length) = self.config, tokens_BT.shape
        keep_first, keep_layers, keep_last = self.context.stack_masks(
            None if dropout_key is None else jax.random.fold_in(dropout_key, 1),
            batch,
            c.emb_dim,
            c.num_decoder_layers,
            (c.num_heads * length, c.emb_dim, c.num_heads * encoded_BSD.shape[1], c.emb_dim, c.mlp_dim, c.emb_dim),
            c.emb_dim,
        )
        ids_BT = jnp.ones_like(tokens_BT) if segment_ids_BT is None else segment_ids_BT
        if target_mask_BT is not None:
            ids_BT = jnp.where(target_mask_BT, ids_BT, 0)
        packed = segment_ids_BT is not None and encoder_segment_ids_BS is not None
        cross = Seen(
            ids_BT if packed else jnp.minimum(ids_BT, 1),
            jnp.where(encoder_mask_BS, encoder_segment_ids_BS if packed else 1, 0),
        )
        mask, cross_mask = self._mask(Seen(ids_BT, ids_BT, causal=True), length), self._mask(cross)
        bias = None if self.decoder_bias is None else self.decoder_bias(length)

        def body(x_BTD, layer_and_masks):
            layer, keep = layer_and_masks
            return layer(x_BTD, encoded_BSD, mask, cross_mask, bias, keep), None

        embedded_BTD = self._embed(tokens_BT, keep_first)
        x_BTD, _ = jax.lax.scan(remat(body, c.remat), embedded_BTD, (self.decoder_layers, keep_layers))
        y_BTD = self.context.dropout(self.decoder_norm(x_BTD), keep_last)
        return self.context.constrain(y_BTD, ("batch", "length", "embed"))

    def head(self) -> jax.Array:
        """The output kernel [D, V], f32."""
        return self.context.constrain(self.logits_kernel[...].astype(jnp.float32), (None, "output_vocab"))

    def logits(self, y_BTD: jax.Array) -> jax.Array:
        """f32 logits [..., V] of decoder outputs [..., D]."""
        flat = y_BTD.astype(jnp.float32).reshape(-1, y_BTD.shape[-1])
        return (flat @ self.head()).reshape(*y_BTD.shape[:-1], -1)

    def start(self, tokens_BS: jax.Array, max_length: int) -> tuple[Cache, jax.Array]:
        """Encodes inputs; returns the empty cache for `max_length` steps and the token of index 0, which is 0."""
        cache = self.init_cache(self.encode(tokens_BS), tokens_BS != 0, max_length)
        return cache, jnp.zeros((tokens_BS.shape[0],), jnp.int32)

    def init_cache(self, encoded_BSD: jax.Array, encoder_mask_BS: jax.Array, max_length: int) -> Cache:
        """An empty cache for `max_length` steps. The encoder's keys and values are computed here, once."""
        layers = unstack(self.decoder_layers, self.config.num_decoder_layers)
        cross = tuple(layer.encoder_decoder_attention.memory(encoded_BSD) for layer in layers)
        return Cache.empty(cross, encoder_mask_BS, max_length)

    def decode_step(
        self, tokens_N: jax.Array, index: jax.Array | int, cache: Cache, positions_N: jax.Array | None = None
    ) -> tuple[jax.Array, Cache]:
        """One step of incremental decoding.

        Args:
          tokens_N: the decoder's input of each row (0 at its first step).
          index: 0 <= index < the cache's `max_length`, the place that is written: the one after the last step's, the
            first after the last.
          cache: as the steps before left it.
          positions_N: how many tokens each row was fed before, below `max_length`; None: `index`, for rows that all
            began at place 0.

        Returns:
          y_ND after the final norm, and the cache with this step in it.
        """
        index = jnp.asarray(index, jnp.int32)
        max_length = cache.own[0][0].shape[2]
        positions_N = index[None] if positions_N is None else positions_N
        mask = (age(index, max_length) <= positions_N[:, None])[:, None, None]
        cross_mask = cache.seen_BS[:, None, None]
        # Twice around the ring by age, falling: a window of it is the row of any step.
        offsets = np.tile(np.arange(-max_length + 1, 1), 2)

        def bias_of(table: RelativeBias) -> jax.Array:
            window_HM = jax.lax.dynamic_slice_in_dim(table.of_offsets(offsets), max_length - 1 - index, max_length, 1)
            return window_HM[:, None]

        shared_bias_H1M = None if self.decoder_bias is None else bias_of(self.decoder_bias)
        zero = jnp.zeros((), jnp.int32)
        x_N1D = self._embed(tokens_N[:, None], None)
        own = []
        # Written out, not scanned: a loop over stacked caches would copy a layer's at every step.
        for layer, memory, cross in zip(
            unstack(self.decoder_layers, self.config.num_decoder_layers), cache.own, cache.inputs, strict=True
        ):
            y_N1D = layer.pre_self_attention_layer_norm(x_N1D)
            memory = tuple(
                jax.lax.dynamic_update_slice(old_NHMK, new_NH1K, (zero, zero, index, zero))
                for old_NHMK, new_NH1K in zip(memory, layer.self_attention.memory(y_N1D), strict=True)
            )
            own.append(memory)
            bias_H1M = shared_bias_H1M if layer.relpos_bias is None else bias_of(layer.relpos_bias)
            x_N1D = x_N1D + layer.self_attention(y_N1D, memory, mask=mask, bias=bias_H1M)
            # All continuations of an input are queries to the one copy of its keys and values.
            x_BCD = x_N1D.reshape(cross[0].shape[0], -1, x_N1D.shape[-1])
            x_N1D = layer.after_self_attention(x_BCD, cross, cross_mask, [None] * 4).reshape(x_N1D.shape)
        return self.decoder_norm(x_N1D)[:, 0], cache._replace(own=tuple(own))
