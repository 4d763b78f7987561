"""Several heads on one body: what a mixture of tasks of different kinds needs of an encoder.

Every batch is of one head's tasks, as in jiant. The states of the body are shared; a head that a batch is not of gets
no gradient from it.
"""

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from xtr.errors import UserError, did_you_mean
from xtr.models.heads import HEAD, KINDS, OnBody, WithHead, head_specs
from xtr.models.interface import ModelConfig
from xtr.models.layers import Constrain
from xtr.models.spec import HuggingFaceLayout, map_specs

MULTITASK = "multitask"  # the objective of a model with several heads
MLM = "mlm"
_KINDS = (*(kind for kind in KINDS if kind != "embed"), MLM)


@dataclass(frozen=True)
class WithHeads(OnBody):
    """A model with several heads; itself a `ModelConfig`.

    Attributes:
      body: the family's config; of an encoder-decoder the encoder is used alone.
      heads: name -> kind, or (kind, number of labels); kept as a tuple of pairs. The kinds are those of `WithHead`
        but 'embed', and 'mlm': masked tokens, by the body's own head for them.
      read: for all heads, see `WithHead`.

    Raises:
      UserError: a value that does not fit.
    """

    body: ModelConfig
    heads: tuple[tuple[str, Any], ...]
    read: str | int = "last"

    def __post_init__(self):
        pairs = self.heads.items() if isinstance(self.heads, Mapping) else self.heads
        object.__setattr__(self, "heads", tuple((str(n), (k,) if isinstance(k, str) else tuple(k)) for n, k in pairs))
        if not self.heads:
            raise UserError("WithHeads.heads (HEADS) is empty; give it as {'nli': ('classify', 3), 'span': 'span'}.")
        for name, (kind, *_) in self.heads:
            if not name.isidentifier():
                raise UserError(f"WithHeads.heads (HEADS): {name!r} cannot be a name: use letters, digits and '_'.")
            if kind not in _KINDS:
                raise UserError(
                    f"WithHeads.heads (HEADS): the head {name!r} must be one of {', '.join(_KINDS)}, not {kind!r}."
                    + did_you_mean(str(kind), _KINDS)
                )
            if kind == MLM and MLM not in self.body.objectives:
                raise UserError(
                    f"WithHeads.heads (HEADS): the head {name!r} is 'mlm', but this {self.body.family} has no head for "
                    "masked tokens: XLM-R and mBERT have one with bert.BertConfig.mlm_head = True."
                )
        for name in self.names:
            self.head(name)

    @property
    def names(self) -> tuple[str, ...]:
        """Names of the heads."""
        return tuple(name for name, _ in self.heads)

    def head(self, name: str) -> WithHead | ModelConfig:
        """The model with this head alone; for 'mlm' the body itself."""
        kind, *labels = dict(self.heads)[name]
        return self.body if kind == MLM else WithHead(self.body, kind, *labels, read=self.read)

    def on(self, name: str) -> "OneHead":
        """The whole model as a batch of this head's tasks sees it."""
        return OneHead(self, name)

    def head_for(self, objective: str, num_labels: int | None) -> str | None:
        """The name of the head with this objective and, where it has labels, so many; None where there is none."""
        for name in self.names:
            head = self.head(name)
            if objective in head.objectives and getattr(head, "num_labels", None) in (None, num_labels):
                return name
        return None

    @property
    def objectives(self) -> tuple[str, ...]:
        """All of the heads' in one run."""
        return (MULTITASK,)

    def param_specs(self) -> dict[str, Any]:
        """The specs of the body's encoder (with its head for masked tokens where that is used), and those of each head
        below 'head/<name>', which checkpoints may lack."""
        masked = MLM in (kind for _, (kind, *_) in self.heads)
        body = self.body.param_specs() if masked else self.body_specs()
        own = {}
        for name, (kind, *_) in self.heads:
            if kind != MLM:
                # Beside each other, heads of one kind would have one name.
                own[name] = map_specs(
                    lambda spec, name=name: dataclasses.replace(spec, hf=f"heads.{name}.{spec.hf}"),
                    head_specs(self.head(name)),
                )
        return body | ({HEAD: own} if own else {})

    def huggingface(self) -> HuggingFaceLayout:
        """The body's layout; Hugging Face has no class with several heads."""
        return self.body.huggingface()

    def network(self, params: Mapping[str, Any], constrain: Constrain | None = None) -> Any:
        """The body's encoder; a head is had from `on(name)`."""
        body = {name: value for name, value in params.items() if name != HEAD}
        return self.body.encoder().network(body, constrain)


@dataclass(frozen=True)
class OneHead:
    """All parameters of a model with several heads, and the network of one of them: a `ModelConfig` to train with."""

    whole: WithHeads
    name: str

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):  # whoever copies or pickles this asks before there is a `whole`
            raise AttributeError(name)
        return getattr(self.whole, name)

    @property
    def alone(self) -> WithHead | ModelConfig:
        """The model with this head and no other."""
        return self.whole.head(self.name)

    @property
    def objectives(self) -> tuple[str, ...]:
        """The head's."""
        return self.alone.objectives

    @property
    def num_labels(self) -> int | None:
        """The head's labels."""
        return getattr(self.alone, "num_labels", None)

    def network(self, params: Mapping[str, Any], constrain: Constrain | None = None) -> Any:
        """The body with this head alone over the parameters of all."""
        body = {name: value for name, value in params.items() if name != HEAD}
        own = params.get(HEAD, {}).get(self.name)
        return self.alone.network(body if own is None else body | {HEAD: own}, constrain)
