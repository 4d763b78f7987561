"""The finders of all data sets: what registration, `xtr data verify` and the TFDS catalogue go by."""

from collections.abc import Callable

from . import Found, Sources
from .nli import find_mnli, find_xnli
from .squad import find_squad, find_xquad
from .tatoeba import find_tatoeba

# Data set -> its finder. Its tasks are named after it: `<data set>` or `<data set>.<language>`.
FINDERS: dict[str, Callable[[Sources], Found]] = {
    "mnli": find_mnli,
    "squad_v1": find_squad,
    "xnli": find_xnli,
    "xquad": find_xquad,
    "tatoeba": find_tatoeba,
}
