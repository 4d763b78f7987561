"""XLM-R (arXiv 1911.02116), XLM-R XL and XXL (arXiv 2105.00572) and multilingual BERT (arXiv 1810.04805): encoders with
absolute positions.

Axes: B batch, S length, M key (memory) length, D embedding, H heads, F MLP hidden, V vocabulary, P rows of the position
table, L layers. Numerics follow Hugging Face's networks: biases everywhere, erf GELU, attention divided by sqrt(head
size). The norm comes after each residual sum (BERT, XLM-R base and large) or before each sublayer, with one more at
the end and none over the embeddings (XL, XXL).
"""

import dataclasses
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

from xtr.errors import UserError, did_you_mean
from xtr.models import spec as spec_lib
from xtr.models.layers import (
    MLP,
    Attention,
    Constrain,
    Context,
    Dense,
    LayerNorm,
    check_settings,
    embed,
    remat,
    same_segment,
    unconstrained,
)
from xtr.models.spec import HuggingFaceLayout, Initializer, ParamSpec

KINDS = ("xlmr", "mbert")


@dataclass(frozen=True)
class BertConfig:
    """Sizes and settings of an XLM-R or a multilingual BERT.

    Attributes:
      kind: 'xlmr' or 'mbert': the family, with its vocabulary, padding, numbering of positions and names of arrays.
      max_positions: rows of the position table. XLM-R counts from 2, so its longest example is two tokens shorter.
      type_vocab_size: rows of the token type table, 2 where pairs of texts are told apart (mBERT), else 1.
      pre_norm: norms before the sublayers (XLM-R XL and XXL), not after the residual sums.
      norm_epsilon: added to the variance in every norm: 1e-5 (XLM-R), 1e-12 (mBERT).
      dropout_rate: share dropped while training, in [0, 1): of the embeddings, of each sublayer's output (in pre-norm
        networks too, as they were pretrained) and of attention probabilities.
      dtype: compute dtype, 'bfloat16' or 'float32' (logits and loss are f32 always).
      params_dtype: of the parameters between steps, 'float32' or 'bfloat16'.
      remat: what the backward pass recomputes: 'none', 'minimal' (all but products with weights) or 'full' (all but
        each layer's input).
      pooler: a dense layer and tanh over the first token. mBERT's was pretrained; XLM-R's never was.
      mlm_head: the head for masked language modelling; its output weights are the embedding table.

    Raises:
      UserError: a value that no such network can have.
    """

    kind: str
    vocab_size: int
    emb_dim: int
    num_heads: int
    mlp_dim: int
    num_layers: int
    max_positions: int
    type_vocab_size: int = 1
    pre_norm: bool = False
    norm_epsilon: float = 1e-5
    dropout_rate: float = 0.0
    dtype: str = "bfloat16"
    params_dtype: str = "float32"
    remat: str = "minimal"
    pooler: bool = False
    mlm_head: bool = False

    def __post_init__(self):
        if self.kind not in KINDS:
            hint = did_you_mean(str(self.kind), KINDS)
            raise UserError(f"BertConfig.kind must be one of {', '.join(KINDS)}, not {self.kind!r}.{hint}")
        sizes = ("vocab_size", "emb_dim", "num_heads", "mlp_dim", "num_layers", "max_positions", "type_vocab_size")
        for name in sizes:
            value = getattr(self, name)
            least = self.first_position + 1 if name == "max_positions" else 1
            if isinstance(value, bool) or not isinstance(value, int) or value < least:
                raise UserError(f"BertConfig.{name} must be a whole number of at least {least}, not {value!r}.")
        for name in ("pre_norm", "pooler", "mlm_head"):
            if not isinstance(getattr(self, name), bool):
                raise UserError(f"BertConfig.{name} must be True or False, not {getattr(self, name)!r}.")
        if self.emb_dim % self.num_heads:
            raise UserError(
                f"BertConfig.emb_dim must be a multiple of num_heads, not {self.emb_dim} with {self.num_heads} heads."
            )
        if self.type_vocab_size > 2:
            raise UserError(f"BertConfig.type_vocab_size must be 1 or 2, not {self.type_vocab_size!r}.")
        if not isinstance(self.norm_epsilon, float) or not 0.0 < self.norm_epsilon < 1.0:
            raise UserError(f"BertConfig.norm_epsilon must lie between 0 and 1, not {self.norm_epsilon!r}.")
        if self.pre_norm and self.kind == "mbert":
            raise UserError("BertConfig.pre_norm is XLM-R XL's and XXL's: with kind 'mbert' it must be False.")
        if self.pooler and self.mlm_head and self.kind == "xlmr":
            raise UserError("BertConfig: no XLM-R has both a pooler and an MLM head. Set pooler or mlm_head to False.")
        check_settings(self)

    causal = False

    @property
    def family(self) -> str:
        """The model family's name in results."""
        return self.kind

    @property
    def vocabulary_kind(self) -> str:
        """Kind of vocabulary it reads."""
        return {"xlmr": "xlmr", "mbert": "wordpiece"}[self.kind]

    @property
    def pad_id(self) -> int:
        """The token that fills rows."""
        return {"xlmr": 1, "mbert": 0}[self.kind]

    @property
    def first_position(self) -> int:
        """Row of the position table of an example's first token: XLM-R's come after that of padding."""
        return {"xlmr": self.pad_id + 1, "mbert": 0}[self.kind]

    @property
    def max_length(self) -> int:
        """The most tokens of one example."""
        return self.max_positions - self.first_position

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
        return ("mlm",) if self.mlm_head else ()

    def encoder(self) -> "BertConfig":
        """The config of the part that `encode` needs: no pooler and no MLM head."""
        return dataclasses.replace(self, pooler=False, mlm_head=False)

    def param_specs(self) -> dict[str, Any]:
        """The specs of all parameters, nested as the parameters are."""
        return spec_lib.stored_as(self.params_dtype, param_specs(self))

    def huggingface(self) -> HuggingFaceLayout:
        """How Hugging Face stores this network.

        The architecture is the class with these arrays and no others, with two exceptions: the plain model without a
        pooler (its class can be told so, its config.json cannot), and an mBERT with both pooler and MLM head, which
        lacks the next-sentence head of 'BertForPreTraining'.
        """
        prefix = _base_prefix(self)
        model_type = {"xlmr": "xlm-roberta-xl" if self.pre_norm else "xlm-roberta", "mbert": "bert"}[self.kind]
        name = {"xlm-roberta-xl": "XLMRobertaXL", "xlm-roberta": "XLMRoberta", "bert": "Bert"}[model_type]
        purpose = ("ForPreTraining" if self.pooler else "ForMaskedLM") if self.mlm_head else "Model"
        config = {
            "model_type": model_type,
            "vocab_size": self.vocab_size,
            "hidden_size": self.emb_dim,
            "num_hidden_layers": self.num_layers,
            "num_attention_heads": self.num_heads,
            "intermediate_size": self.mlp_dim,
            "hidden_act": "gelu",
            "hidden_dropout_prob": 0.1,
            "attention_probs_dropout_prob": 0.1,
            "max_position_embeddings": self.max_positions,
            "type_vocab_size": self.type_vocab_size,
            "initializer_range": 0.02,
            "layer_norm_eps": self.norm_epsilon,
            "pad_token_id": self.pad_id,
            "tie_word_embeddings": True,
        }
        if self.kind == "xlmr":
            config |= {"bos_token_id": 0, "eos_token_id": 2}
        base = f"({prefix.replace('.', r'[.]')})?"
        left_out = {base + r"embeddings\.(position_ids|token_type_ids)": "a constant, not a parameter"}
        head = {"xlmr": r"lm_head\.", "mbert": r"cls\.predictions\."}[self.kind]
        if self.mlm_head:
            left_out |= {
                head + r"decoder\.weight": f"a copy of {prefix}embeddings.word_embeddings.weight",
                head + r"decoder\.bias": f"a copy of {_mlm_names(self)['bias']}",
            }
        else:
            # The second name is that of `param_specs`, in checkpoints of runs that had the head.
            left_out[rf"({head}|mlm_head\.).*"] = "this run has no head for masked language modelling"
        if self.kind == "mbert":
            left_out[r"cls\.seq_relationship\..*"] = "the head for next-sentence prediction has no use here"
        if not self.pooler:
            left_out[base + r"pooler\..*"] = "this run has no pooler"
        return HuggingFaceLayout(
            architecture=name + purpose,
            config=config,
            base_prefix=prefix,
            aliases=((r"LayerNorm\.gamma$", "LayerNorm.weight"), (r"LayerNorm\.beta$", "LayerNorm.bias")),
            left_out=left_out,
        )

    def network(self, params: Mapping[str, Any], constrain: Constrain | None = None) -> "Bert":
        """The network over `params`."""
        return Bert(self, params, constrain)


