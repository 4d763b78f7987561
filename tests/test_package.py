"""The wheel: what it holds, what it claims, and what importing it costs."""

import ast
import importlib.metadata
import os
import re
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
MAPPED = ("tasks", "launch", "gin")  # top-level folders of a checkout that a wheel holds below xtr/
ROOMS = ("xtr", *MAPPED)
HELD = (".py", ".gin", ".sh", ".md", ".json")  # what rooms hold; the last three in launch/ alone


def source_files(*suffixes: str) -> list[Path]:
    """The files of every room with one of these suffixes, relative to the checkout."""
    found = (path for room in ROOMS for path in (ROOT / room).rglob("*") if path.suffix in suffixes)
    return sorted(path.relative_to(ROOT) for path in found)


def wheel_name(path: Path) -> str:
    return f"xtr/{path.as_posix()}" if path.parts[0] in MAPPED else path.as_posix()


@pytest.fixture(scope="module")
def wheel(tmp_path_factory) -> Path:
    """A wheel built from a copy of the sources: a build folder left by an earlier build must not leak into it."""
    copy = tmp_path_factory.mktemp("source")
    for path in [*source_files(*HELD), Path("pyproject.toml"), Path("setup.py"), Path("README.md")]:
        (copy / path).parent.mkdir(parents=True, exist_ok=True)
        (copy / path).write_bytes((ROOT / path).read_bytes())
    command = [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", "dist", "."]
    built = subprocess.run(command, cwd=copy, capture_output=True, text=True, check=False)
    assert built.returncode == 0, built.stdout + built.stderr
    (path,) = (copy / "dist").glob("*.whl")
    return path


@pytest.fixture(scope="module")
def installed(wheel, tmp_path_factory) -> Path:
    target = tmp_path_factory.mktemp("site")
    command = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--no-index", "--target", target, wheel]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return target


def run_installed(code: str, installed: Path, cwd: Path) -> str:
    """Runs code where nothing of the checkout is in reach but what the wheel installed."""
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=cwd,
        env={**os.environ, "PYTHONPATH": str(installed)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_wheel_claims_one_name_only(wheel):
    top_level = {name.split("/")[0] for name in zipfile.ZipFile(wheel).namelist()}
    assert {name for name in top_level if not name.endswith(".dist-info")} == {"xtr"}


def test_wheel_holds_every_file_of_the_rooms_and_no_more(wheel):
    names = {name for name in zipfile.ZipFile(wheel).namelist() if ".dist-info/" not in name}
    assert names == {wheel_name(path) for path in source_files(*HELD)}


def test_rooms_hold_files_of_known_kinds_only():
    """Another kind of file in a room would be missing from the wheel: name it in setup.py and here."""
    files = (path for room in ROOMS for path in (ROOT / room).rglob("*") if path.is_file())
    assert [str(path) for path in files if path.suffix not in (*HELD, ".pyc")] == []
    assert {path.parts[0] for path in source_files(*HELD[2:])} == {"launch"}


def test_installed_wheel_imports_its_mapped_rooms(installed, tmp_path):
    code = "import xtr.tasks, xtr.launch; print(xtr.tasks.__file__); print(xtr.launch.__file__)"
    for line in run_installed(code, installed, tmp_path).split():
        assert Path(line).is_relative_to(installed)


def test_installed_wheel_finds_its_gin_files(installed, tmp_path):
    code = """
import importlib.resources
import gin
def walk(folder, prefix=""):
    for entry in folder.iterdir():
        if entry.is_dir():
            walk(entry, prefix + entry.name + "/")
        elif entry.name.endswith(".gin"):
            print("gin/" + prefix + entry.name)
assert gin.REQUIRED  # gin-config, untouched by the folder of the same name
walk(importlib.resources.files("xtr.gin"))
"""
    found = run_installed(code, installed, tmp_path).split()
    assert sorted(found) == [path.as_posix() for path in source_files(".gin")]


def test_installed_wheel_holds_what_launching_reads(installed, tmp_path):
    code = """
import importlib.resources
from xtr.launch import recipes
print(*(path.name for path in recipes.shipped()))
assert importlib.resources.files("xtr.launch").joinpath("templates", "start.sh").is_file()
"""
    found = run_installed(code, installed, tmp_path).split()
    assert found == sorted(path.name for path in (ROOT / "launch" / "recipes").glob("*.md"))


def test_gin_folder_does_not_shadow_gin_config():
    """In a checkout too, where the current folder comes first on the path."""
    assert not (ROOT / "gin" / "__init__.py").exists()
    subprocess.run([sys.executable, "-c", "import gin; gin.REQUIRED"], cwd=ROOT, check=True)


def test_every_module_imports_without_tensorflow(installed, tmp_path):
    """A training process starts without TensorFlow: only tasks and the cache writer may load it."""
    paths = [path for path in source_files(".py") if path.parts[0] == "xtr" and path.name != "__main__.py"]
    modules = [".".join(path.with_suffix("").parts).removesuffix(".__init__") for path in paths]
    modules = [name for name in modules if name != "xtr.data.cache_writer"]
    code = f"""
import importlib, sys
for name in {modules}:
    importlib.import_module(name)
    assert "tensorflow" not in sys.modules, name + " imports TensorFlow"
"""
    run_installed(code, installed, tmp_path)


def declared_distributions(extra: str | None = None) -> set[str]:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    lines = project["optional-dependencies"][extra] if extra else project["dependencies"]
    return {re.match(r"[\w.-]+", line)[0].lower().replace("_", "-") for line in lines}


def imported_names() -> set[str]:
    """Every module that the rooms import by an absolute name, with `import a.b` as 'a.b'."""
    names = set()
    for path in source_files(".py"):
        for node in ast.walk(ast.parse((ROOT / path).read_text(), filename=str(path))):
            if isinstance(node, ast.Import):
                names |= {alias.name for alias in node.names}
            elif isinstance(node, ast.ImportFrom) and not node.level:
                names.add(node.module)
    return names


def test_what_is_imported_is_declared_and_what_is_declared_is_imported():
    """An import of something another dependency happens to bring would break with that dependency's next release."""
    providers = importlib.metadata.packages_distributions()
    declared = declared_distributions()
    used = {"pyarrow"}  # through pandas, which reads and writes parquet with it
    undeclared = {}
    for name in sorted(imported_names()):
        top = name.split(".")[0]
        if top == "xtr" or top in sys.stdlib_module_names:
            continue
        owners = {owner.lower().replace("_", "-") for owner in providers.get(top, [top])}
        used |= owners
        if not owners & (declared | declared_distributions("huggingface")):
            undeclared[name] = sorted(owners)
    assert not undeclared
    assert declared <= used


@pytest.mark.parametrize("path", sorted(ROOT.glob("requirements/*.lock")), ids=lambda path: path.name)
def test_lock_pins_everything_and_names_no_address(path):
    for line in path.read_text().split("\n")[:-1]:
        assert re.fullmatch(r"[a-z0-9-]+==[0-9][0-9a-z.]*", line), line


@pytest.mark.parametrize("tag", ["py311", "py312"])
def test_lock_names_every_declared_dependency(tag):
    pinned = {line.split("==")[0] for line in (ROOT / "requirements" / f"{tag}.lock").read_text().split("\n")}
    assert declared_distributions() | declared_distributions("huggingface") <= pinned
