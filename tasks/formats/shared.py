"""What formats have in common: the prompt of choices, and what evaluation must know of an example."""

from ..examples import MultipleChoice, Retrieval, SpanQA, Tagging


def prompt(example: MultipleChoice) -> str:
    """Returns context and question with a space between them, or the one that there is."""
    return " ".join(part for part in (example.context, example.question) if part)


def qa_meta(example: SpanQA) -> dict:
    """Returns what the official metrics need: the gold answers and where each begins in the raw context."""
    return {
        "id": example.id,
        "answers": [answer.text for answer in example.answers],
        "answer_starts": [answer.start for answer in example.answers],
        "context": example.context,
        "answerable": example.answerable,
    }


def tagging_meta(example: Tagging) -> dict:
    """Returns the words and their tags."""
    return {"id": example.id, "tokens": list(example.tokens), "tags": list(example.tags)}


def retrieval_meta(example: Retrieval) -> dict:
    """Returns the ids of what is to be found, a bare one where it is one."""
    gold = example.gold[0] if len(example.gold) == 1 else list(example.gold)
    return {"id": example.id, "gold": gold}
