"""How each kind of example is rendered for each family: the one table of kinds x formats."""

from dataclasses import dataclass

from ..examples import Classification, MultipleChoice, Pair, Retrieval, SpanQA, Tagging, Text
from . import encoder, text2text
from .rendering import Rendering, Strings, TokenIds

FORMATS = ("text2text", "encoder")
KINDS = {
    Classification: "classification",
    MultipleChoice: "multiple_choice",
    SpanQA: "span_qa",
    Tagging: "tagging",
    Retrieval: "retrieval",
    Pair: "pairs",
    Text: "text",
}


@dataclass(frozen=True)
class Form:
    """One kind of example in one format.

    Attributes:
      rendering: how an example becomes tokens.
      predictor: how it is answered (see `TaskInfo`).
    """

    rendering: Rendering
    predictor: str


_TEXT = Form(Strings(text2text.plain_text, ("targets",), meta=False), "none")

# format -> kind (or a data set's own style) -> form.
_FORMS = {
    "text2text": {
        "classification": Form(Strings(text2text.nli), "rank"),
        "span_qa": Form(Strings(text2text.question_answering), "generate"),
        "retrieval": Form(Strings(text2text.retrieval, ("inputs",)), "embed"),
        "text": _TEXT,
    },
    "encoder": {
        "classification": Form(TokenIds(encoder.classification, labelled=True), "rank"),
        "retrieval": Form(TokenIds(encoder.retrieval), "embed"),
        # The same in every format: what is asked of a text is the training objective's choice.
        "text": _TEXT,
    },
}


def form_of(example_type: type, format: str, style: str = "") -> Form | None:
    """The form of a kind of example in a format; None where the format has none.

    Args:
      style: a rendering of a data set's own, such as 'nli'; where a format does not know it, the kind's is taken.
    """
    forms = _FORMS[format]
    return forms.get(style) or forms.get(KINDS[example_type])
