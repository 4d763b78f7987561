"""Gin, the T5X way without its traps: the only module (with xtr/cli) that knows gin.

The rest of xtr takes frozen dataclasses. Here gin files and `--gin.NAME=VALUE` overrides are read, checked and turned
into those dataclasses. Stricter than gin itself: a macro nobody reads, a name nobody knows, an override that a scoped
binding shadows and a required value left unset are errors before anything runs; each names its file and line.
"""

import contextlib
import copy
import dataclasses
import functools
import importlib
import inspect
import os
import re
import tokenize
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any

import gin
from gin import config_parser

from xtr.errors import UserError, did_you_mean

COMMAND_LINE = "command line"
ASSUMED = "assumed"  # the place of a value that nobody gave
_REQUIRED = "%gin.REQUIRED"
ENTRIES = ("train", "evaluate", "infer", "plan", "study")
_WITHIN = {"plan": {"train"}}  # the entries whose bindings another entry reads too
# An override that starts like this is meant as a Python literal or a gin reference: never guessed to be a string.
_LITERAL_START = ("{", "[", "(", "'", '"', "@", "%")


@dataclasses.dataclass(frozen=True)
class Binding:
    """One `name = value` statement with the place that says it; `source` is the value as gin writes it."""

    scope: str
    selector: str
    arg: str  # '' for a macro
    value: Any
    file: str
    line: int

    @property
    def name(self) -> str:
        scoped = f"{self.scope}/{self.selector}" if self.scope else self.selector
        return f"{scoped}.{self.arg}" if self.arg else scoped

    @property
    def where(self) -> str:
        return self.file if self.file in (COMMAND_LINE, ASSUMED) else f"{self.file}:{self.line}"

    @property
    def source(self) -> str:
        return repr(self.value)


@dataclasses.dataclass(frozen=True)
class Config:
    """A parsed and checked configuration: every statement in order, and the effective ones by name."""

    statements: tuple[Binding, ...]
    overrides: tuple[str, ...]

    @property
    def effective(self) -> dict[str, Binding]:
        return {binding.name: binding for binding in self.statements}

    def config_gin(self) -> str:
        """The effective statements as one gin file, each with the place it came from."""
        return "".join(f"{b.name} = {b.source}  # {b.where}\n" for b in self.effective.values())

    def overrides_gin(self) -> str:
        return "".join(line + "\n" for line in self.overrides)

    def texts(self) -> dict[str, str]:
        """The files that a run directory keeps of its configuration; call it once the run is built."""
        return {
            "config.gin": self.config_gin(),
            "operative_config.gin": operative_config(),
            "overrides.gin": self.overrides_gin(),
        }


# ---------------------------------------------------------------------------------------------------------------------
# Registration
# ---------------------------------------------------------------------------------------------------------------------


def _register() -> None:
    """Makes the configurable dataclasses known to gin, under the names T5X users type where T5X has them."""
    from xtr.data.lengths import AutoLengths
    from xtr.data.mixing import Mixing
    from xtr.evaluate.decoding import Decoding
    from xtr.evaluate.ranking import Ranking
    from xtr.evaluate.run import EvaluateRun, InferRun
    from xtr.models.bert import BertConfig
    from xtr.models.bloom import BloomConfig
    from xtr.models.heads import WithHead
    from xtr.models.mt5 import MT5Config
    from xtr.models.multitask import WithHeads
    from xtr.parallel.mesh import MeshConfig
    from xtr.plan.run import PlanRun
    from xtr.study.spec import StudySpec
    from xtr.train.adafactor import AdafactorConfig
    from xtr.train.adamw import AdamWConfig
    from xtr.train.run import SaveCheckpointConfig, TrainRun
    from xtr.train.schedules import ScheduleConfig

    for configurable, name, module in (
        (MT5Config, "MT5Config", "mt5"),
        (BertConfig, "BertConfig", "bert"),
        (BloomConfig, "BloomConfig", "bloom"),
        (WithHead, "WithHead", "heads"),
        (WithHeads, "WithHeads", "heads"),
        (AdafactorConfig, "Adafactor", "adafactor"),
        (AdamWConfig, "AdamW", "adamw"),
        (ScheduleConfig, "create_learning_rate_scheduler", "utils"),
        (SaveCheckpointConfig, "SaveCheckpointConfig", "utils"),
        (MeshConfig, "MeshConfig", "partitioning"),
        (Mixing, "Mixing", "mixing"),
        (AutoLengths, "AutoLengths", "lengths"),
        (Decoding, "Decoding", "decoding"),
        (Ranking, "Ranking", "ranking"),
        (TrainRun, "train", "xtr"),
        (EvaluateRun, "evaluate", "xtr"),
        (InferRun, "infer", "xtr"),
        (PlanRun, "plan", "xtr"),
        (StudySpec, "study", "xtr"),
    ):
        gin.external_configurable(configurable, name, module=module)


