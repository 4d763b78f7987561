"""Archives as published: unpacked safely, found where users leave them, unpacked once."""

import io
import os
import tarfile
import zipfile
from pathlib import Path

import pytest

from xtr.data import cache
from xtr.errors import DataError, UserError
from xtr.tasks import registration
from xtr.tasks.datasets.archives import packed, sources
from xtr.tasks.datasets.distributions import File, archives
from xtr.tasks.datasets.nli import find_mnli
from xtr.tasks.datasets.unpack import unpack

ROW = '{"gold_label": "neutral", "sentence1": "A.", "sentence2": "B."}\n'


@pytest.fixture(autouse=True)
def no_manual_folders(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.delenv("TFDS_DATA_DIR", raising=False)


def _zip(path: Path, members: dict[str, str]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with zipfile.ZipFile(path, "w") as archive:
        for name, text in members.items():
            archive.writestr(name, text)
    return path


def _tar(path: Path, members: dict[str, str | tarfile.TarInfo], mode: str = "w:gz") -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, mode) as archive:
        for name, content in members.items():
            if isinstance(content, tarfile.TarInfo):
                archive.addfile(content)
                continue
            info = tarfile.TarInfo(name)
            info.size = len(content.encode())
            archive.addfile(info, io.BytesIO(content.encode()))
    return path


def _link(name: str, to: str, kind: bytes = tarfile.SYMTYPE) -> tarfile.TarInfo:
    info = tarfile.TarInfo(name)
    info.type, info.linkname = kind, to
    return info


def _mnli_zip(folder: Path) -> Path:
    return _zip(folder / "multinli_1.0.zip", {"multinli_1.0/multinli_1.0_train.jsonl": ROW, "__MACOSX/._x": "junk"})


FILE = File("https://example.org/a", "a", folder="set/inner", top="top", holds="set/inner/a.txt")


def _all(folder: Path) -> dict[str, str]:
    return {p.relative_to(folder).as_posix(): p.read_text() for p in sorted(folder.rglob("*")) if p.is_file()}


@pytest.mark.parametrize("name", ["a.zip", "a.tar.gz", "a.tgz", "a.tar.bz2"])
def test_every_kind_is_unpacked(tmp_path, name):
    members = {"top/a.txt": "á\n", "top/b/c.txt": "c", "__MACOSX/top/._a": "junk", "other/d.txt": "d"}
    path = tmp_path / "archive" / name
    _zip(path, members) if name == "a.zip" else _tar(path, members, "w:bz2" if name.endswith("bz2") else "w:gz")
    digests = unpack(path, FILE, tmp_path / "root")
    assert _all(tmp_path / "root") == {"set/inner/a.txt": "á\n", "set/inner/b/c.txt": "c"}
    assert {name: size for name, (size, _) in digests.items()} == {"set/inner/a.txt": 3, "set/inner/b/c.txt": 1}


def test_archives_of_one_folder_are_joined_and_inner_ones_unpacked(tmp_path):
    for name in ("one", "two"):
        unpack(_tar(tmp_path / f"{name}.tgz", {f"top/de/{name}.txt": name}), FILE, tmp_path / "root")
    assert _all(tmp_path / "root") == {"set/inner/de/one.txt": "one", "set/inner/de/two.txt": "two"}
    inner = _tar(tmp_path / "en.tar.gz", {"train": "en:A\tO\n", "dev": "", "test": ""})
    outer = tmp_path / "panx_dataset.zip"
    with zipfile.ZipFile(outer, "w") as archive:
        archive.write(inner, "en.tar.gz")
    (panx,) = [file for file in archives() if file.inner]
    unpack(outer, panx, tmp_path / "panx")
    assert _all(tmp_path / "panx") == {f"panx_dataset/en/{s}": t for s, t in zip(
        ("dev", "test", "train"), ("", "", "en:A\tO\n"), strict=True)}  # fmt: skip


@pytest.mark.parametrize("name", ["../out.txt", "/etc/out.txt", "top/../../out.txt", "top\\..\\..\\out.txt", "C:/out"])
@pytest.mark.parametrize("kind", ["zip", "tgz"])
def test_members_outside_of_the_folder_are_refused(tmp_path, name, kind):
    members = {"top/a.txt": "a", name: "out"}
    path = tmp_path / "in" / f"a.{kind}"
    _zip(path, members) if kind == "zip" else _tar(path, members)
    with pytest.raises(DataError, match="outside of its folder"):
        unpack(path, FILE, tmp_path / "root")
    assert not _all(tmp_path / "root") and not list(tmp_path.glob("out*")) and not os.path.exists("/etc/out.txt")


@pytest.mark.parametrize(
    ("link", "why"),
    [
        (_link("top/l", "../../out"), "outside"),
        (_link("top/l", "/etc/passwd"), "outside"),
        (_link("top/l", "../out", tarfile.LNKTYPE), "outside"),
        (_link("top/l", "nothing"), "leads nowhere"),
        (_link("top/pipe", "", tarfile.FIFOTYPE), "neither a file nor a folder"),
    ],
)
def test_links_that_lead_out_and_devices_are_refused(tmp_path, link, why):
    path = _tar(tmp_path / "in/a.tgz", {"top/a.txt": "a", "link": link})
    with pytest.raises(DataError, match=why):
        unpack(path, FILE, tmp_path / "root")
    assert not _all(tmp_path / "root")


def test_links_within_the_archive_become_files(tmp_path):
    members = {"top/a.txt": "a", "s": _link("top/sub/s.txt", "../a.txt"), "h": _link("top/h.txt", "top/a.txt", b"1")}
    unpack(_tar(tmp_path / "a.tgz", members), FILE, tmp_path / "root")
    found = _all(tmp_path / "root")
    assert found == {f"set/inner/{name}": "a" for name in ("a.txt", "h.txt", "sub/s.txt")}
    assert not any(p.is_symlink() for p in (tmp_path / "root").rglob("*"))


def test_a_link_in_a_zip_is_refused(tmp_path):
    path, info = tmp_path / "a.zip", zipfile.ZipInfo("top/l")
    info.external_attr = 0o120777 << 16
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr(info, "/etc/passwd")
    with pytest.raises(DataError, match="is a link"):
        unpack(path, FILE, tmp_path / "root")


@pytest.mark.parametrize("name", ["a.zip", "a.tgz", "a.tar.bz2"])
@pytest.mark.parametrize("keep", [0, 40, -30])
def test_a_damaged_archive_is_named_and_leaves_nothing(tmp_path, name, keep):
    members = {"top/a.txt": "".join(map(chr, range(300, 4000))), "top/b.txt": "b" * 9999}
    path = tmp_path / "in" / name
    _zip(path, members) if name == "a.zip" else _tar(path, members, "w:bz2" if name.endswith("bz2") else "w:gz")
    path.write_bytes(path.read_bytes()[:keep])
    with pytest.raises(DataError, match=rf"{name} is damaged .*download it again|nothing in top"):
        unpack(path, FILE, tmp_path / "root")
    assert not list((tmp_path / "root").iterdir())


def test_another_archive_of_the_same_name_is_told(tmp_path):
    with pytest.raises(DataError, match="nothing in top"):
        unpack(_zip(tmp_path / "a.zip", {"else/a.txt": "a"}), FILE, tmp_path / "root")


@pytest.mark.parametrize("place", [".", "multinli_1.0", "manual"])
def test_an_archive_left_as_published_is_used(tmp_path, monkeypatch, place):
    data, cached = tmp_path / "data", tmp_path / "cache"
    data.mkdir()
    monkeypatch.setenv("TFDS_DATA_DIR", str(tmp_path / "tfds"))
    archive = _mnli_zip(tmp_path / "tfds/downloads/manual" if place == "manual" else data / place)
    found = sources(data, cached)
    (dataset,) = find_mnli(found).datasets
    (path,) = dataset.splits["train"].files
    assert path.is_relative_to(cached / "unpacked") and path.read_text() == ROW
    before = path.stat().st_mtime_ns, path.stat().st_ino
    assert sources(data, cached) == found and (path.stat().st_mtime_ns, path.stat().st_ino) == before
    # Another file of that name is another archive.
    _mnli_zip(archive.parent)
    os.utime(archive, ns=(1, 1))
    (again,) = find_mnli(sources(data, cached)).datasets
    assert again.splits["train"].files[0] != path
    assert len(list((cached / "unpacked").iterdir())) == 2


def test_what_is_unpacked_already_wins(tmp_path):
    _mnli_zip(tmp_path)
    own = tmp_path / "multinli_1.0/multinli_1.0_train.jsonl"
    own.parent.mkdir()
    own.write_text(ROW * 2)
    assert sources(tmp_path, tmp_path / "cache").roots == (tmp_path,)
    assert not (tmp_path / "cache").exists()


def test_another_published_name_of_the_same_archive(tmp_path):
    _zip(tmp_path / "glue/QQP.zip", {"QQP/train.tsv": ""})
    assert not list(packed([tmp_path]))
    path = _zip(tmp_path / "QQP.zip", {"QQP/train.tsv": ""})
    assert [(p, file.folder) for p, file in packed([tmp_path])] == [(path, "QQP")]


def test_files_in_tfds_manual_folder_are_read_after_the_data_folder(tmp_path, monkeypatch):
    data, manual = tmp_path / "data", tmp_path / "home/tensorflow_datasets/downloads/manual"
    name = "multinli_1.0/multinli_1.0_train.jsonl"
    (manual / name).parent.mkdir(parents=True)
    (manual / name).write_text(ROW)
    data.mkdir()
    assert sources(data, tmp_path / "c").file(name) == manual / name
    (data / name).parent.mkdir()
    (data / name).write_text(ROW)
    assert sources(data, tmp_path / "c").file(name) == data / name


def test_a_cache_that_cannot_be_written_is_one_message(tmp_path):
    _mnli_zip(tmp_path)
    (tmp_path / "cache").write_text("")
    with pytest.raises(UserError, match="cannot be unpacked below .*XTR_CACHE_DIR"):
        sources(tmp_path, tmp_path / "cache")


def test_settings_look_into_archives_and_the_index_sees_the_manual_folder(tmp_path, monkeypatch):
    data, manual = tmp_path / "data", tmp_path / "home/tensorflow_datasets/downloads/manual"
    data.mkdir()
    _mnli_zip(data)
    monkeypatch.setenv("XTR_DATA_DIR", str(data))
    monkeypatch.setenv("XTR_CACHE_DIR", str(tmp_path / "cache"))
    roots = registration.settings(tokenise=False).sources.roots
    assert roots[0] == data and roots[1].parent == tmp_path / "cache/unpacked"
    request = cache._Request((), "", "", str(data), tmp_path / "cache", "text2text")
    listings = [cache._listing(request)]
    (data / ".downloads").mkdir()
    (data / ".downloads/lock").touch()
    assert cache._listing(request) == listings[0]
    manual.mkdir(parents=True)
    (manual / "new.tsv").touch()
    listings.append(cache._listing(request))
    (data / "new.tsv").touch()
    listings.append(cache._listing(request))
    assert len(set(listings)) == 3
