"""Every family's vocabulary against Hugging Face's tokenizer, on the Declaration of Human Rights in every language."""

import unicodedata
from collections import Counter

import pytest
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

from xtr.data.vocabulary import read_vocabulary
from xtr.data.vocabulary_training import train
from xtr.tasks.datasets.text import read_udhr

FILES = {
    "t5": "tokenizers/mt5_reduced/sentencepiece_cn.model",
    "xlmr": "tokenizers/xlmr/sentencepiece.bpe.model",
    "wordpiece": "tokenizers/mbert/mbert_modified_vocab.txt",
}
KINDS = (*FILES, "bpe")
PAGE = 3000  # characters


@pytest.fixture(scope="module")
def documents(data_dir) -> dict[str, str]:
    """The whole text of each language's file, by the file's name."""
    files = sorted((data_dir / "text" / "udhr").glob("udhr_*.xml"))
    if not files:
        pytest.skip(f"{data_dir / 'text' / 'udhr'} holds no udhr_*.xml")
    return {path.name: next(read_udhr((path,), Counter())).text for path in files}


@pytest.fixture(scope="module")
def pages(documents) -> dict[str, str]:
    return {name: text[: PAGE if len(text) <= PAGE else text.rindex("\n", 0, PAGE)] for name, text in documents.items()}


@pytest.fixture(scope="module")
def vocabulary_of(data_dir, documents, tmp_path_factory):
    """`vocabulary_of(kind)`: the path of a family's vocabulary; BLOOM's form of it is trained on the documents."""
    made = {}

    def path_of(kind: str):
        if kind == "bpe":
            if kind not in made:
                made[kind] = tmp_path_factory.mktemp("bloom") / "tokenizer.json"
                made[kind].write_bytes(train("bpe", documents.values(), 5000))
            return made[kind]
        path = data_dir / FILES[kind]
        if not path.is_file():
            pytest.skip(f"{path} is not there")
        return path

    return path_of


def mismatches(vocabulary, reference, texts: dict[str, str]) -> dict[str, str]:
    """What differs from the reference in which text."""
    wrong = {}
    names = sorted(texts)
    for name, after in zip(names, names[1:] + names[:1], strict=True):
        text, other = texts[name], texts[after]
        ids = vocabulary.encode(text)
        if ids != reference.encode(text, add_special_tokens=False):
            wrong[name] = "ids"
            continue
        if not all(0 <= i < vocabulary.size for i in ids):
            wrong[name] = "ids out of range"
        decoded, expected = vocabulary.decode(ids), reference.decode(ids, skip_special_tokens=True)
        if vocabulary.kind == "t5":
            # Hugging Face writes mT5's byte pieces out as '<0xC3>'.
            expected = decoded if "<0x" in expected else expected
        if decoded != expected or (expected == text) != (decoded == text):
            wrong[name] = "decoded text"
        if vocabulary.kind == "t5":
            continue
        for pair in ((text,), (text, other)):
            built = reference(*pair, return_token_type_ids=True)
            own = vocabulary.with_special_tokens(*map(vocabulary.encode, pair))
            types = own[1] if vocabulary.kind == "bpe" else built["token_type_ids"]
            if own != (built["input_ids"], types):
                wrong[name] = f"special tokens of {len(pair)}"
    return wrong


@pytest.mark.parametrize("kind", KINDS)
def test_a_page_of_every_language(kind, pages, vocabulary_of, hugging_face):
    path = vocabulary_of(kind)
    vocabulary = read_vocabulary(path)
    assert vocabulary.kind == kind
    assert mismatches(vocabulary, hugging_face(kind, path), pages) == {}


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_every_paragraph_and_whole_document(kind, documents, vocabulary_of, hugging_face):
    path = vocabulary_of(kind)
    paragraphs = {
        f"{name}:{i}": paragraph for name, text in documents.items() for i, paragraph in enumerate(text.split("\n"))
    }
    assert mismatches(read_vocabulary(path), hugging_face(kind, path), documents | paragraphs) == {}


