"""The finders of all data sets: what registration, `xtr data verify` and the TFDS catalogue go by."""

from collections.abc import Callable, Collection

from . import Found, Sources, catalogue
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


def find(name: str, sources: Sources, tfds_tasks: Collection[str] = ()) -> Found:
    """Finds a data set in its official files or, where it is one of `tfds_tasks`, in TensorFlow Datasets."""
    found = FINDERS[name](sources)
    return catalogue.find(name, sources, found) if name in tfds_tasks else found
