"""The words of a sentence and their tags as text, and the tags back: for models that write.

Words are numbered from 1 in what a model reads ('1: Ada 2: lives 3: in 4: Paris'), and it writes number and tag of each
word ('1 B-PER 4 B-LOC'; 'O' is never written). So places are not lost, as they are where a model writes the entities'
words, and what it writes can be scored by the official metrics of tags.
"""

from collections import Counter
from collections.abc import Sequence

OUTSIDE = "O"
NOTHING = "None"  # no word has a tag to be written
_OTHER = "X"  # UPOS's tag for words that cannot be assigned another
_MOST_DIGITS = 9  # Python refuses to convert thousands of digits


def number_words(words: Sequence[str]) -> str:
    """Returns '1: word 2: word ...', the words as they are."""
    return " ".join(f"{number}: {word}" for number, word in enumerate(words, 1))


def render_tags(tags: Sequence[str]) -> str:
    """Returns '1 tag 2 tag ...' without the words tagged 'O'; 'None' where no word is left.

    Args:
      tags: one a word; no tag holds white space or is a number.
    """
    return " ".join(f"{number} {tag}" for number, tag in enumerate(tags, 1) if tag != OUTSIDE) or NOTHING


def parse_tags(text: str, n_words: int, label_names: Sequence[str]) -> tuple[list[str], Counter]:
    """Reads what `render_tags` writes, or anything else that a model may have written in its place.

    Args:
      text: the model's text.
      n_words: words of the sentence.
      label_names: the tags that exist, at least one. Where 'O' is one (entities), not every word's is written.

    Returns:
      (n_words tags, what was wrong). A word for which no tag was read has 'O', where that exists, or else 'X', or else
      the last of `label_names`. Of several tags of a word the first counts. Wrong are, each counted if it occurs:
        'stray': a text that is neither a number nor the tag behind one, or a number without a tag;
        'unknown_tag': what follows a number is no tag;
        'out_of_range': a tag for a number that no word has;
        'duplicate': a tag for a word that has one;
        'missing': a word for which no tag was read, where every word needs one.
    """
    known = set(label_names)
    default = OUTSIDE if OUTSIDE in known else _OTHER if _OTHER in known else label_names[-1]
    found: dict[int, str] = {}
    problems: Counter = Counter()
    number: int | None = None
    pieces = text.split()
    for piece in [] if pieces == [NOTHING] else pieces:
        if piece.isascii() and piece.isdecimal():
            problems["stray"] += number is not None
            number = int(piece) if len(piece) <= _MOST_DIGITS else 0
            continue
        if number is None:
            problems["stray"] += 1
        elif piece not in known:
            problems["unknown_tag"] += 1
        elif not 1 <= number <= n_words:
            problems["out_of_range"] += 1
        elif number in found:
            problems["duplicate"] += 1
        else:
            found[number] = piece
        number = None
    problems["stray"] += number is not None
    if OUTSIDE not in known:
        problems["missing"] += n_words - len(found)
    return [found.get(number, default) for number in range(1, n_words + 1)], +problems
