"""Writes the demo world in the official file formats, with a tokenizer trained on its corpus.

directory/
  world.json                                          what was written, and with which generator
  xnli/XNLI-MT-1.0/multinli/multinli.train.en.tsv     premise hypo label; the third label is "contradictory" there
  multinli_1.0/multinli_1.0_dev_matched.jsonl
  xnli/{dev,test}-<language>.tsv                      the same meanings in every language
  squad/{train,dev}-v1.1.json, xquad/xquad.<language>.json
  tatoeba/v1/tatoeba.<language>-eng.{<language>,eng}
  text/corpus/<language>.txt, text/corpus/en-<language>.txt
  tokenizer/sentencepiece.model
"""

import hashlib
import io
import json
import os
import shutil
import tempfile
import time
from collections import Counter
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path

import sentencepiece
from sentencepiece import sentencepiece_model_pb2

from xtr.demo.grammar import Clause, Question
from xtr.demo.languages import ENGLISH, FOREIGN, LANGUAGES, Language
from xtr.demo.world import Bilingual, Document, Inference, Reading, Reply, Wording, World, WorldSizes, make_world
from xtr.errors import UserError

MANIFEST = "world.json"
TOKENIZER = "tokenizer/sentencepiece.model"
SENTINELS = 100
# sentences the tokenizer learns from; more change its pieces little and cost time
_TOKENIZER_LINES = 6000
# a word that comes once in so many lines may be a piece of its own
_GLOSSARY_LINES = 300


@dataclass(frozen=True)
class WorldSummary:
    """What `write_world` wrote: `files` counts each file's examples, `chance` is in the metrics' unit, percent."""

    directory: Path
    vocabulary_path: Path
    seed: int
    languages: tuple[str, ...]
    files: dict[str, int]
    vocabulary_size: int
    chance: dict[str, float]
    reused: bool
    seconds: float


def write_world(directory: str | os.PathLike, seed: int = 0, sizes: WorldSizes | None = None) -> WorldSummary:
    """Writes the world, or finds it written: the same generator, seed and sizes give the same bytes.

    The files appear all at once (written beside, then renamed). A world of another seed or size is replaced; a folder
    with other things in it is a `UserError`.
    """
    started = time.perf_counter()
    directory, sizes = Path(directory), sizes or WorldSizes()
    wanted = {"generator": generator_version(), "seed": seed, "sizes": asdict(sizes)}
    found = _manifest(directory)
    if found is None and directory.exists() and (not directory.is_dir() or any(directory.iterdir())):
        raise UserError(f"{directory} is not an empty folder and holds no demo world. Name another folder for it.")
    if _is_world(directory, wanted):
        return _summary(directory, found, True, started)
    directory.parent.mkdir(parents=True, exist_ok=True)
    temporary = Path(tempfile.mkdtemp(prefix=f".{directory.name}.", dir=directory.parent))
    try:
        world = make_world(seed, sizes, tuple(language.code for language in FOREIGN), ENGLISH.code)
        files = _write_files(temporary / "new", world)
        vocabulary = _write_tokenizer(temporary / "new", sizes.vocabulary)
        manifest = {**wanted, "files": files, "vocabulary_size": vocabulary, "languages": [x.code for x in LANGUAGES]}
        (temporary / "new" / MANIFEST).write_text(json.dumps(manifest, indent=1, sort_keys=True) + "\n", "utf-8")
        if _is_world(directory, wanted):  # another process was faster
            return _summary(directory, manifest, True, started)
        if directory.exists():
            directory.rename(temporary / "old")
        (temporary / "new").rename(directory)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    return _summary(directory, manifest, False, started)


def generator_version() -> str:
    """Names the generator by its own source text: a changed generator never takes an old world for its own."""
    names = ("grammar.py", "languages.py", "world.py", "write.py")
    sources = [Path(__file__).with_name(name).read_bytes() for name in names]
    return hashlib.sha256(b"\0".join([*sources, sentencepiece.__version__.encode()])).hexdigest()[:12]


def _is_world(directory: Path, wanted: dict) -> bool:
    found = _manifest(directory)
    return found is not None and all(found.get(key) == value for key, value in wanted.items())