_registered = False


def _ensure_registered() -> None:
    global _registered
    if not _registered:
        _register()
        _registered = True


def _configurables() -> dict[str, Callable]:
    _ensure_registered()
    registry = gin.config._REGISTRY
    return {selector: registry[selector].wrapped for selector, _ in registry.items() if not selector.startswith("gin.")}


# ---------------------------------------------------------------------------------------------------------------------
# Files
# ---------------------------------------------------------------------------------------------------------------------


def shipped_gin_dir() -> Path:
    """The folder of gin files that comes with xtr, in a checkout and in a wheel alike."""
    return Path(next(iter(importlib.import_module("xtr.gin").__path__)))


def shipped_gin_files() -> list[str]:
    root = shipped_gin_dir()
    return sorted(str(p.relative_to(root)) for p in root.rglob("*.gin"))


def find_gin_file(name: str, search_paths: Sequence[str], includer: str | None = None) -> Path:
    """Finds a gin file: as given, beside its includer, in the user's search paths, then among the shipped ones."""
    roots = [Path(includer).parent] if includer else []
    roots += [Path("."), *map(Path, search_paths), shipped_gin_dir()]
    for candidate in [Path(name)] if os.path.isabs(name) else [root / name for root in roots]:
        if candidate.is_file():
            return candidate
    known = shipped_gin_files()
    hint = did_you_mean(name, known) or did_you_mean(os.path.basename(name), known)
    looked = ", ".join(dict.fromkeys(str(root) for root in roots))
    raise UserError(f"gin file {name!r} not found (looked in {looked}).{hint} `xtr list gin` shows the shipped files.")


def _display(path: Path) -> str:
    root = shipped_gin_dir()
    with contextlib.suppress(ValueError):
        return "xtr:" + str(path.resolve().relative_to(root.resolve()))
    return str(path)


# ---------------------------------------------------------------------------------------------------------------------
# Parsing
# ---------------------------------------------------------------------------------------------------------------------


def _delegate() -> gin.config.ParserDelegate:
    """Resolves references and macros while a file is parsed, as gin itself does."""
    return gin.config.ParserDelegate(skip_unknown=False)


def _statements(text: str, file: str, path: Path | None, search_paths, stack) -> list[Binding]:
    out: list[Binding] = []
    try:
        for statement in config_parser.ConfigParser(text, _delegate()):
            if isinstance(statement, config_parser.BindingStatement):
                scope, selector, arg, value, location = statement
                out.append(Binding(scope or "", selector, arg or "", value, file, location.line_num))
            elif isinstance(statement, config_parser.IncludeStatement):
                included = find_gin_file(statement.filename, search_paths, str(path) if path else None)
                if included in stack:
                    raise UserError(f"{file}:{statement.location.line_num}: {statement.filename!r} includes itself.")
                out += _read_file(included, search_paths, (*stack, included))
            elif isinstance(statement, config_parser.ImportStatement):
                if statement.module.startswith("__gin__"):
                    raise UserError(
                        f"{file}:{statement.location.line_num}: dynamic registration is T5X's; xtr's names are all"
                        " registered, remove this line."
                    )
                importlib.import_module(statement.module)
    except SyntaxError as error:
        raise UserError(f"{file}:{error.lineno or '?'}: not gin: {error.msg} {(error.text or '').strip()}") from None
    except tokenize.TokenError as error:
        raise UserError(f"{file}:{error.args[1][0]}: not gin: {error.args[0]}") from None
    except ValueError as error:
        raise UserError(f"{file}: {_first_line(error)}{_reference_hint(str(error))}") from None
    return out


def _read_file(path: Path, search_paths, stack=()) -> list[Binding]:
    return _statements(path.read_text(), _display(path), path, search_paths, stack or (path,))


def _first_line(error: Exception) -> str:
    return str(error).strip().split("\n")[0]


def _reference_hint(message: str) -> str:
    found = re.search(r"['\"@]([\w./]+)", message)
    return did_you_mean(found.group(1), _configurables()) if found else ""


def parse_override(text: str) -> str:
    """`NAME=VALUE` as one gin statement; a value that is no literal is taken as a bare string."""
    name, equals, value = text.partition("=")
    name, value = name.strip(), value.strip()
    if not equals or not re.fullmatch(r"[A-Za-z_][\w./]*", name):
        raise UserError(f"override {text!r} is not of the form NAME=VALUE.")
    try:
        list(config_parser.ConfigParser(f"{name} = {value}", _delegate()))
        return f"{name} = {value}"
    except (SyntaxError, ValueError, tokenize.TokenError) as error:
        if value.startswith(_LITERAL_START):
            hint = _reference_hint(str(error)) if value[0] in "@%" else ""
            raise UserError(f"override {name}: cannot read {value!r}: {_first_line(error)}{hint}") from None
        return f"{name} = {value!r}"