def test_mt5_equals_t5s_other_tokenizer(pages, vocabulary_of, tmp_path):
    """T5Tokenizer runs another implementation: made to know byte pieces, it differs on decomposed characters alone."""
    from sentencepiece import sentencepiece_model_pb2
    from tokenizers import models

    transformers = pytest.importorskip("transformers", reason="Hugging Face's tokenizers are the reference")
    vocabulary = read_vocabulary(vocabulary_of("t5"))
    (tmp_path / "spiece.model").symlink_to(vocabulary.path)
    # The model holds its sentinels: none are added.
    reference = transformers.T5Tokenizer.from_pretrained(tmp_path, extra_ids=0)
    assert len(reference) == vocabulary.size
    pieces = sentencepiece_model_pb2.ModelProto.FromString((tmp_path / "spiece.model").read_bytes()).pieces
    reference.backend_tokenizer.model = models.Unigram(
        [(piece.piece, piece.score) for piece in pieces], unk_id=2, byte_fallback=True
    )
    composed = {name: unicodedata.normalize("NFC", text) for name, text in pages.items()}
    for name, text in composed.items():
        ids = vocabulary.encode(text)
        assert ids == reference.encode(text, add_special_tokens=False), name
        for pair in ((text,), (text, "Ein Satz.")):
            ids, _ = vocabulary.with_special_tokens(*map(vocabulary.encode, pair))
            assert ids == reference(*pair)["input_ids"], name


def test_what_comes_back_from_tokens(pages, vocabulary_of):
    """Byte-level BPE returns every text; the others fold white space and compatibility characters, and no more."""
    bpe, t5, xlmr = (read_vocabulary(vocabulary_of(kind)) for kind in ("bpe", "t5", "xlmr"))
    unknown = set()
    for name, text in pages.items():
        assert bpe.decode(bpe.encode(text)) == text, name
        folded = " ".join(unicodedata.normalize("NFKC", text).replace("\u200b", " ").split())
        for vocabulary in (t5, xlmr):
            ids = vocabulary.encode(text)
            if vocabulary.unk_id in ids:
                unknown.add((vocabulary.kind, name))
                continue
            back = unicodedata.normalize("NFKC", vocabulary.decode(ids))
            assert [c for c in back if c.isalnum()] == [c for c in folded if c.isalnum()], (vocabulary.kind, name)
    assert {kind for kind, _ in unknown} <= {"xlmr"}  # mT5 has a piece for every byte.


@pytest.mark.parametrize("kind", KINDS)
def test_any_text(kind, vocabulary_of, hugging_face):
    path = vocabulary_of(kind)
    vocabulary, reference = read_vocabulary(path), hugging_face(kind, path)
    special = [token for token in reference.all_special_tokens if token]

    @settings(max_examples=200, suppress_health_check=list(HealthCheck))
    @given(st.text() | st.text(st.characters(max_codepoint=0x3100)))
    def check(text):
        assume(not any(token in text for token in special))
        ids = vocabulary.encode(text)
        assert ids == reference.encode(text, add_special_tokens=False)
        assert isinstance(vocabulary.decode(ids), str)

    check()


def test_sizes(vocabulary_of):
    xlmr, mbert, mt5 = (read_vocabulary(vocabulary_of(kind)) for kind in ("xlmr", "wordpiece", "t5"))
    assert (xlmr.size, xlmr.mask_id) == (250002, 250001)
    assert mbert.size == 119547 and mbert.pad_id == 0
    assert [mbert.piece(i) for i in (mbert.unk_id, mbert.bos_id, mbert.eos_id, mbert.mask_id)] == [
        "[UNK]", "[CLS]", "[SEP]", "[MASK]",
    ]  # fmt: skip
    assert mt5.size == 32596 and [mt5.piece(i) for i in mt5.sentinels] == [f"▁<extra_id_{i}>" for i in range(100)]