def _manifest(directory: Path) -> dict | None:
    try:
        return json.loads((directory / MANIFEST).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None


def _summary(directory: Path, manifest: dict, reused: bool, started: float) -> WorldSummary:
    return WorldSummary(
        directory=directory,
        vocabulary_path=directory / TOKENIZER,
        seed=manifest["seed"],
        languages=tuple(manifest["languages"]),
        files=manifest["files"],
        vocabulary_size=manifest["vocabulary_size"],
        chance={"xnli": 100 / 3, "xquad": 0.0, "tatoeba": 100 / manifest["sizes"]["tatoeba"]},
        reused=reused,
        seconds=time.perf_counter() - started,
    )


# --------------------------------------------------------------------------------------------------------- files
def _write_files(root: Path, world: World) -> dict[str, int]:
    counts: dict[str, int] = {}

    def write(name: str, text: str, n: int) -> None:
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(text.encode("utf-8"))
        counts[name] = n

    def lines(name: str, rows: Iterable[str], header: str = "") -> None:
        rows = list(rows)
        write(name, header + "".join(row + "\n" for row in rows), len(rows))

    def read(name: str, readings: list[Reading], language: Language, version: dict[str, str]) -> None:
        squad = {**version, "data": _squad(readings, language, Path(name).stem)}
        write(name, json.dumps(squad, ensure_ascii=False), sum(len(r.questions) for r in readings))

    # The targets' own languages, in the place of XTREME-R's.
    everyone, foreign = [x.code for x in LANGUAGES], [x.code for x in FOREIGN]
    own = {"xnli": everyone, "xquad": everyone, "tatoeba": foreign}
    write("languages.json", json.dumps(own) + "\n", len(own))
    machine = {"contradiction": "contradictory"}  # XNLI-MT's name for it
    lines(
        "xnli/XNLI-MT-1.0/multinli/multinli.train.en.tsv",
        (_tsv(x, ENGLISH, machine.get(x.label, x.label)) for x in world.mnli_train),
        "premise\thypo\tlabel\n",
    )
    lines("multinli_1.0/multinli_1.0_dev_matched.jsonl", map(_multinli, world.mnli_dev))
    for split, examples in (("dev", world.xnli_dev), ("test", world.xnli_test)):
        for language in LANGUAGES:
            lines(f"xnli/{split}-{language.code}.tsv", (_tsv(x, language, x.label) for x in examples))
    read("squad/train-v1.1.json", world.squad_train, ENGLISH, {"version": "1.1"})
    read("squad/dev-v1.1.json", world.squad_dev, ENGLISH, {"version": "1.1"})
    for language in LANGUAGES:
        read(f"xquad/xquad.{language.code}.json", world.xquad, language, {})
        lines(f"text/corpus/{language.code}.txt", (_document(d, language) for d in world.monolingual[language.code]))
    for language in FOREIGN:
        stem, pairs = f"tatoeba/v1/tatoeba.{language.iso3}-{ENGLISH.iso3}", world.tatoeba[language.code]
        lines(f"{stem}.{language.iso3}", map(language.say, pairs))
        lines(f"{stem}.{ENGLISH.iso3}", map(ENGLISH.say, pairs))
        documents = (_bilingual(d, language) for d in world.bilingual[language.code])
        lines(f"text/corpus/{ENGLISH.code}-{language.code}.txt", documents)
    return counts


def _tsv(example: Inference, language: Language, label: str) -> str:
    return f"{language.say(example.premise)}\t{language.say(example.hypothesis)}\t{label}"


def _multinli(example: Inference) -> str:
    premise, hypothesis = ENGLISH.say(example.premise), ENGLISH.say(example.hypothesis)
    return json.dumps({"gold_label": example.label, "sentence1": premise, "sentence2": hypothesis}, ensure_ascii=False)


def _squad(readings: list[Reading], language: Language, name: str) -> list[dict]:
    """Articles of ten paragraphs. Question ids are the same in every language, as XQuAD's are."""
    paragraphs = []
    for i, reading in enumerate(readings):
        sentences = [language.say(c) for c in reading.context]
        questions = []
        for j, (k, question) in enumerate(reading.questions):
            start, text = language.answer(question)
            start += sum(len(s) + 1 for s in sentences[:k])
            key = hashlib.sha256(f"{name.split('.')[0]} {i} {j}".encode()).hexdigest()[:24]
            answers = [{"answer_start": start, "text": text}]
            questions.append({"id": key, "question": language.ask(question), "answers": answers})
        paragraphs.append({"context": " ".join(sentences), "qas": questions})
    return [
        {"title": f"Story_{n // 10 + 1}", "paragraphs": paragraphs[n : n + 10]} for n in range(0, len(paragraphs), 10)
    ]


def _render(sentence: Clause | Question | Reply, language: Language) -> str:
    if isinstance(sentence, Reply):
        return language.reply(sentence.question)
    return language.ask(sentence) if isinstance(sentence, Question) else language.say(sentence)


def _document(document: Document, language: Language) -> str:
    return " ".join(_render(s, language) for s in document)


def _bilingual(document: Bilingual, language: Language) -> str:
    def say(wording: Wording) -> str:
        base, other = (ENGLISH, language) if wording.english else (language, ENGLISH)
        if wording.switched:
            return base.say_mixed(document.sentence, other, wording.switched)
        return _render(document.sentence, base)

    return f"{say(document.first)} {say(document.second)}"


# ----------------------------------------------------------------------------------------------------- tokenizer
def _write_tokenizer(root: Path, size: int) -> int:
    """Trains the tokenizer on the training text and adds the sentinels; returns the number of pieces with them."""
    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(_tokenizer_text(root)),
        model_writer=model,
        model_type="unigram",
        vocab_size=size,
        hard_vocab_limit=False,  # a tiny world may not have that many pieces
        character_coverage=1.0,
        normalization_rule_name="nmt_nfkc",
        byte_fallback=False,
        pad_id=0,
        eos_id=1,
        unk_id=2,
        bos_id=-1,
        seed_sentencepiece_size=20000,
        num_threads=1,  # sums of floats, and so pieces, do not depend on the machine
        minloglevel=2,
    )
    proto = sentencepiece_model_pb2.ModelProto.FromString(model.getvalue())
    for i in reversed(range(SENTINELS)):  # <extra_id_99> first, as in mT5's own vocabulary
        kind = sentencepiece_model_pb2.ModelProto.SentencePiece.USER_DEFINED
        proto.pieces.add(piece=f"<extra_id_{i}>", score=0.0, type=kind)
    proto.trainer_spec.vocab_size = len(proto.pieces)
    path = root / TOKENIZER
    path.parent.mkdir(parents=True)
    path.write_bytes(proto.SerializeToString(deterministic=True))
    return len(proto.pieces)


