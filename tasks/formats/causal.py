"""Rendering for causal language models: a prompt in English, whatever the language of the text, and its continuation.

A prompt ends in ':' and a target begins with a space: byte-level BPE that cuts words before a space, as BLOOM's does,
then has the same tokens for both one behind the other as for the whole text, so that a model reads what it has read in
pretraining. No EOS stands between them (see `formats.has_eos`). A prompt that is too long loses its beginning, so what
is asked stands behind what it is asked about.
"""

import string

from xtr.data.formats import UNANSWERABLE
from xtr.data.tag_text import number_words, render_tags

from ..examples import Classification, MultipleChoice, SpanQA, Tagging
from .shared import prompt, qa_meta, tagging_meta
from .text2text import Rendered, choice

_ENTAILED = (" Yes", " Maybe", " No")  # entailment, neutral, contradiction
_SAME = (" No", " Yes")


def nli(example: Classification) -> Rendered:
    """Asks whether the hypothesis follows from the premise: ' Yes', ' Maybe' or ' No'."""
    inputs = (
        f"{example.text_a}\nStatement: {example.text_b}\n"
        "Is the statement true, given the text above it? Yes, No or Maybe. Answer:"
    )
    return choice(inputs, example, _ENTAILED)


def paws(example: Classification) -> Rendered:
    """Asks whether two sentences have the same meaning: ' No' or ' Yes'."""
    inputs = (
        f"Sentence 1: {example.text_a}\nSentence 2: {example.text_b}\n"
        "Do both sentences have the same meaning? Yes or No. Answer:"
    )
    return choice(inputs, example, _SAME)


def qqp(example: Classification) -> Rendered:
    """Asks whether two questions ask the same: ' No' or ' Yes'."""
    inputs = (
        f"Question 1: {example.text_a}\nQuestion 2: {example.text_b}\n"
        "Do both questions ask for the same thing? Yes or No. Answer:"
    )
    return choice(inputs, example, _SAME)


def labelled(example: Classification, *, task: str, names: tuple[str, str, str]) -> Rendered:
    """Asks for the name of a label, after the texts; an empty second text is left out.

    Args:
      task: plays no part.
      names: what text_a, text_b and the label are called.
    """
    texts = [f"{name}: {text}\n" for name, text in zip(names, (example.text_a, example.text_b), strict=False) if text]
    listed = ", ".join(example.label_names)
    labels = [f" {name}" for name in example.label_names]
    return choice(f"{''.join(texts)}{names[2]} (one of {listed}):", example, labels)


def multiple_choice(example: MultipleChoice) -> Rendered:
    """Lists the choices under letters, and asks for the letter: ' A', ' B', ..."""
    letters = string.ascii_uppercase[: len(example.choices)]
    listed = "".join(f"{letter}. {text}\n" for letter, text in zip(letters, example.choices, strict=True))
    return choice(f"{prompt(example)}\n{listed}Best choice:", example, [f" {letter}" for letter in letters])


def question_answering(example: SpanQA) -> Rendered:
    """Asks about a passage: the first answer as it is, or ' unanswerable'."""
    answer = example.answers[0].text if example.answerable else UNANSWERABLE
    inputs = f"{example.context}\nQuestion: {example.question}\nAnswer:"
    return Rendered(inputs, f" {answer}", qa_meta(example))


def tagging(example: Tagging) -> Rendered:
    """Asks for the tags of numbered words (see `xtr.data.tag_text`)."""
    inputs = f"Words: {number_words(example.tokens)}\nTags:"
    return Rendered(inputs, f" {render_tags(example.tags)}", tagging_meta(example))
