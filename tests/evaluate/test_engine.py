"""What the engine makes of several tasks at once."""

from types import SimpleNamespace

from xtr.evaluate import engine


def test_each_target_of_a_mixture_has_languages_of_its_own():
    infos = [("mlqa_en", "de", ["de", "es"]), ("mlqa_en", "es", ["de", "es"]), ("xnli", "sw", ["en", "sw"])]
    tasks = [SimpleNamespace(info={"group": g, "language": c, "languages": due}) for g, c, due in infos]
    own = engine._languages_due(SimpleNamespace(target=None), tasks)
    assert own == {"mlqa_en": ["de", "es"], "xnli": ["en", "sw"]}
    named = engine._languages_due(SimpleNamespace(target="all"), tasks)
    assert named == {"all": ["de", "en", "es", "sw"]}