def _tokenizer_text(root: Path) -> list[str]:
    """Corpus lines, and lines with the words that the tasks' text-to-text forms put around an example."""
    texts = [_read_lines(path) for path in sorted((root / "text" / "corpus").glob("*.txt"))]
    each = -(-_TOKENIZER_LINES // len(texts))
    lines = [line for text in texts for line in text[:each]]
    for i, row in enumerate(_read_lines(root / "xnli/XNLI-MT-1.0/multinli/multinli.train.en.tsv")[1 : 1 + each]):
        premise, hypothesis, _ = row.split("\t")
        lines.append(f"xnli: premise: {premise} hypothesis: {hypothesis} {i % 3}")
        lines.append(f"question: {hypothesis} context: {premise}")
    # Only strings found in two different words become candidates for pieces, and the words of a small world are found
    # in one, themselves. A glossary shows the frequent ones again with a comma glued to them; rare ones, mostly
    # inflected forms, are left to be put together from stem and ending.
    counts = Counter(word.strip(".?:") for line in lines for word in line.split(" "))
    return [*lines, *(f"{word}, {word}" for word, n in sorted(counts.items()) if n * _GLOSSARY_LINES >= len(lines))]


def _read_lines(path: Path) -> list[str]:
    return path.read_bytes().decode("utf-8").split("\n")[:-1]
