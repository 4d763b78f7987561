"""Heads on any family's encoder states: sequence classification, multiple choice, token tagging, spans, embeddings.

Axes: B batch, C choices or labels, S input length, D embedding, A attention width (= D), L layers, with the embeddings
L+1.

What a head reads of the states is a setting: the last layer, one chosen layer, or a learned attention over all layers.
Shapes are those of jiant and Hugging Face: a pooled vector goes through dropout, dense, tanh, dropout and a linear map;
a tag through dropout and a linear map; a span through a linear map alone. An embedding is the pooled vector itself, or
that behind a dense layer and tanh, divided by its norm.
"""

import dataclasses
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

from xtr.errors import UserError, did_you_mean
from xtr.models.interface import ModelConfig
from xtr.models.layers import MASKED, NORM_EPSILON, Constrain, Context, Dense, unconstrained
from xtr.models.spec import (
    HuggingFaceLayout,
    Initializer,
    ParamSpec,
    flatten,
    map_specs,
    normal_02,
    variance_scaling,
    zeros,
)

HEAD = "head"
KINDS = ("classify", "choose", "tag", "span", "embed")
POOLINGS = ("first", "mean", "last")
READS = ("last", "attention")
_TINY = 1e-24  # least square of a norm that vectors are divided by
# Where no pooling is set: the token that pretraining made stand for the text, else (T5 has none) the mean.
_POOLING = {"mt5": "mean", "umt5": "mean"}
_OBJECTIVES = {"embed": "contrastive"}  # where its name is not the kind's
# transformers' class of each kind that it has, behind its name of the family.
_CLASSES = {
    "classify": "ForSequenceClassification",
    "choose": "ForMultipleChoice",
    "tag": "ForTokenClassification",
    "span": "ForQuestionAnswering",
}


class OnBody:
    """What a model with heads has from its `body`, the family's config."""

    body: ModelConfig

    @property
    def vocab_size(self) -> int:
        """The body's."""
        return self.body.vocab_size

    @property
    def dtype(self) -> str:
        """The body's compute dtype; a head's last linear map is f32 always."""
        return self.body.dtype

    @property
    def dropout_rate(self) -> float:
        """The body's, in heads too."""
        return self.body.dropout_rate

    @property
    def family(self) -> str:
        """The body's."""
        return self.body.family

    @property
    def vocabulary_kind(self) -> str:
        """The body's."""
        return self.body.vocabulary_kind

    @property
    def pad_id(self) -> int:
        """The body's."""
        return self.body.pad_id

    @property
    def width(self) -> int:
        """Size of a state."""
        return self.body.width

    @property
    def num_layers(self) -> int:
        """Layers of the body's encoder."""
        return self.body.num_layers

    @property
    def max_length(self) -> int | None:
        """The body's."""
        return self.body.max_length

    @property
    def causal(self) -> bool:
        """The body's."""
        return self.body.causal

    def encoder(self) -> ModelConfig:
        """The body's encoder, without heads."""
        return self.body.encoder()

    def body_specs(self) -> dict[str, Any]:
        """The specs of the body's encoder; beside a head, Hugging Face's names of them have a prefix."""
        body, prefix = self.encoder(), self.encoder().huggingface().base_prefix

        def within(spec: ParamSpec) -> ParamSpec:
            return spec if spec.hf.startswith(prefix) else dataclasses.replace(spec, hf=prefix + spec.hf)

        return map_specs(within, body.param_specs())


