"""The finders of all data sets: what registration, `xtr data verify` and the TFDS catalogue go by."""

from collections.abc import Callable, Collection

from . import Found, Sources, catalogue
from .bucc import find_bucc2018
from .ccg import find_ccg
from .copa import find_copa, find_xcopa
from .lareqa import find_lareqa, find_lareqa_squad
from .mewslix import find_mewslix, find_mewslix_pairs
from .mlqa import find_mlqa
from .multichecklist import find_multichecklist
from .multiple_choice import find_commonsenseqa, find_cosmosqa, find_hellaswag, find_siqa
from .nli import find_anli, find_mnli, find_snli, find_xnli
from .paraphrase import find_pawsx, find_qqp
from .squad import find_squad, find_squad_v2, find_xquad
from .tagging import find_panx, find_udpos
from .tatoeba import find_tatoeba
from .tydiqa import find_tydiqa

# Data set -> its finder. Its tasks are named after it: `<data set>` or `<data set>.<language>` (ANLI's: `anli_r<n>`).
FINDERS: dict[str, Callable[[Sources], Found]] = {
    "mnli": find_mnli,
    "snli": find_snli,
    "anli": find_anli,
    "qqp": find_qqp,
    "squad_v1": find_squad,
    "squad_v2": find_squad_v2,
    "hellaswag": find_hellaswag,
    "ccg": find_ccg,
    "cosmosqa": find_cosmosqa,
    "commonsenseqa": find_commonsenseqa,
    "siqa": find_siqa,
    "copa": find_copa,
    "xnli": find_xnli,
    "pawsx": find_pawsx,
    "xcopa": find_xcopa,
    "udpos": find_udpos,
    "panx": find_panx,
    "xquad": find_xquad,
    "mlqa": find_mlqa,
    "tydiqa": find_tydiqa,
    "tatoeba": find_tatoeba,
    "lareqa": find_lareqa,
    "lareqa_squad": find_lareqa_squad,
    "mewslix": find_mewslix,
    "mewslix_pairs": find_mewslix_pairs,
    "bucc2018": find_bucc2018,
    "multichecklist": find_multichecklist,
}


def find(name: str, sources: Sources, tfds_tasks: Collection[str] = ()) -> Found:
    """Finds a data set in its official files or, where it is one of `tfds_tasks`, in TensorFlow Datasets."""
    found = FINDERS[name](sources)
    return catalogue.find(name, sources, found) if name in tfds_tasks else found