def _base_prefix(config: BertConfig) -> str:
    """What Hugging Face writes before the names of the encoder's arrays in a network that has a head."""
    return {"xlmr": "roberta.", "mbert": "bert."}[config.kind]


def _mlm_names(config: BertConfig) -> dict[str, str]:
    """Hugging Face's names in the head for masked language modelling."""
    if config.kind == "xlmr":
        return {"dense": "lm_head.dense", "norm": "lm_head.layer_norm", "bias": "lm_head.bias"}
    transform = "cls.predictions.transform"
    return {"dense": f"{transform}.dense", "norm": f"{transform}.LayerNorm", "bias": "cls.predictions.bias"}


def param_specs(config: BertConfig) -> dict[str, Any]:
    """The specs of all parameters, nested as the parameters are. Initialisers are BERT's."""
    c = config
    sizes = {"embed": c.emb_dim, "joined_kv": c.emb_dim, "mlp": c.mlp_dim, "vocab": c.vocab_size}
    sizes |= {"positions": c.max_positions, "token_types": c.type_vocab_size}
    base = _base_prefix(c) if c.mlm_head else ""
    layer = f"{base}encoder.layer.{{layer}}"

    def spec(hf: str, axes: tuple[str, ...], init: Initializer, **others: Any) -> ParamSpec:
        shape = tuple(sizes[axis] for axis in axes)
        if "{layer}" in hf:
            shape, axes = (c.num_layers, *shape), (spec_lib.LAYERS, *axes)
        return ParamSpec(shape=shape, axes=axes, init=init, hf=hf, **others)

    def table(hf: str, rows: str) -> dict[str, ParamSpec]:
        return {"embedding": spec(f"{base}embeddings.{hf}.weight", (rows, "embed"), spec_lib.normal_02)}

    def dense(hf: str, axes: tuple[str, str], **others: Any) -> dict[str, ParamSpec]:
        return {
            "kernel": spec(f"{hf}.weight", axes, spec_lib.normal_02, hf_transpose=True, **others),
            "bias": spec(f"{hf}.bias", axes[1:], spec_lib.zeros, **others),
        }

    def norm(hf: str) -> dict[str, ParamSpec]:
        return {
            "scale": spec(f"{hf}.weight", ("embed",), spec_lib.ones),
            "bias": spec(f"{hf}.bias", ("embed",), spec_lib.zeros),
        }

    specs = {
        "token_embedder": table("word_embeddings", "vocab"),
        "position_embedder": table("position_embeddings", "positions"),
        "type_embedder": table("token_type_embeddings", "token_types"),
        "layers": {
            "attention": {
                name: dense(f"{layer}.attention.self.{name}", ("embed", "joined_kv"))
                for name in ("query", "key", "value")
            }
            | {"out": dense(f"{layer}.attention.output.dense", ("joined_kv", "embed"))},
            "attention_norm": norm(f"{layer}.attention.{'self_attn_layer_norm' if c.pre_norm else 'output.LayerNorm'}"),
            "mlp": {
                "wi": dense(f"{layer}.intermediate.dense", ("embed", "mlp")),
                "wo": dense(f"{layer}.output.dense", ("mlp", "embed")),
            },
            "mlp_norm": norm(f"{layer}.{'LayerNorm' if c.pre_norm else 'output.LayerNorm'}"),
        },
    }
    if c.pre_norm:
        specs["final_norm"] = norm(f"{base}encoder.LayerNorm")
    else:
        specs["embedding_norm"] = norm(f"{base}embeddings.LayerNorm")
    if c.pooler:
        specs["pooler"] = dense(f"{base}pooler.dense", ("embed", "embed"), fresh=c.kind == "xlmr")
    if c.mlm_head:
        names = _mlm_names(c)
        specs["mlm_head"] = {
            "dense": dense(names["dense"], ("embed", "embed")),
            "norm": norm(names["norm"]),
            "bias": spec(names["bias"], ("vocab",), spec_lib.zeros),
        }
    return specs