@dataclass(frozen=True)
class WithHead(OnBody):
    """A model with a head on its encoder states; itself a `ModelConfig`.

    Attributes:
      body: the family's config; of an encoder-decoder the encoder is used alone.
      kind: 'classify' (a label a text), 'choose' (one of several texts), 'tag' (a label a token), 'span' (a start and
        an end token) or 'embed' (a vector a text, by which texts find each other: a dual encoder of one tower).
      num_labels: for 'classify' and 'tag', at least 2; None for the others.
      read: 'last' layer; the number of a layer, 0 the embeddings, L the last one, negative from the end (the layers
        above a chosen one are run but get no gradient); or 'attention' over all layers, see `LayerAttention`.
      pooling: for 'classify', 'choose' and 'embed', which vector stands for a text: the 'first' token's, the 'mean'
        over real tokens, or the 'last' real token's. None: mean for 'embed', as retrieval reads any model; else last
        for a causal model, mean for mT5, first for the others.
      pooler: for 'embed', whether a dense layer and tanh follow the pooling as in BERT's pooler; XTREME's dual encoder
        has that, and the 'first' token.

    Raises:
      UserError: a value that does not fit.
    """

    body: ModelConfig
    kind: str
    num_labels: int | None = None
    read: str | int = "last"
    pooling: str | None = None
    pooler: bool = False

    def __post_init__(self):
        if self.kind not in KINDS:
            raise UserError(
                f"WithHead.kind must be one of {', '.join(KINDS)}, not {self.kind!r}.{did_you_mean(self.kind, KINDS)}"
            )
        if isinstance(self.body, WithHead):
            raise UserError("WithHead.body is a model with a head already; give the model without one.")
        n = self.num_labels
        if self.kind in ("classify", "tag"):
            if isinstance(n, bool) or not isinstance(n, int) or n < 2:
                raise UserError(f"WithHead.num_labels (NUM_LABELS) must be a whole number of at least 2, not {n!r}.")
        elif n is not None:
            raise UserError(f"WithHead.num_labels is {n!r}, but {self.kind!r} has no labels: leave it out.")
        if self.pooler and self.kind != "embed":
            raise UserError(f"WithHead.pooler (HEAD_POOLER) is for the kind 'embed', not for {self.kind!r}.")
        # In canonical form, so that configs of equal meaning are equal.
        object.__setattr__(self, "read", self._checked_read())
        object.__setattr__(self, "pooling", self._checked_pooling())

    def _checked_read(self) -> str | int:
        read, layers = self.read, self.body.num_layers
        if isinstance(read, int) and not isinstance(read, bool) and -layers - 1 <= read <= layers:
            layer = read % (layers + 1)
            return "last" if layer == layers else layer
        if read in READS:
            return read
        raise UserError(
            f"WithHead.read (HEAD_READ) must be {' or '.join(map(repr, READS))}, or a layer from 0 (the embeddings) to "
            f"{layers}, or -1 to {-layers - 1} from the end, not {read!r}."
        )

    def _checked_pooling(self) -> str | None:
        pooling = self.pooling
        if self.kind in ("tag", "span"):
            if pooling is not None:
                raise UserError(f"WithHead.pooling (HEAD_POOLING) is {pooling!r}, but {self.kind!r} pools nothing.")
            return None
        if pooling is None and self.kind == "embed":
            return "mean"
        if pooling is None:
            return "last" if self.body.causal else _POOLING.get(self.body.family, "first")
        if pooling not in POOLINGS:
            raise UserError(
                f"WithHead.pooling (HEAD_POOLING) must be one of {', '.join(POOLINGS)}, not {pooling!r}."
                + did_you_mean(str(pooling), POOLINGS)
            )
        if pooling == "first" and self.body.causal:
            raise UserError(
                f"HEAD_POOLING is 'first', but the first token of a {self.body.family} has not seen the text behind "
                "it: use 'last' or 'mean'."
            )
        return pooling

    @property
    def objectives(self) -> tuple[str, ...]:
        """A head is trained with the objective of its kind."""
        return (_OBJECTIVES.get(self.kind, self.kind),)

    def param_specs(self) -> dict[str, Any]:
        """The specs of the body's encoder, and the head's below 'head', which checkpoints may lack."""
        return self.body_specs() | {HEAD: head_specs(self)}

    def huggingface(self) -> HuggingFaceLayout:
        """The body's layout with the head's arrays; `architecture` is transformers' class with that very head where
        there is one, else the body's (whose state dict lacks the head)."""
        layout = self.encoder().huggingface()
        bert = _is_bert(self) and self.pooling in (None, "first")
        exact = (
            self.read == "last"
            and self.kind in _CLASSES
            and (bert or (self.family == "bloom" and self.kind in ("tag", "span")))
        )
        own = {spec.hf for spec in flatten(head_specs(self)).values()}
        labels = {"id2label": {str(i): f"LABEL_{i}" for i in range(self.num_labels)}} if self.num_labels else {}
        stem = re.sub(r"(For[A-Z]\w*|Model)$", "", layout.architecture)
        return dataclasses.replace(
            layout,
            architecture=stem + _CLASSES[self.kind] if exact else layout.architecture,
            config=dict(layout.config) | labels,
            # A pooler, of no use to the body alone, may be the head's.
            left_out={p: why for p, why in layout.left_out.items() if not any(re.fullmatch(p, name) for name in own)},
        )

    def network(self, params: Mapping[str, Any], constrain: Constrain | None = None) -> "Headed":
        """The network over `params`: `Classifier`, `Chooser`, `Tagger`, `SpanFinder` or `Embedder`, as `kind` says."""
        return _NETWORKS[self.kind](self, params, constrain)


