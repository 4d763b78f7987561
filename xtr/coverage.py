"""The languages of XTREME and XTREME-R, and which of them each model family was pretrained on.

Sources: the language lists of google-research/xtreme's evaluate.py (it lists none for LAReQA; those are XQuAD-R's); of
the pretraining corpora, multilingual-t5's README (mT5), the model cards of google/umt5-* (umT5), fairseq's
examples/xlmr (XLM-R), google-research/bert's multilingual.md with Thai and Mongolian of the "Cased (New)" release
(mBERT), and bigscience's ROOTS ratios (BLOOM).
"""

# Target -> its languages.
XTREME = {
    "xnli": "ar bg de el en es fr hi ru sw th tr ur vi zh",
    "pawsx": "de en es fr ja ko zh",
    "udpos": "af ar bg de el en es et eu fa fi fr he hi hu id it ja kk ko mr nl pt ru ta te th tl tr ur vi yo zh",
    "panx": "af ar bg bn de el en es et eu fa fi fr he hi hu id it ja jv ka kk ko ml mr ms my nl pt ru sw ta te th tl "
    "tr ur vi yo zh",
    "xquad": "ar de el en es hi ru th tr vi zh",
    "mlqa": "ar de en es hi vi zh",
    "tydiqa": "ar bn en fi id ko ru sw te",
    "bucc2018": "de fr ru zh",
    "tatoeba": "af ar bg bn de el es et eu fa fi fr he hi hu id it ja jv ka kk ko ml mr nl pt ru sw ta te th tl tr ur "
    "vi zh",
}
XTREME_R = {
    "xnli": XTREME["xnli"],
    "xcopa": "et ht id it qu sw ta th tr vi zh",
    "udpos": XTREME["udpos"] + " lt pl ro uk wo",
    "panx": XTREME["panx"] + " az gu lt pa pl qu ro uk",
    "xquad": XTREME["xquad"] + " ro",
    "mlqa": XTREME["mlqa"],
    "tydiqa": XTREME["tydiqa"],
    "tatoeba": XTREME["tatoeba"] + " az lt pl ro uk",
    "lareqa": "ar de el en es hi ru th tr vi zh",
    "mewslix": "ar de en es fa ja pl ro ta tr uk",
}

XTREME_R_LANGUAGES = tuple(sorted({code for codes in XTREME_R.values() for code in codes.split()}))
_BLOOM = "ar bn en es eu fr gu hi id ml mr pa pt sw ta te ur vi wo yo zh"
_LACKING = {
    "mt5": frozenset({"qu", "wo"}),
    "umt5": frozenset({"qu", "wo"}),
    "xlmr": frozenset({"ht", "qu", "wo", "yo"}),
    "mbert": frozenset({"qu", "wo"}),
    "bloom": frozenset(XTREME_R_LANGUAGES) - frozenset(_BLOOM.split()),
}
FAMILIES = tuple(_LACKING)


def covered(family: str) -> tuple[str, ...]:
    """The XTREME-R languages in a family's pretraining corpus, in alphabetical order."""
    return tuple(language for language in XTREME_R_LANGUAGES if language not in _LACKING[family])


def lacking(family: str) -> tuple[str, ...]:
    """The XTREME-R languages that a family never saw in pretraining, in alphabetical order."""
    return tuple(language for language in XTREME_R_LANGUAGES if language in _LACKING[family])