class Layer(nnx.Module):
    """Self-attention and MLP, each in a residual sum with a norm after it or, in a pre-norm network, before it."""

    def __init__(self, params: Mapping[str, Any], config: BertConfig, context: Context):
        scale = 1.0 / math.sqrt(config.head_dim)
        self.attention = Attention(params["attention"], config.head_dim, context, scale=scale)
        self.attention_norm = LayerNorm(params["attention_norm"], context, config.norm_epsilon)
        self.mlp = MLP(params["mlp"], context, approximate=False)
        self.mlp_norm = LayerNorm(params["mlp_norm"], context, config.norm_epsilon)
        self.num_heads = config.num_heads
        self.pre_norm = config.pre_norm
        self.context = context

    def _residual(
        self, sublayer: Callable[[jax.Array], jax.Array], norm: LayerNorm, x_BSD: jax.Array, keep: jax.Array | None
    ) -> jax.Array:
        y_BSD = sublayer(norm(x_BSD) if self.pre_norm else x_BSD)
        x_BSD = x_BSD + self.context.dropout(y_BSD, keep)
        x_BSD = x_BSD if self.pre_norm else norm(x_BSD)
        return self.context.constrain(x_BSD, ("batch", "length", "embed"))

    def __call__(self, x_BSD: jax.Array, mask: jax.Array, key: jax.Array | None) -> jax.Array:
        key_probs, key_states = (None, None) if key is None else jax.random.split(key)
        batch, length = x_BSD.shape[:2]
        probs_shape = (batch, self.num_heads, length, length)
        keep_probs = self.context.own_mask(key_probs, probs_shape, ("batch", "heads", None, None))
        # One draw for both sublayers: random bits are long programs.
        keep_both = self.context.own_mask(key_states, (2, *x_BSD.shape), (None, "batch", "length", "embed"))
        keep_attention, keep_mlp = (None, None) if keep_both is None else keep_both

        def attend(y_BSD):
            return self.attention(y_BSD, self.attention.memory(y_BSD), mask=mask, keep=keep_probs)

        x_BSD = self._residual(attend, self.attention_norm, x_BSD, keep_attention)
        return self._residual(self.mlp, self.mlp_norm, x_BSD, keep_mlp)


