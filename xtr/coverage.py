"""Which of XTREME-R's languages each model family was pretrained on.

Sources: google-research/xtreme (the languages); of the pretraining corpora, multilingual-t5's README (mT5), the model
cards of google/umt5-* (umT5), fairseq's examples/xlmr (XLM-R), google-research/bert's multilingual.md with Thai and
Mongolian of the "Cased (New)" release (mBERT), and bigscience's ROOTS ratios (BLOOM).
"""

# The union over all tasks of XTREME-R.
_LANGUAGES = (
    "af ar az bg bn de el en es et eu fa fi fr gu he hi ht hu id it ja jv ka kk ko lt ml mr ms my nl pa pl pt qu ro ru"
    " sw ta te th tl tr uk ur vi wo yo zh"
)
XTREME_R_LANGUAGES = tuple(_LANGUAGES.split())
_BLOOM = "ar bn en es eu fr gu hi id ml mr pa pt sw ta te ur vi wo yo zh"
_LACKING = {
    "mt5": frozenset({"qu", "wo"}),
    "umt5": frozenset({"qu", "wo"}),
    "xlmr": frozenset({"ht", "qu", "wo", "yo"}),
    "mbert": frozenset({"qu", "wo"}),
    "bloom": frozenset(XTREME_R_LANGUAGES) - frozenset(_BLOOM.split()),
}


def covered(family: str) -> tuple[str, ...]:
    """The XTREME-R languages in a family's pretraining corpus, in alphabetical order."""
    return tuple(language for language in XTREME_R_LANGUAGES if language not in _LACKING[family])


def lacking(family: str) -> tuple[str, ...]:
    """The XTREME-R languages that a family never saw in pretraining, in alphabetical order."""
    return tuple(language for language in XTREME_R_LANGUAGES if language in _LACKING[family])
