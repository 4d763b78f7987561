"""Which intermediate tasks share data with which targets."""

from xtr.study.overlaps import foreign_languages, not_zero_shot, overlaps

TARGETS = {
    "xnli": ("mnli", "xnli.de", "xnli.en"),
    "xcopa": ("siqa", "copa", "xcopa.et"),
    "xquad": ("squad_v1", "xquad.de"),
    "mlqa": ("squad_v1", "mlqa.de"),
    "tydiqa": ("tydiqa.en", "tydiqa.fi"),
    "lareqa": ("lareqa.de",),
    "tatoeba": ("tatoeba.de",),
}
SQUAD = ("xquad", "mlqa", "lareqa")


def test_a_mixture_is_its_members():
    found = overlaps(
        {
            "anli_plus": ("snli", "mnli", "anli_r1"),
            "nine": ("mnli", "squad_v2", "qqp"),
            "squad_denoise": ("squad_v1", "text.corpus.de"),
            "qqp": ("qqp",),
            "social": ("siqa",),
            "tydi": ("tydiqa.en",),
            "own": ("my_nli",),
        },
        TARGETS,
    )
    assert found == {
        "anli_plus": ("xnli",),
        "nine": ("xnli", *SQUAD),
        "squad_denoise": SQUAD,
        "qqp": (),
        "social": ("xcopa",),
        "tydi": ("tydiqa",),
        "own": (),
    }


def test_a_target_by_another_name_is_known_by_what_it_reads():
    assert overlaps({"nli": ("mnli",)}, {"entailment": ("mnli", "xnli.de")}) == {"nli": ("entailment",)}
    assert overlaps({"qa": ("squad_v1",)}, {"rows": ("lareqa.de",)}) == {"qa": ("rows",)}


def test_plain_text_is_no_tasks_data():
    assert overlaps({"text": ("text.corpus.sw",)}, {"t": ("text.corpus.sw",)}) == {"text": ()}
    assert foreign_languages(("mnli", "text.corpus.sw", "panx.en", "mnli.ru", "mnli.de")) == ("de", "ru")


def test_translated_data_overlaps_and_is_not_zero_shot():
    trained = {"mnli_translated": ("mnli.de", "mnli.sw"), "qqp_translated": ("qqp.de",), "mnli": ("mnli",)}
    found = overlaps(trained, TARGETS)
    assert found == {"mnli_translated": ("xnli",), "qqp_translated": (), "mnli": ("xnli",)}
    assert not_zero_shot(trained, found) == [
        "mnli_translated is trained in de, sw, on data of xnli: after it these languages are not zero-shot there.",
        "qqp_translated is trained in de, not on English alone.",
    ]
