"""Where each data set is published: the files, their addresses and licences, and where they lie below the data folder.

One table for `xtr data download`, for archives found as published, and for docs/data.md. Facts only: what nobody
published (a size, a checksum) is None or ''.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from xtr.errors import UserError, did_you_mean

from .. import benchmarks
from .checksums import CHECKSUMS


@dataclass(frozen=True)
class File:
    """One published file.

    Attributes:
      url: its official address.
      path: the file's place below the data folder; of an archive, the place in which it may be left as published.
      size: bytes; None where unknown.
      sha256, md5: its published checksums in hex; '' where there is none.
      folder: of an archive, the folder below the data folder that it unpacks to; '' for a file that is used as it is.
      top: the folder within the archive that becomes `folder`; '' for all of the archive.
      holds: of an archive, a file or folder below the data folder that is there once it is unpacked.
      inner: whether it holds archives itself, of which each `<name>.tar.gz` is unpacked into `<name>/`.
      aliases: other names that the same bytes are published under.
    """

    url: str
    path: str
    size: int | None = None
    sha256: str = ""
    md5: str = ""
    folder: str = ""
    top: str = ""
    holds: str = ""
    inner: bool = False
    aliases: tuple[str, ...] = ()


@dataclass(frozen=True)
class Distribution:
    """A data set as its authors give it out.

    Attributes:
      name: what `xtr data` calls it: its tasks' names up to the first dot, where it is one data set of tasks.
      licence: as its authors state it.
      files: what is downloaded.
      tasks: the data sets of readers (their names up to the first dot) that read these files.
      note: what a user should know of it; where there are no files, how to get them by hand.
    """

    name: str
    licence: str
    files: tuple[File, ...]
    tasks: tuple[str, ...]
    note: str = ""


def _file(url: str, path: str, **more) -> File:
    size, sha256 = CHECKSUMS.get(path, (None, ""))
    return File(url, path, size, sha256, **more)


def _archive(url: str, top: str, folder: str, holds: str, *, below: str = "", **more) -> File:
    return _file(url, below + url.rpartition("/")[2], top=top, folder=folder, holds=holds, **more)


def _files(base: str, folder: str, names: Iterable[str]) -> tuple[File, ...]:
    return tuple(_file(f"{base}/{name}", f"{folder}/{name.rpartition('/')[2]}") for name in names)


_FACEBOOK = "https://dl.fbaipublicfiles.com"
_GITHUB = "https://raw.githubusercontent.com"
_GOOGLE = "https://storage.googleapis.com"
# Repositories are read at the commit whose files the checksums are of.
_XCOPA = f"{_GITHUB}/cambridgeltl/xcopa/e2e9d7f105a758ee869cd13e0fe251ef93a29840/data"
_XQUAD = f"{_GITHUB}/google-deepmind/xquad/7d30520c717524000f0d9d2f9c10a069acd9d285"
_LAREQA = f"{_GITHUB}/google-research-datasets/lareqa/9bc8c7fb6dd8d01d72a05a93c2cb96882b0d299c/xquad-r"
_LASER = f"{_GITHUB}/facebookresearch/LASER/74bc6ae7ffb7cba670fe0f428d0ede9f666fb821/data/tatoeba/v1"
_XTREME = f"{_GITHUB}/google-research/xtreme/838c13b69daafb9328785d16caae2711e4012123"
_UD = "https://lindat.mff.cuni.cz/repository/xmlui/bitstream/handle/11234"


def _in_languages(target: str) -> list[str]:
    return benchmarks.XTREME_R[target].split()


def _bucc() -> Iterable[File]:
    for language in benchmarks.XTREME["bucc2018"].split():
        for part in ("sample", "training"):
            yield _archive(
                f"https://comparable.limsi.fr/bucc2018/bucc2018-{language}-en.{part}-gold.tar.bz2",
                top="bucc2018", folder="bucc2018", holds=f"bucc2018/{language}-en/{language}-en.{part}.gold",
            )  # fmt: skip


def _ud(handle: str, version: str) -> File:
    folder = f"ud-treebanks-v{version}"
    return _archive(f"{_UD}/{handle}/{folder}.tgz", top=folder, folder=folder, holds=folder)


DISTRIBUTIONS: tuple[Distribution, ...] = (
    Distribution(
        "mnli",
        "OANC, with parts under CC BY 3.0, CC BY-SA 3.0 and MIT",
        (
            _archive(
                "https://cims.nyu.edu/~sbowman/multinli/multinli_1.0.zip",
                top="multinli_1.0", folder="multinli_1.0", holds="multinli_1.0/multinli_1.0_train.jsonl",
            ),
        ),
        ("mnli",),
    ),
    Distribution(
        "snli",
        "CC BY-SA 4.0",
        (
            _archive(
                "https://nlp.stanford.edu/projects/snli/snli_1.0.zip",
                top="snli_1.0", folder="snli_1.0", holds="snli_1.0/snli_1.0_train.jsonl",
            ),
        ),
        ("snli",),
    ),
    Distribution(
        "anli",
        "CC BY-NC 4.0",
        (
            _archive(
                f"{_FACEBOOK}/anli/anli_v1.0.zip",
                top="anli_v1.0", folder="anli_v1.0", holds="anli_v1.0/R3/train.jsonl",
            ),
        ),
        ("anli", "anli_r1", "anli_r2", "anli_r3"),
    ),
    Distribution(
        "qqp",
        "Quora's terms of use",
        (
            _archive(
                f"{_FACEBOOK}/glue/data/QQP-clean.zip",
                top="QQP", folder="QQP", holds="QQP/train.tsv", aliases=("QQP.zip",),
            ),
        ),
        ("qqp",),
    ),
    Distribution(
        "squad_v1",
        "CC BY-SA 4.0",
        _files("https://rajpurkar.github.io/SQuAD-explorer/dataset", "squad", ("train-v1.1.json", "dev-v1.1.json")),
        ("squad_v1", "lareqa_squad"),
    ),
    Distribution(
        "squad_v2",
        "CC BY-SA 4.0",
        _files("https://rajpurkar.github.io/SQuAD-explorer/dataset", "squad", ("train-v2.0.json", "dev-v2.0.json")),
        ("squad_v2",),
    ),
    Distribution(
        "hellaswag",
        "MIT",
        _files(
            f"{_GITHUB}/rowanz/hellaswag/master/data", "hellaswag", ("hellaswag_train.jsonl", "hellaswag_val.jsonl")
        ),
        ("hellaswag",),
    ),
    Distribution(
        "cosmosqa",
        "CC BY 4.0",
        _files(f"{_GITHUB}/wilburOne/cosmosqa/master/data", "cosmosqa", ("train.csv", "valid.csv")),
        ("cosmosqa",),
    ),
    Distribution(
        "commonsenseqa",
        "MIT",
        _files(
            "https://s3.amazonaws.com/commensenseqa", "commonsenseqa",
            ("train_rand_split.jsonl", "dev_rand_split.jsonl"),
        ),
        ("commonsenseqa",),
    ),
    Distribution(
        "ccg",
        "LDC User Agreement (LDC2005T13)",
        (),
        ("ccg",),
        note="CCGbank is sold by the Linguistic Data Consortium (LDC2005T13) and may not be passed on: order it there "
        "and unpack it into the data folder",
    ),
    Distribution(
        "siqa",
        "CC BY 4.0",
        (
            _archive(
                f"{_GOOGLE}/ai2-mosaic/public/socialiqa/socialiqa-train-dev.zip",
                top="socialiqa-train-dev", folder="socialiqa-train-dev", holds="socialiqa-train-dev/train.jsonl",
            ),
        ),
        ("siqa",),
    ),
    Distribution(
        "copa",
        "BSD 2-Clause",
        (
            _archive(
                f"{_FACEBOOK}/glue/superglue/data/v2/COPA.zip", top="COPA", folder="copa", holds="copa/train.jsonl"
            ),
        ),
        ("copa",),
    ),
    Distribution(
        "xnli",
        "CC BY-NC 4.0",
        (
            _archive(
                f"{_FACEBOOK}/XNLI/XNLI-1.0.zip", top="XNLI-1.0", folder="XNLI-1.0", holds="XNLI-1.0/xnli.test.jsonl"
            ),
        ),
        ("xnli",),
    ),
    Distribution(
        "xnli_mt",
        "CC BY-NC 4.0; MultiNLI's for the English text",
        (
            _archive(
                f"{_FACEBOOK}/XNLI/XNLI-MT-1.0.zip",
                top="XNLI-MT-1.0", folder="XNLI-MT-1.0", holds="XNLI-MT-1.0/multinli/multinli.train.en.tsv",
            ),
        ),
        ("mnli",),
        note="MultiNLI's training set machine-translated: the tasks mnli.<language>",
    ),
    Distribution(
        "xcopa",
        "CC BY 4.0",
        tuple(
            _file(f"{_XCOPA}/{path}", f"xcopa/{path}")
            for language in _in_languages("xcopa")
            for path in (f"{language}/val.{language}.jsonl", f"{language}/test.{language}.jsonl")
        ),
        ("xcopa",),
    ),
    Distribution(
        "udpos",
        "a licence for each treebank, in its folder",
        (_ud("1-3105", "2.5"), _ud("1-3424", "2.7")),
        ("udpos",),
        note="XTREME's languages are those of UD 2.5, the five that XTREME-R adds those of UD 2.7",
    ),
    Distribution(
        "panx",
        "not stated (text of Wikipedia: CC BY-SA)",
        (
            _archive(
                "https://s3.amazonaws.com/datasets.huggingface.co/wikiann/1.1.0/panx_dataset.zip",
                top="", folder="panx_dataset", holds="panx_dataset/en/train", inner=True,
            ),
        ),
        ("panx",),
        note="XTREME's own address (AmazonPhotos.zip) no longer gives it out; this is the copy that Hugging Face keeps",
    ),
    Distribution(
        "xquad",
        "CC BY-SA 4.0",
        _files(_XQUAD, "xquad", (f"xquad.{language}.json" for language in _in_languages("xquad"))),
        ("xquad",),
    ),
    Distribution(
        "mlqa",
        "CC BY-SA 3.0",
        (
            _archive(
                f"{_FACEBOOK}/MLQA/MLQA_V1.zip",
                top="MLQA_V1", folder="mlqa/MLQA_V1", holds="mlqa/MLQA_V1/test", below="mlqa/",
            ),
        ),
        ("mlqa",),
    ),
    Distribution(
        "tydiqa",
        "Apache 2.0",
        (
            _file(f"{_GOOGLE}/tydiqa/v1.1/tydiqa-goldp-v1.1-train.json", "tydiqa/tydiqa-goldp-v1.1-train.json"),
            _archive(
                f"{_GOOGLE}/tydiqa/v1.1/tydiqa-goldp-v1.1-dev.tgz", below="tydiqa/",
                top="tydiqa-goldp-v1.1-dev", folder="tydiqa/tydiqa-goldp-v1.1-dev",
                holds="tydiqa/tydiqa-goldp-v1.1-dev",
            ),
        ),
        ("tydiqa",),
    ),
    Distribution(
        "tatoeba",
        "CC BY 2.0 FR",
        tuple(
            _file(f"{_LASER}/{path.rpartition('/')[2]}", path) for path in CHECKSUMS if path.startswith("tatoeba/v1/")
        ),
        ("tatoeba",),
    ),
    Distribution(
        "lareqa",
        "CC BY-SA 4.0",
        _files(_LAREQA, "lareqa/xquad-r", (f"{language}.json" for language in _in_languages("lareqa"))),
        ("lareqa",),
    ),
    Distribution(
        "mewslix",
        "CC BY 2.5 (text of WikiNews); Wikipedia's CC BY-SA",
        (
            File(
                f"{_GOOGLE}/gresearch/mewsli/mewsli-x_20220518_6.zip",
                "mewslix/mewsli-x_20220518_6.zip",
                md5="6d3f137027c7e0146c7aa0b3c21e90f4",
                folder="mewslix",
                holds="mewslix/candidate_set_entities.jsonl",
            ),
        ),
        ("mewslix", "mewslix_pairs"),
        note="the archive holds no text of the WikiNews articles (dev and test): get-mewsli-x.sh of google-research's "
        "dense_representations_for_entity_retrieval/mel puts it in; lay its output into mewslix/",
    ),
    Distribution(
        "multichecklist",
        "Apache 2.0",
        _files(f"{_XTREME}/multichecklist", "multichecklist", ("checklist_templates.tsv",)),
        ("multichecklist",),
        note="templates, which cases are made from",
    ),
    Distribution(
        "pawsx",
        "free for any use, with attribution",
        (
            _archive(
                f"{_GOOGLE}/paws/pawsx/x-final.tar.gz",
                top="x-final", folder="x-final", holds="x-final/en/train.tsv",
            ),
        ),
        ("pawsx",),
    ),
    Distribution("bucc2018", "for research", tuple(_bucc()), ("bucc2018",)),
)  # fmt: skip

_BY_NAME = {distribution.name: distribution for distribution in DISTRIBUTIONS}

# What a group of names stands for. XCOPA's training sets are part of its benchmarks.
GROUPS: dict[str, tuple[str, ...]] = {
    "all": tuple(_BY_NAME),
    "intermediate": (
        "mnli", "snli", "anli", "qqp", "squad_v1", "squad_v2", "hellaswag", "ccg", "cosmosqa", "commonsenseqa",
    ),
    "xtreme_r": (
        "mnli", "squad_v1", "siqa", "copa", "xnli", "xcopa", "udpos", "panx", "xquad", "mlqa", "tydiqa", "tatoeba",
        "lareqa", "mewslix", "multichecklist",
    ),
    "xtreme": (
        "mnli", "squad_v1", "xnli", "pawsx", "udpos", "panx", "xquad", "mlqa", "tydiqa", "bucc2018", "tatoeba",
    ),
}  # fmt: skip


def distributions(names: Sequence[str]) -> list[Distribution]:
    """Returns what names of data sets and groups stand for, each once, in the table's order.

    Raises:
      UserError: an unknown name.
    """
    wanted: set[str] = set()
    for name in names:
        if name not in GROUPS and name not in _BY_NAME:
            hint = did_you_mean(name, (*GROUPS, *_BY_NAME))
            raise UserError(
                f"There is no data set {name!r}.{hint} Known are {', '.join(_BY_NAME)}, and the groups "
                f"{', '.join(GROUPS)}."
            )
        wanted.update(GROUPS.get(name, (name,)))
    return [distribution for distribution in DISTRIBUTIONS if distribution.name in wanted]


def archives() -> list[File]:
    """Returns every published archive."""
    return [file for distribution in DISTRIBUTIONS for file in distribution.files if file.folder]


def markdown() -> str:
    """Returns the table of docs/data.md: what is downloaded, how much, from where, to where, under what licence."""
    lines = ["| data set | MB | from | below the data folder | licence |", "|---|---|---|---|---|"]
    for distribution in DISTRIBUTIONS:
        known = [file.size for file in distribution.files if file.size is not None]
        sizes = [f"{sum(known) / 1e6:,.2f}"] if known else []
        sizes += ["size unknown"] if len(known) < len(distribution.files) else []
        addresses = _together(file.url for file in distribution.files)
        places = _together(f"{file.folder}/" if file.folder else file.path for file in distribution.files)
        cells = (
            distribution.name, " + ".join(sizes), ", ".join(addresses), ", ".join(f"`{place}`" for place in places),
            distribution.licence,
        )  # fmt: skip
        lines.append(f"| {' | '.join(cell or '-' for cell in cells)} |")
    return "\n".join(lines) + "\n"


def _together(paths: Iterable[str]) -> list[str]:
    """Returns paths, those of one folder as the folder, and of many folders as the one that these are in."""
    folders: dict[str, set[str]] = {}
    for path in paths:
        folders.setdefault(path.rpartition("/")[0], set()).add(path)
    if len(folders) > 2:
        return list(dict.fromkeys(f"{folder.rpartition('/')[0]}/" for folder in folders))
    return [those.pop() if len(those) == 1 else f"{folder}/" for folder, those in folders.items()]
