"""Special tokens around texts: how a text or a pair is framed, and how it is cut without losing the frame."""

from collections.abc import Sequence

import numpy as np

from xtr.data.vocabulary import Vocabulary
from xtr.errors import UserError

_NEWLINE = "\n"


def frame(vocabulary: Vocabulary, *texts: Sequence[int]) -> tuple[list[int], list[int], list[int]]:
    """The tokens of one text or of two as the family's pretraining has them.

    Where the family puts nothing around or between two texts (BLOOM), a newline stands between them.

    Returns:
      Tokens, special ones included; their types, 0 or 1; and start and end of each text's own tokens.
    """
    # What the special tokens around texts are is seen where the texts are one mark each.
    marks = [-1 - i for i in range(len(texts))]
    marked, _ = vocabulary.with_special_tokens(*([mark] for mark in marks))
    joint = vocabulary.encode(_NEWLINE) if len(marked) == len(texts) == 2 else []
    tokens, types = vocabulary.with_special_tokens([*texts[0], *joint], *texts[1:])
    spans, shift = [], 0
    for mark, text in zip(marks, texts, strict=True):
        start = marked.index(mark) + shift
        spans += [start, start + len(text)]
        shift += len(text) - 1 + len(joint)
    return tokens, types, spans


def longest_first(text_spans: Sequence[int], size: int, length: int) -> np.ndarray:
    """The places of the tokens that stay when an example of `size` tokens is cut to `length`: int64, ascending.

    Special tokens all stay. Of two texts the longer one loses tokens at its end until both are equally long, then both
    do; an odd token goes to the longer text, or to the second one of two equals (Hugging Face's 'longest_first', as
    the tokenizers library does it).

    Args:
      text_spans: start and end of the one text's own tokens, or of both texts', see `frame`.

    Raises:
      UserError: `length` has no room for the special tokens.
    """
    places = np.arange(size)
    if size <= length:
        return places
    starts, ends = np.asarray(text_spans, np.int64).reshape(-1, 2).T
    own, room = ends - starts, room_of(text_spans, size, length)
    kept = np.array([room])
    if len(own) == 2:
        short = int(own.argmin())  # the first of equals
        kept = np.full(2, room)
        kept[short] = min(own[short], room // 2)
        kept[1 - short] -= kept[short]
    gone = np.concatenate([np.arange(start + k, end) for start, k, end in zip(starts, kept, ends, strict=True)])
    return np.delete(places, gone)


def room_of(text_spans: Sequence[int], size: int, length: int) -> int:
    """What special tokens leave of `length` for an example's texts. UserError where they do not fit themselves."""
    special = size - sum(text_spans[1::2]) + sum(text_spans[::2])
    if special > length:
        raise UserError(f"{length} tokens have no room for the {special} special tokens of a text: use longer rows.")
    return length - int(special)