def load(
    gin_files: Sequence[str],
    overrides: Sequence[str] = (),
    search_paths: Sequence[str] = (),
    *,
    entry: str,
    required: bool = True,
    assumed: Mapping[str, Any] = MappingProxyType({}),
) -> Config:
    """Reads and checks a configuration, replacing any earlier one.

    Args:
      gin_files: files in order, later ones win; found as `find_gin_file` says.
      overrides: `NAME=VALUE` texts, applied last, in order.
      search_paths: the user's own folders, tried before the shipped files.
      entry: the configurable that will be built ('train', 'evaluate', 'infer', 'plan', 'study'); what it needs must be
        set.
      required: whether a required value that is not set is an error (not when a configuration is only shown).
      assumed: values of required macros that are not set.

    Raises:
      UserError: an unknown or unused name, a shadowed override, a required value left unset, or a syntax error.
    """
    _ensure_registered()
    gin.clear_config()
    statements: list[Binding] = []
    for name in gin_files:
        statements += _read_file(find_gin_file(name, search_paths), search_paths)
    lines = [parse_override(text) for text in overrides]
    for line in lines:
        statements += _statements(line, COMMAND_LINE, None, search_paths, ())
    unset = {b.name for b in {b.name: b for b in statements}.values() if b.source == _REQUIRED}
    for name in sorted(unset & set(assumed)):
        statements += _statements(f"{name} = {assumed[name]!r}", ASSUMED, None, search_paths, ())
    for binding in statements:
        _bind(binding)
    config = Config(tuple(statements), tuple(lines))
    if required:
        _check_entry(config, entry)
    _check_macros(config, entry)
    _check_shadowed(config)
    if required:
        _check_required(config, entry)
    return config


def _bind(binding: Binding) -> None:
    if not binding.arg:
        gin.bind_parameter((binding.name, "gin.macro", "value"), binding.value)
        return
    known = _configurables()
    matches = [s for s in known if s == binding.selector or s.endswith("." + binding.selector)]
    if not matches:
        tails = {s.rsplit(".", 1)[-1] for s in known} | set(known)
        raise UserError(
            f"{binding.where}: nothing is named {binding.selector!r}.{did_you_mean(binding.selector, tails)}"
        )
    parameters = inspect.signature(known[matches[0]]).parameters
    if len(matches) == 1 and binding.arg not in parameters:
        raise UserError(
            f"{binding.where}: {binding.selector} has no parameter {binding.arg!r}."
            + did_you_mean(binding.arg, parameters)
        )
    try:
        gin.bind_parameter((binding.scope, binding.selector, binding.arg), binding.value)
    except ValueError as error:
        raise UserError(f"{binding.where}: {_first_line(error)}") from None


def _macros_in(binding: Binding) -> set[str]:
    """The macros that a binding's value reads."""
    found = set()
    for reference in gin.config.iterate_references({"": {"": binding.value}}):
        if repr(reference).startswith("%"):
            found.add(repr(reference)[1:])
    return found


def _others(entry: str) -> set[str]:
    """The entries whose bindings `entry` does not read."""
    return set(ENTRIES) - {entry} - _WITHIN.get(entry, set())


def _read_macros(config: Config, entry: str) -> set[str]:
    """Macros that reach `entry`: read by a binding that it can use, or by a macro that such a binding reads."""
    effective = config.effective.values()
    macros = {b.name: b for b in effective if not b.arg}
    others = _others(entry)
    frontier = set()
    for binding in effective:
        if binding.arg and binding.selector.split(".")[-1] not in others:
            frontier |= _macros_in(binding)
    reached: set[str] = set()
    while frontier:
        name = frontier.pop()
        reached.add(name)
        if name in macros:
            frontier |= _macros_in(macros[name]) - reached
    return reached


@functools.cache
def _shipped_macros() -> frozenset[str]:
    """Every macro that a shipped gin file sets: a file may set one of these though this run does not read it."""
    names: set[str] = set()
    for name in shipped_gin_files():
        names |= set(re.findall(r"^([A-Z][A-Z0-9_]*) *=", (shipped_gin_dir() / name).read_text(), re.MULTILINE))
    return frozenset(names)


