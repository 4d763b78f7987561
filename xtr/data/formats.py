"""Which format of the data a model reads: the one place that says so."""

from collections.abc import Sequence

TEXT2TEXT, ENCODER = "text2text", "encoder"
FORMATS = (TEXT2TEXT, ENCODER)


def format_of(objectives: Sequence[str]) -> str:
    """The format for a model with these training objectives (`ModelConfig.objectives`).

    'text2text' (strings in, strings out) for what writes text: a whole mT5, BLOOM. 'encoder' (token ids with special
    tokens, and labels) for what does not: XLM-R, mBERT, mT5's encoder, and any model with a head.
    """
    return TEXT2TEXT if {"seq2seq", "causal"} & set(objectives) else ENCODER