class Bert(nnx.Module):
    """The network: a view over the nested dict of parameters (`param_specs`' tree), cheap to build under `jax.jit`.

    Args:
      config: sizes and settings.
      params: arrays, stacked by layer; stored in any float dtype, used in `config.dtype`.
      constrain: optional `(array, logical_axes) -> array` that states a sharding, as in `xtr.models.mt5.MT5`.
    """

    def __init__(self, config: BertConfig, params: Mapping[str, Any], constrain: Constrain | None = None):
        context = Context(jnp.dtype(config.dtype), config.dropout_rate, constrain or unconstrained)
        square = ("embed", "embed")
        self.config = config
        self.context = context
        self.embedding = nnx.Param(params["token_embedder"]["embedding"])
        self.position_embedding = nnx.Param(params["position_embedder"]["embedding"])
        self.type_embedding = nnx.Param(params["type_embedder"]["embedding"])
        self.layers = Layer(params["layers"], config, context)
        name = "final_norm" if config.pre_norm else "embedding_norm"
        self.outer_norm = LayerNorm(params[name], context, config.norm_epsilon)
        if config.pooler:
            self.pooler = Dense(params["pooler"], square, context)
        if config.mlm_head:
            head = params["mlm_head"]
            self.mlm_dense = Dense(head["dense"], square, context)
            self.mlm_norm = LayerNorm(head["norm"], context, config.norm_epsilon)
            self.mlm_bias = nnx.Param(head["bias"])

    def _embed(
        self, tokens_BS: jax.Array, positions_BS: jax.Array | None, token_types_BS: jax.Array | None
    ) -> jax.Array:
        """The sum of the three embeddings, f32. Ids and positions outside their tables give NaN."""
        c, length = self.config, tokens_BS.shape[1]
        x_BSD = embed(self.embedding[...], tokens_BS, self.context)
        table_PD, types_2D = self.position_embedding[...], self.type_embedding[...]
        if positions_BS is None:
            x_BSD += table_PD[c.first_position : c.first_position + length]
        else:
            x_BSD += embed(table_PD, positions_BS + c.first_position, self.context)
        if token_types_BS is None or c.type_vocab_size == 1:
            x_BSD += types_2D[0]
        else:
            # A choice, not a lookup: the gradient of a lookup would add up all tokens into two rows one by one.
            types_BS1 = self.context.constrain(token_types_BS, (None, None))[..., None]
            x_BSD += jnp.where(types_BS1 == 0, types_2D[0], types_2D[1])
        return self.context.constrain(x_BSD.astype(jnp.float32), ("batch", "length", "embed"))

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
          tokens_BS: int ids, padded on the right with the config's `pad_id`.
          segment_ids_BS: packed examples, contiguous runs of one id >= 1, 0 for padding; None: one example a row.
          positions_BS: 0-based place of each token in its own example, below `max_length`; rows that hold several
            examples need them. None: counted along the row.
          token_types_BS: 0 or 1, the first or second text of a pair; None: all 0. XLM-R has one type and ignores them.
          dropout_key: None for no dropout.
          all_layers: return every layer's output.
          readout: with `all_layers`, what to keep of each layer's x_BSD (say, a mean over S): the large array is then
            never held for all layers.

        Returns:
          x_BSD of the last layer (after the final norm of a pre-norm network), in the compute dtype; with `all_layers`
          [L+1, B, S, D]: 0 the embeddings (normed, but in a pre-norm network), i the output of layer i, the last one as
          without `all_layers`. Vectors at padding hold nothing of use.

        Raises:
          UserError: rows longer than the position table where positions are counted along the row.
        """
        c, length = self.config, tokens_BS.shape[1]
        if positions_BS is None and length > c.max_length:
            raise UserError(
                f"Rows of {length} tokens, but this {c.family} has positions for {c.max_length}. Make the feature "
                f"lengths at most {c.max_length}, or pack shorter examples into the rows."
            )
        ids_BS = (tokens_BS != c.pad_id).astype(jnp.int32) if segment_ids_BS is None else segment_ids_BS
        mask = same_segment(ids_BS, ids_BS)
        x_BSD = self._embed(tokens_BS, positions_BS, token_types_BS)
        x_BSD = x_BSD.astype(self.context.dtype) if c.pre_norm else self.outer_norm(x_BSD)

        def key_of(place):  # 0 the embeddings, i layer i
            return None if dropout_key is None else jax.random.fold_in(dropout_key, place)

        keep = self.context.own_mask(key_of(0), x_BSD.shape, ("batch", "length", "embed"))
        embedded_BSD = self.context.dropout(x_BSD, keep)

        def body(x_BSD, layer_and_place):
            layer, place = layer_and_place
            x_BSD = layer(x_BSD, mask, key_of(place))
            return x_BSD, readout(x_BSD) if all_layers else None

        places = jnp.arange(1, c.num_layers + 1)
        x_BSD, outputs = jax.lax.scan(remat(body, c.remat), embedded_BSD, (self.layers, places))
        if c.pre_norm:
            x_BSD = self.context.constrain(self.outer_norm(x_BSD), ("batch", "length", "embed"))
        if not all_layers:
            return x_BSD
        return jnp.concatenate([readout(embedded_BSD)[None], outputs[:-1], readout(x_BSD)[None]])

    def pooled(self, x_BSD: jax.Array) -> jax.Array:
        """One vector a row, [B, D]: dense and tanh over the first token's state of the last layer."""
        self._need("pooler")
        return jnp.tanh(self.pooler(x_BSD[:, 0]))

    def mlm_states(self, x_BSD: jax.Array) -> jax.Array:
        """y_BSD, of which the logits of masked language modelling are y @ head() + head_bias()."""
        self._need("mlm_head")
        y_BSD = jax.nn.gelu(self.mlm_dense(x_BSD), approximate=False)
        return self.context.constrain(self.mlm_norm(y_BSD), ("batch", "length", "embed"))

    def head(self) -> jax.Array:
        """The output kernel [D, V], f32: the transposed embedding table."""
        self._need("mlm_head")
        return self.context.constrain(self.embedding[...].astype(jnp.float32).T, (None, "output_vocab"))

    def head_bias(self) -> jax.Array:
        """The output bias [V], f32."""
        self._need("mlm_head")
        return self.context.constrain(self.mlm_bias[...].astype(jnp.float32), ("output_vocab",))

    def logits(self, y_BSD: jax.Array) -> jax.Array:
        """f32 logits [..., V] of `mlm_states` [..., D]."""
        flat = y_BSD.astype(jnp.float32).reshape(-1, y_BSD.shape[-1])
        return (flat @ self.head() + self.head_bias()).reshape(*y_BSD.shape[:-1], -1)

    def _need(self, part: str) -> None:
        if not getattr(self.config, part):
            raise UserError(f"This {self.config.family} has no {part}: set bert.BertConfig.{part} = True.")