def _is_bert(config: WithHead) -> bool:
    return config.family in ("xlmr", "mbert")


# XTREME's dual encoder starts from this factor itself, not its logarithm, and learns it.
_logit_scale = jax.nn.initializers.constant(100.0)


def head_specs(config: WithHead) -> dict[str, Any]:
    """Specs of the head. Names are transformers' where it has such a head, XTREME's of a dual encoder."""
    width, labels = config.width, config.num_labels or {"choose": 1, "span": 2}.get(config.kind)

    def array(hf: str, shape: tuple[int, ...], axes: tuple[str, ...], init: Initializer) -> ParamSpec:
        return ParamSpec(shape=shape, axes=axes, init=init, hf=hf, hf_transpose=len(shape) == 2, fresh=True)

    def dense(hf: str, size: int, axis: str) -> dict[str, ParamSpec]:
        return {
            "kernel": array(f"{hf}.weight", (width, size), ("embed", axis), normal_02),
            "bias": array(f"{hf}.bias", (size,), (axis,), zeros),
        }

    pooler = f"{config.encoder().huggingface().base_prefix}pooler.dense"
    if config.kind == "embed":
        specs = {"logit_scale": array("logit_scale", (1,), ("labels",), _logit_scale)}
        if config.pooler:
            specs["dense"] = dense(pooler, width, "embed")
    elif config.kind in ("tag", "span"):
        out = {"tag": "classifier", "span": "qa_outputs"}[config.kind]
        specs = {"out": dense(out, labels, "labels")}
    elif _is_bert(config) and (config.kind == "choose" or config.family == "mbert"):
        specs = {"dense": dense(pooler, width, "embed"), "out": dense("classifier", labels, "labels")}
    else:
        specs = {
            "dense": dense("classifier.dense", width, "embed"),
            "out": dense("classifier.out_proj", labels, "labels"),
        }
    if config.read == "attention":
        fan_in = variance_scaling("fan_in", "normal")
        square, axes = (width, width), ("embed", "embed")
        specs["layer_attention"] = {
            name: {"kernel": array(f"layer_attention.{name}.weight", square, axes, init)}
            for name, init in (("query", fan_in), ("key", fan_in), ("value", zeros))
        }
    return specs


class LayerAttention(nnx.Module):
    """A learned attention of each token over its own states in all layers, around which the last layer's goes.

    With x_l the state of a token in layer l = 0..L and n_l = x_l / rms(x_l):

        q = n_L Wq        k_l = n_l Wk        v_l = n_l Wv        (Wq, Wk, Wv: D x D)
        y = x_L + sum_l softmax_l(q . k_l / sqrt(D)) v_l

    Wv starts at zero, so that training starts from the last layer's reading exactly. Layers are divided by their root
    mean square because the residual stream of a pre-norm network grows with depth.

    After "feature aggregation" (arXiv 2205.08497), which fuses the layers of mBERT by an attention module; this is our
    formula of that idea, as the paper's own was not at hand.
    """

    def __init__(self, params: Mapping[str, Any], context: Context):
        self.query, self.key, self.value = (
            Dense(params[name], ("embed", "embed"), context) for name in ("query", "key", "value")
        )
        self.context = context

    def __call__(self, layers_LBSD: jax.Array) -> jax.Array:
        x32 = layers_LBSD.astype(jnp.float32)
        mean_square = jnp.mean(jnp.square(x32), axis=-1, keepdims=True)
        n_LBSD = (x32 * jax.lax.rsqrt(mean_square + NORM_EPSILON)).astype(self.context.dtype)
        # Products are joined so that nothing of the layers' size is made but n: q . (n_l Wk) = (q Wk^T) . n_l, and
        # the mean of the values is Wv of the mean.
        q_BSA = self.query(n_LBSD[-1])
        key_DA = self.context.weight(self.key.kernel, ("embed", "embed"))
        probe_BSD = (q_BSA.reshape(-1, q_BSA.shape[-1]) @ key_DA.T).reshape(q_BSA.shape)
        scores_LBS = jnp.einsum("lbsd,bsd->lbs", n_LBSD, probe_BSD, preferred_element_type=jnp.float32)
        shares_LBS = jax.nn.softmax(scores_LBS / math.sqrt(q_BSA.shape[-1]), axis=0).astype(self.context.dtype)
        mixed_BSD = jnp.einsum("lbs,lbsd->bsd", shares_LBS, n_LBSD)
        return layers_LBSD[-1] + self.value(mixed_BSD)


