import pytest

from xtr import coverage
from xtr.errors import DataError
from xtr.tasks import benchmarks
from xtr.tasks.datasets import Sources

# google-research/xtreme, evaluate.py.
XTREME = dict(xnli=15, pawsx=7, udpos=33, panx=40, xquad=11, mlqa=7, tydiqa=9, bucc2018=4, tatoeba=36)
XTREME_R = dict(xnli=15, xcopa=11, udpos=38, panx=48, xquad=12, mlqa=7, tydiqa=9, tatoeba=41, lareqa=11, mewslix=11)


def test_the_lists_are_as_long_as_the_official_ones_and_name_nothing_twice():
    for lists, lengths in ((benchmarks.XTREME, XTREME), (benchmarks.XTREME_R, XTREME_R)):
        split = {target: codes.split() for target, codes in lists.items()}
        assert {target: len(codes) for target, codes in split.items()} == lengths
        assert all(len(set(codes)) == len(codes) for codes in split.values())


def test_together_they_are_the_fifty_languages_of_xtreme_r():
    union = {code for codes in benchmarks.XTREME_R.values() for code in codes.split()}
    assert union == set(coverage.XTREME_R_LANGUAGES) and len(union) == 50
    assert {code for codes in benchmarks.XTREME.values() for code in codes.split()} <= union


def test_data_may_bring_their_own_languages(tmp_path):
    assert set(benchmarks.languages(Sources((tmp_path,)))) == {*XTREME, *XTREME_R, "multichecklist"}
    (tmp_path / "languages.json").write_text('{"xnli": ["qab", "en"]}')
    assert benchmarks.languages(Sources((tmp_path,))) == {"xnli": ("en", "qab")}
    for wrong in ('["en"]', '{"xnli": "en"}', '{"xnli": [1]}'):
        (tmp_path / "languages.json").write_text(wrong)
        with pytest.raises(DataError, match="languages.json"):
            benchmarks.languages(Sources((tmp_path,)))
