"""Which format of the data a model reads: the one place that says so."""

from collections.abc import Sequence

TEXT2TEXT, CAUSAL, ENCODER = "text2text", "causal", "encoder"
FORMATS = (TEXT2TEXT, CAUSAL, ENCODER)

# What a model that writes answers to a question that its passage does not answer (SQuAD 2.0).
UNANSWERABLE = "unanswerable"


def format_of(objectives: Sequence[str]) -> str:
    """The format for a model with these training objectives (`ModelConfig.objectives`).

    'text2text' (strings in, strings out) for a whole mT5; 'causal' (a prompt, and the string that continues it) for
    BLOOM; 'encoder' (token ids with special tokens, and labels) for what does not write: XLM-R, mBERT, mT5's encoder,
    and any model with a head.
    """
    by_objective = {"seq2seq": TEXT2TEXT, "causal": CAUSAL}
    return next((form for name, form in by_objective.items() if name in objectives), ENCODER)