class Headed(nnx.Module):
    """A body and a head over the nested dict of parameters; what all kinds share.

    Inputs of every kind are those of `Encoder.encode`: tokens, segment ids, positions, token types and a dropout key,
    without packing: one example a row.
    """

    def __init__(self, config: WithHead, params: Mapping[str, Any], constrain: Constrain | None = None):
        head = params[HEAD]
        context = Context(jnp.dtype(config.dtype), config.dropout_rate, constrain or unconstrained)
        self.config = config
        self.context = context
        self.body = config.encoder().network({k: v for k, v in params.items() if k != HEAD}, constrain)
        self.layer_attention = LayerAttention(head["layer_attention"], context) if "layer_attention" in head else None
        self.dense = Dense(head["dense"], ("embed", "embed"), context) if "dense" in head else None
        f32 = dataclasses.replace(context, dtype=jnp.dtype("float32"))
        self.out = Dense(head["out"], ("embed", "labels"), f32) if "out" in head else None

    def encode(self, tokens_BS: jax.Array, **inputs) -> jax.Array:
        """The body's states; see `Encoder.encode`."""
        return self.body.encode(tokens_BS, **inputs)

    def _read(self, tokens_BS: jax.Array, **inputs) -> jax.Array:
        """The states that the head reads, x_BSD."""
        if self.config.read == "last":
            return self.body.encode(tokens_BS, **inputs)
        layers_LBSD = self.body.encode(tokens_BS, **inputs, all_layers=True)
        if self.layer_attention is None:
            return layers_LBSD[self.config.read]
        return self.context.constrain(self.layer_attention(layers_LBSD), ("batch", "length", "embed"))

    def _real(self, tokens_BS: jax.Array, segment_ids_BS: jax.Array | None) -> jax.Array:
        """bool [B, S], True where not padding."""
        return tokens_BS != self.config.pad_id if segment_ids_BS is None else segment_ids_BS != 0

    def _linear(self, x: jax.Array) -> jax.Array:
        return self.out(x.astype(jnp.float32))

    def _pooled_logits(
        self,
        tokens_BS: jax.Array,
        *,
        segment_ids_BS: jax.Array | None = None,
        dropout_key: jax.Array | None = None,
        **inputs,
    ) -> jax.Array:
        """f32 logits [B, C] of the vector that stands for each row. A row of padding alone gives finite ones."""
        body_key, key = (None, None) if dropout_key is None else jax.random.split(dropout_key)
        x_BSD = self._read(tokens_BS, segment_ids_BS=segment_ids_BS, dropout_key=body_key, **inputs)
        pooled_BD = pool(x_BSD, self._real(tokens_BS, segment_ids_BS), self.config.pooling).astype(x_BSD.dtype)
        x_B1D = self.context.constrain(pooled_BD, ("batch", "embed"))[:, None, :]
        keep_first, keep_last = self.context.masks(key, x_B1D.shape[0], self.config.width, self.config.width)
        x_B1D = jnp.tanh(self.dense(self.context.dropout(x_B1D, keep_first)))
        return self._linear(self.context.dropout(x_B1D, keep_last))[:, 0]


def pool(x_BSD: jax.Array, real_BS: jax.Array, pooling: str) -> jax.Array:
    """One vector a row, [B, D]: the first token's or the last real token's, in x's dtype, or the mean over real tokens,
    in f32 (zeros where there are none)."""
    if pooling == "first":
        return x_BSD[:, 0]
    if pooling == "mean":
        weights_BS = real_BS.astype(jnp.float32)
        sums_BD = jnp.einsum("bsd,bs->bd", x_BSD, weights_BS, preferred_element_type=jnp.float32)
        return sums_BD / jnp.maximum(jnp.sum(weights_BS, axis=1), 1.0)[:, None]
    last_B = jnp.max(jnp.where(real_BS, jnp.arange(x_BSD.shape[1]), 0), axis=1)
    return jnp.take_along_axis(x_BSD, last_B[:, None, None], axis=1)[:, 0]