def _check_macros(config: Config, entry: str) -> None:
    read = _read_macros(config, entry)
    defined = {b.name: b for b in config.effective.values() if not b.arg}
    for name, binding in defined.items():
        if name in read or (binding.file != COMMAND_LINE and name in _shipped_macros()):
            continue
        near = did_you_mean(name, read - {"gin.REQUIRED"}) or did_you_mean(name, _shipped_macros() - {name})
        readers = [b for b in config.statements if name in _macros_in(b)]
        shadowed = config.effective.get(readers[-1].name) if readers else None
        why = f" ({shadowed.name} is set to {shadowed.source} at {shadowed.where}: override that)" if shadowed else ""
        raise UserError(
            f"{binding.where}: {name} is set but nothing in this {entry} run reads it{why}.{'' if why else near}"
        )
    for name in sorted(read - set(defined) - {"gin.REQUIRED"}):
        raise UserError(f"%{name} is read but never set.{did_you_mean(name, defined)}")


def _check_shadowed(config: Config) -> None:
    effective = config.effective.values()
    for ours in (b for b in effective if b.file == COMMAND_LINE and b.arg and not b.scope):
        for other in (b for b in effective if b.scope and b.arg == ours.arg):
            if other.selector.split(".")[-1] == ours.selector.split(".")[-1]:
                raise UserError(
                    f"override {ours.name} has no effect where {other.name} is set at {other.where}: set {other.name}."
                )


def _check_entry(config: Config, entry: str) -> None:
    parameters = inspect.signature(_configurables()[f"xtr.{entry}"]).parameters
    unset = [
        p for p in parameters if parameters[p].default is inspect._empty and f"{entry}.{p}" not in config.effective
    ]
    if unset:
        example = {"train": "runs/finetune.gin", "evaluate": "runs/eval.gin", "infer": "runs/infer.gin"}
        raise UserError(
            f"{entry} needs {', '.join(unset)}, and no gin file given sets it."
            f" Add --gin_file={example.get(entry, 'studies/demo.gin')} or one like it; `xtr list gin` lists them."
        )


def _check_required(config: Config, entry: str) -> None:
    read = _read_macros(config, entry)
    others = _others(entry)
    missing = [
        b
        for b in config.effective.values()
        if b.source == _REQUIRED and (b.selector.split(".")[-1] not in others if b.arg else b.name in read)
    ]
    if missing:
        listing = ", ".join(f"{b.name} ({b.where})" for b in missing)
        example = " ".join(f"--gin.{b.name}=..." for b in missing)
        raise UserError(f"required and not set: {listing}. Pass {example}")


def build(entry: str) -> Any:
    """Builds the dataclass `entry` from the loaded configuration."""
    try:
        return gin.get_configurable(entry)()
    except UserError as error:  # gin adds lines about its own calls, which say nothing to a user
        raise UserError(str(error).partition("\n  In call to configurable")[0]) from error
    except (TypeError, ValueError, RuntimeError) as error:
        raise UserError(f"cannot build {entry}: {_first_line(error)}") from error


def build_macro(name: str) -> Any:
    """The value of one macro of the loaded configuration, references built."""
    value = gin.query_parameter(f"{name}/macro.value")
    try:
        return copy.deepcopy(value)  # gin builds references when a value that holds them is copied
    except (TypeError, ValueError, RuntimeError) as error:
        raise UserError(f"cannot build {name}: {_first_line(error)}") from error


def build_model(gin_files: Sequence[str], overrides: Sequence[str] = (), search_paths: Sequence[str] = ()) -> Any:
    """The model config that gin files describe, without a run around it; dropout is 0 unless they set it.

    Where a file leaves VOCAB_SIZE to be set (the micro models do), its family's own size counts.
    """
    overrides = ["train.model=%MODEL", "DROPOUT_RATE=0.0", *overrides]
    loaded = load(gin_files, overrides, search_paths, entry="train", required=False)
    sizes = [b.source for b in loaded.statements if b.name == "VOCAB_SIZE"]
    if sizes and sizes[-1] == _REQUIRED and (set_before := [size for size in sizes if size != _REQUIRED]):
        load(gin_files, [*overrides, f"VOCAB_SIZE={set_before[-1]}"], search_paths, entry="train", required=False)
    if "MODEL" not in loaded.effective:
        raise UserError(f"{', '.join(gin_files)}: no model. Add --gin_file=models/mt5/small.gin or one like it.")
    return build_macro("MODEL")


def sets(gin_file: str, name: str, search_paths: Sequence[str] = ()) -> bool:
    """Whether a gin file (with what it includes) sets a binding, to anything but 'required'."""
    _ensure_registered()
    statements = _read_file(find_gin_file(gin_file, search_paths), search_paths)
    effective = {binding.name: binding for binding in statements}
    return name in effective


def operative_config() -> str:
    """What the built objects really used, as gin text (defaults included)."""
    return gin.operative_config_str()
