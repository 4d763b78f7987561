"""How each kind of example is rendered for each family: the one table of kinds x formats."""

import functools
from dataclasses import dataclass
from types import ModuleType

from xtr.data.formats import CAUSAL, FORMATS

from ..examples import KINDS
from . import causal, encoder, text2text
from .rendering import Rendering, Strings, TokenIds

__all__ = ["FORMATS", "STYLES", "Form", "form_of", "has_eos", "labelled_form"]


@dataclass(frozen=True)
class Form:
    """One kind of example in one format.

    Attributes:
      rendering: how an example becomes tokens.
      predictor: how it is answered (see `TaskInfo`).
    """

    rendering: Rendering
    predictor: str


# The same in every format: what is asked of a text is the training objective's choice. It has inputs, none of them, so
# that SeqIO mixes it with other tasks.
_TEXT = Form(Strings(text2text.plain_text, ("inputs", "targets"), meta=False, without_eos=("inputs",)), "none")
_RAW_RETRIEVAL = Form(Strings(text2text.retrieval, ("inputs",)), "embed")



def _written(module: ModuleType) -> dict[str, Form]:
    """The forms of a format whose models write."""
    return {
        "nli": Form(Strings(module.nli), "rank"),
        "paws": Form(Strings(module.paws), "rank"),
        "qqp": Form(Strings(module.qqp), "rank"),
        "multiple_choice": Form(Strings(module.multiple_choice), "rank"),
        "span_qa": Form(Strings(module.question_answering), "generate"),
        "tagging": Form(Strings(module.tagging), "generate"),
        "retrieval": _RAW_RETRIEVAL,
        "text": _TEXT,
    }


# format -> kind (or a data set's own style) -> form.
_FORMS = {
    "text2text": _written(text2text) | {"mt5_spans": Form(Strings(text2text.entity_texts), "generate")},
    "causal": _written(causal),
    "encoder": {
        "classification": Form(TokenIds(encoder.classification), "rank"),
        "one_text": Form(TokenIds(encoder.one_text), "rank"),
        "multiple_choice": Form(TokenIds(encoder.multiple_choice), "rank"),
        "tagging": Form(TokenIds(encoder.tagging, label_names=True), "tag"),
        "span_qa": Form(TokenIds(encoder.span_qa), "span"),
        "pairs": Form(TokenIds(encoder.pair), "none"),
        "retrieval": Form(TokenIds(encoder.retrieval), "embed"),
        "text": _TEXT,
    },
}


STYLES = tuple(sorted(set(_FORMS["text2text"]) - set(KINDS.values())))


def labelled_form(format: str, task: str, names: tuple[str, str, str]) -> Form:
    """The form of texts with labels of any task: its strings name the task, the texts and the label.

    Args:
      names: what text_a, text_b ('' where there are none) and the label are called.
    """
    functions = {"text2text": text2text.labelled, "causal": causal.labelled}
    if format not in functions:
        return _FORMS[format]["classification" if names[1] else "one_text"]
    return Form(Strings(functools.partial(functions[format], task=task, names=names)), "rank")


def form_of(example_type: type, format: str, style: str = "") -> Form | None:
    """The form of a kind of example in a format; None where the format has none.

    Args:
      style: a rendering of a data set's own, such as 'nli'; where a format does not know it, the kind's is taken.
    """
    forms = _FORMS[format]
    return forms.get(style) or forms.get(KINDS[example_type])


def has_eos(format: str, feature: str) -> bool:
    """Whether a feature of strings ends in EOS: every one but a prompt, which its target continues."""
    return not (format == CAUSAL and feature == "inputs")