class Classifier(Headed):
    """A label for each text."""

    def classify(self, tokens_BS: jax.Array, **inputs) -> jax.Array:
        """logits_BC, f32, C = num_labels."""
        return self._pooled_logits(tokens_BS, **inputs)


class Chooser(Headed):
    """A logit for each of several texts."""

    def choose(
        self,
        tokens_BCS: jax.Array,
        *,
        segment_ids_BCS: jax.Array | None = None,
        positions_BCS: jax.Array | None = None,
        token_types_BCS: jax.Array | None = None,
        dropout_key: jax.Array | None = None,
    ) -> jax.Array:
        """logits_BC, f32; a choice that is all padding does not exist and has the logit `layers.MASKED`."""

        def rows(x_BCS):
            return None if x_BCS is None else x_BCS.reshape(-1, x_BCS.shape[-1])

        logits_N1 = self._pooled_logits(
            rows(tokens_BCS),
            segment_ids_BS=rows(segment_ids_BCS),
            positions_BS=rows(positions_BCS),
            token_types_BS=rows(token_types_BCS),
            dropout_key=dropout_key,
        )
        present_BC = jnp.any(self._real(tokens_BCS, segment_ids_BCS), axis=-1)
        return jnp.where(present_BC, logits_N1.reshape(present_BC.shape), MASKED)


class Tagger(Headed):
    """A label for each token."""

    def tag(self, tokens_BS: jax.Array, *, dropout_key: jax.Array | None = None, **inputs) -> jax.Array:
        """logits_BSC, f32, C = num_labels. Which tokens are read is the data's choice. Rows may be packed."""
        body_key, key = (None, None) if dropout_key is None else jax.random.split(dropout_key)
        x_BSD = self._read(tokens_BS, dropout_key=body_key, **inputs)
        (keep,) = self.context.masks(key, x_BSD.shape[0], x_BSD.shape[1] * x_BSD.shape[2])
        return self._linear(self.context.dropout(x_BSD, keep))


class SpanFinder(Headed):
    """The first and the last token of a span."""

    def span(self, tokens_BS: jax.Array, *, segment_ids_BS: jax.Array | None = None, **inputs) -> jax.Array:
        """logits_BS2, f32: of starting at a token and of ending at it; `layers.MASKED` at padding."""
        x_BSD = self._read(tokens_BS, segment_ids_BS=segment_ids_BS, **inputs)
        return jnp.where(self._real(tokens_BS, segment_ids_BS)[:, :, None], self._linear(x_BSD), MASKED)


class Embedder(Headed):
    """A vector for each text; a query's nearest text is the one whose vector has the greatest cosine with its own."""

    def __init__(self, config: WithHead, params: Mapping[str, Any], constrain: Constrain | None = None):
        super().__init__(config, params, constrain)
        self.logit_scale = nnx.Param(params[HEAD]["logit_scale"])

    def embed(self, tokens_BS: jax.Array, *, segment_ids_BS: jax.Array | None = None, **inputs) -> jax.Array:
        """Vectors of norm 1, f32 [B, D]; a row of padding alone may have zeros in place of one."""
        x_BSD = self._read(tokens_BS, segment_ids_BS=segment_ids_BS, **inputs)
        pooled_BD = pool(x_BSD, self._real(tokens_BS, segment_ids_BS), self.config.pooling)
        if self.dense is not None:
            pooled_BD = jnp.tanh(self.dense(pooled_BD.astype(x_BSD.dtype)))
        y_BD = self.context.constrain(pooled_BD, ("batch", "embed")).astype(jnp.float32)
        return y_BD * jax.lax.rsqrt(jnp.maximum(jnp.sum(jnp.square(y_BD), axis=-1, keepdims=True), _TINY))

    def similarities(self, queries_BD: jax.Array, candidates_CD: jax.Array) -> jax.Array:
        """logits_BC, f32: the cosines of vectors as `embed` gives them, times the learned scale."""
        cosines_BC = jnp.einsum("bd,cd->bc", queries_BD, candidates_CD, precision=jax.lax.Precision.HIGHEST)
        return self.logit_scale[...] * cosines_BC


_NETWORKS = {"classify": Classifier, "choose": Chooser, "tag": Tagger, "span": SpanFinder, "embed": Embedder}
