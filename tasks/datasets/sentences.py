"""English sentences of encyclopedic prose."""

import re
from collections.abc import Iterator

# A possible end: the mark and what closes after it, Wikipedia's notes ("[citation needed]", "[12]"), white space, and
# what a sentence begins with.
_END = re.compile(
    r"""(?P<mark>[.?!][.?!)'"\u201d\u2019\]]*)(?P<notes>(?:\[[a-zA-Z0-9 ?]+\])*)(?P<space>\s+)"""
    r"""(?=(?P<next>[\["'(\u201c\u2018]*[A-Z0-9\u2022]\S*))"""
)
_WORD = re.compile(r"[^\s(\[\"\u201c-]*$")
# Abbreviations that a name follows, and those that end no sentence where a number (or Roman one) follows.
_BEFORE_NAMES = frozenset(
    re.split(
        " ", "Mr Mrs Ms Dr Prof Rev Fr St Mt Ft Gen Col Maj Adm Capt Lt Sgt Gov Sen Rep Pres Jan Aug Oct Nov Dec "
        "v vs cf p pp e.g i.e approx est",
    )
)  # fmt: skip
_BEFORE_NUMBERS = frozenset(re.split(" ", "No no Art art Vol vol Op Opp Sec Rec ch cl ca c b d r fl al H.R Rs U.S"))
_NUMBER = re.compile(r"\(?(?:\d|[IVXLC]+\b)")
_INITIALS = re.compile(r"(?:[A-Z]\.)*[A-Z]")
_NAME = re.compile(r"[A-Z](?:[a-z]|\.(?:\s|$))")
# Words with a capital that are no name: an initial before them ends its sentence.
_NO_NAMES = frozenset(
    re.split(" ", "The This That These It In On By As During After Under Although Yet However Meanwhile Several")
)


def sentences(text: str) -> Iterator[tuple[int, int]]:
    """Yields (start, end), in code points, of the sentences of a text, without the white space around them.

    A sentence ends at '.', '?' or '!' (and what closes behind it) before white space and a capital or a digit, maybe in
    quotes or brackets, but not after an abbreviation or an initial.
    """
    start = len(text) - len(text.lstrip())
    for end in _END.finditer(text):
        if not _continues(text[start : end.start("mark")], end["mark"], end["next"]):
            yield start, end.end("notes")
            start = end.start("next")
    if text[start:].rstrip():
        yield start, len(text.rstrip())


def _continues(before: str, mark: str, following: str) -> bool:
    """Whether the sentence goes on after a full stop: behind an abbreviation or an initial, before a name or number."""
    if mark != ".":
        return False
    word = _WORD.search(before)[0]
    if word in _BEFORE_NAMES:
        return True
    if word in _BEFORE_NUMBERS and _NUMBER.match(following):
        return True
    name = following.removeprefix('"')
    return bool(_INITIALS.fullmatch(word)) and bool(_NAME.match(name)) and name.strip(",") not in _NO_NAMES
