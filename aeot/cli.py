"""The ``aeot`` command.

``aeot --help`` reads the table below and nothing else. A subcommand is one line of it: the function
that does the work, and one sentence. jsonargparse makes options of the function's signature; what
it returns is printed. A third entry names an estimator class: its constructor's options are
offered too, and the function gets the instance as ``model``. Signatures are read from the source:
what is imported is only what runs, so ``--help`` and a mistyped option need no torch.
"""

from __future__ import annotations

import ast
import contextlib
import difflib
import functools
import importlib
import inspect
import logging
import os
import re
import signal
import sys
import warnings
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import aeot
from aeot import _loop

COMMANDS: dict[str, tuple[str, ...]] = {
    "demo": (
        "aeot.commands.demo:demo",
        "draw a map that tears, then learn and draw digits",
    ),
    "fit": (
        "aeot.commands.fit:fit",
        "fit a model and write a run directory",
        "aeot.models.aeot:AEOT",
    ),
    "sample": ("aeot.commands.sample:sample", "draw new images from a finished run"),
    "compare": ("aeot.commands.compare:compare", "train, measure and compare generators"),
    "runs": ("aeot.commands.runs:runs", "list runs side by side with their numbers"),
    "report": ("aeot.commands.report:report", "write one HTML page about runs and comparisons"),
    "translate": (
        "aeot.commands.translate:translate",
        "train a translator between two collections of images",
        "aeot.gan.cyclegan:CycleGAN",
    ),
    "doctor": (
        "aeot.commands.doctor:doctor",
        "show versions, devices, compilers and data sets found",
    ),
}
# Options that memory grows with, the most effective first.
_MEMORY = ("batch_size", "size", "width", "filters", "n", "n_samples", "shown", "latent_dim")
_KINDS = {  # of an option, by its annotation
    "int": "a whole number",
    "float": "a number",
    "bool": "true or false",
    "list[str]": "names",
    "tuple[float, float]": "two numbers, as in [0.5,0.999]",
}
_LONGEST_CONFIG = 1 << 20  # bytes
_DEEPEST_CONFIG = 20
_HELP = """\
usage: aeot COMMAND [options]

Autoencoders and semi-discrete optimal transport for generative modelling.

commands:
{commands}

aeot COMMAND --help lists the options of a command. Each of them can come from a YAML file given
as --config FILE; --print_config writes one. AEOT_DEBUG=1 shows the traceback of an error.
"""


_TOGETHER = ("compare", "fit")  # what processes that torchrun starts work on together
# What these have done is kept where they are stopped.
_GOING_ON = ("demo", "fit", "translate", "compare")


class _Refused(Exception):
    """The command line itself is wrong."""


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line.

    Args:
        argv: The arguments after ``aeot``; None takes the process's own.

    Returns:
        The exit status: 0, 2 for a mistake the user can mend, 130 if stopped by Ctrl-C (SIGINT),
        143 by SIGTERM.
    """
    argv = list(sys.argv[1:] if argv is None else argv)
    if not argv or argv[0] in ("-h", "--help", "help"):
        lines = [f"  {name:<10}{entry[1]}" for name, entry in COMMANDS.items()]
        print(_HELP.format(commands="\n".join(lines)), end="")
        return 0
    if argv[0] in ("-V", "--version"):
        print(f"aeot {aeot.__version__}")
        return 0
    try:
        if argv[0] not in COMMANDS:
            known = ", ".join(COMMANDS)
            raise _Refused(f"there is no command {argv[0]!r}; the commands are {known}")
        with _quiet_messages(), _loop.stopping_at_once(), _loop.Loop("", stops=False):
            _run(argv[0], [_underscored(argument) for argument in argv[1:]])
    except KeyboardInterrupt as stopped:
        return _stopped(stopped, argv)
    except BrokenPipeError:  # `aeot doctor | head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    # Training that diverged is a FloatingPointError.
    except (_Refused, ValueError, FloatingPointError, OSError, ImportError) as error:
        told = " ".join(str(error).split()) or type(error).__name__
        return _failed(error, _as_options(told, argv[0]))
    except (MemoryError, RuntimeError) as error:
        from aeot._environment import is_out_of_memory  # torch is loaded by now

        if not is_out_of_memory(error):
            raise
        offered = _offered(argv[0])
        names = [name for name in _MEMORY if name in offered]
        lower = ", ".join(f"--{name}" for name in names)
        told = " ".join(str(error).split())[:200] or "no more can be had"
        return _failed(error, f"out of memory ({told}); lower {lower or 'what is asked for'}")
    return 0


def _offered(command: str) -> dict[str, inspect.Parameter]:
    """Return the options of a command by name, its estimator's among them."""
    signatures = [inspect.signature(_signature(place)) for place in COMMANDS[command][::2]]
    return {name: p for signature in signatures for name, p in signature.parameters.items()}


def _as_options(told: str, command: str) -> str:
    """Spell what a message says of arguments, ``size=32``, as it is typed: ``--size 32``."""
    if command not in COMMANDS:
        return told
    named = "|".join(map(re.escape, _offered(command))) or "$^"
    return re.sub(rf"(?<![\w.-])({named})=(True\b|\.\.\.)?", _as_option, told)


def _as_option(found: re.Match[str]) -> str:
    return f"--{found[1]}" + ("" if found[2] else " ")


def _failed(error: Exception, message: str) -> int:
    """Say in one line why a command failed; return the status."""
    if os.environ.get("AEOT_DEBUG"):
        raise error
    if not getattr(error, "said", False):  # by another process
        print(f"aeot: error: {message}", file=sys.stderr)
    return 2


def _stopped(error: KeyboardInterrupt, argv: list[str]) -> int:
    """Say in one line where a command was stopped and what becomes of it; return the status."""
    number, where = int(getattr(error, "number", signal.SIGINT)), getattr(error, "where", "")
    told = f"stopped by {signal.Signals(number).name}" + (f" at {where}" if where else "")
    way_out = getattr(error, "way_out", "")  # of a run directory, which knows what is in it
    if not way_out:
        way_out = "the same command starts anew"
        if argv[0] in _GOING_ON:
            way_out = "the same command goes on with what was saved, if anything was"
    elif any(word.partition("=")[0] == "--overwrite" for word in argv):
        way_out = way_out.replace("command goes on", "command without --overwrite goes on")
    if not getattr(error, "said", False):  # by another process
        print(f"aeot: {told}; {way_out}", file=sys.stderr)
    return 128 + number


def _run(command: str, argv: list[str]) -> None:
    for k, word in enumerate(argv):
        if word == "--config":
            _check_config(command, argv[k + 1] if k + 1 < len(argv) else "")
        elif word.startswith("--config="):
            _check_config(command, word.partition("=")[2])
    import jsonargparse

    places = COMMANDS[command][::2]
    function, *estimators = map(_signature, places)
    parser = jsonargparse.ArgumentParser(
        prog=f"aeot {command}",
        description=COMMANDS[command][1],
        exit_on_error=False,
        allow_abbrev=False,
    )
    parser.add_argument("--config", action="config", help="YAML file with any of these options")
    own = parser.add_function_arguments(function, as_group=False, as_positional=True)
    theirs = [parser.add_function_arguments(e, as_group=False) for e in estimators]
    words = _gathered(function, _flagged(function, argv))
    texts = _texts(words, _offered(command))
    try:
        chosen = parser.parse_args(words)
    except jsonargparse.ArgumentError as error:
        meant = _meant(str(error), [*own, *(name for names in theirs for name in names)])
        raise _Refused(f"{_typed(error, command)}; {meant}see aeot {command} --help") from error
    plain = chosen.as_dict()
    plain |= {name: text for name, text in texts.items() if plain[name] is None}
    arguments = {name: plain[name] for name in own}
    run, *kinds = map(_load, places)
    from aeot import _ranks  # torch is loaded by now

    if command not in _TOGETHER and not _ranks.is_writer():  # one process does it all
        return
    for kind, names in zip(kinds, theirs, strict=True):
        arguments["model"] = kind(**{name: plain[name] for name in names})
    if told := str(run(**arguments) or ""):
        print(told)


def _texts(words: list[str], offered: dict[str, inspect.Parameter]) -> dict[str, str]:
    """Return what was typed for options that are a text or nothing; refuse an empty value of any.

    jsonargparse reads some texts as null: null, ~, #1.
    """
    found = {}
    for word, after in zip(words, [*words, "-"][1:], strict=True):
        option, equals, value = word.partition("=")
        if not option.startswith("--"):
            continue
        value = value if equals else after
        if not value:
            told = f"{option} must have a value, got ''; leave {option} out to have its default"
            raise _Refused(told)
        known = offered.get(option[2:])
        if known is not None and str(known.annotation) == "str | None":
            found[option[2:]] = value
    return found


def _check_config(command: str, given: str) -> None:
    """Refuse a file of options that is no plain YAML, before anything is made of it.

    What an alias stands for is copied wherever it comes, so a few lines can fill any memory.
    """
    import yaml  # type: ignore[import-untyped]

    try:
        if not os.path.exists(given) or os.path.isdir(given):
            what = "is a folder" if os.path.isdir(given) else "does not exist"
            got = f"{given[:200]!r}, which {what}" if given else "none"
            way_out = f"aeot {command} --print_config > options.yaml writes one"
            raise _Refused(f"--config must be a YAML file, got {got}; {way_out}")
        if not os.path.isfile(given):  # a pipe is read once, by jsonargparse
            return
        with open(given, "rb") as file:
            text = file.read(_LONGEST_CONFIG + 1)
        if len(text) > _LONGEST_CONFIG:
            raise ValueError("it is longer than 1 MB")
        depth = 0
        for event in yaml.parse(text.decode("utf-8-sig"), Loader=yaml.SafeLoader):
            if isinstance(event, yaml.AliasEvent):
                raise ValueError(f"it has an alias, *{event.anchor}; write the value out")
            if tag := getattr(event, "tag", None):
                short = tag.replace("tag:yaml.org,2002:", "!!")[:60]
                raise ValueError(f"it has a tag, {short}; write the value without it")
            depth += isinstance(event, yaml.CollectionStartEvent)
            depth -= isinstance(event, yaml.CollectionEndEvent)
            if depth > _DEEPEST_CONFIG:
                raise ValueError(f"its values are nested more than {_DEEPEST_CONFIG} deep")
        options = yaml.compose(text.decode("utf-8-sig"), Loader=yaml.SafeLoader)
        options = options.value if isinstance(options, yaml.MappingNode) else []
        names = [str(key.value) for key, _ in options]
        for name in names:
            if names.count(name) > 1:
                raise ValueError(f"it says {name} twice")
    except (OSError, ValueError, RecursionError, yaml.YAMLError) as error:
        told = error.reason if isinstance(error, UnicodeDecodeError) else error
        told = "it is not UTF-8 text: " + str(told) if told is not error else str(told)
        raise _Refused(f"--config must be plain YAML, got {given[:200]}: {told}") from error


def _typed(error: Exception, command: str) -> str:
    """Say in our words that a value is of the wrong kind; leave jsonargparse its other messages."""
    told = " ".join(str(error).split())
    name = re.search(r'Parser key "(\w+)"', told)
    value = re.findall(r"(?:Given value|Got value): (.+?)(?= - Expected| Given value|$)", told)
    option = _offered(command).get(name[1]) if name else None
    kind = _KINDS.get(str(option.annotation).split(" | ")[0]) if option else None
    if name is None or kind is None or not value:
        return told
    return f"--{name[1]} must be {kind}, got {value[-1][:100]}"


def _meant(told: str, options: list[str]) -> str:
    """Ask for the option that an unknown one in jsonargparse's message is like, or nothing."""
    unknown = re.search(
        r"Option '([^']+)' is not accepted|unrecognized arguments: --([^\s=]+)", told
    )
    word = (unknown[1] or unknown[2]) if unknown else ""
    near = difflib.get_close_matches(word, options, n=1)
    return f"did you mean {near[0]!r}? " if near else ""


def _load(place: str) -> Callable[..., Any]:
    module, name = place.split(":")
    return getattr(importlib.import_module(module), name)


@functools.cache
def _signature(place: str) -> Callable[..., None]:
    """Return an empty function with the options and the docstring of the one, or class, named.

    Its source is parsed and nothing in it is run: options have plain defaults.
    """
    found, arguments = _definition(*place.split(":"))
    docstring = ast.Expr(ast.Constant(ast.get_docstring(found)))
    header = ast.ImportFrom("__future__", [ast.alias("annotations")], 0)
    empty = ast.FunctionDef(found.name, arguments, [docstring], [])
    space: dict[str, Any] = {"__name__": "builtins"}  # where types are looked up
    tree = ast.fix_missing_locations(ast.Module([header, empty], []))
    exec(compile(tree, place, "exec"), space)
    return space[found.name]


def _definition(module: str, name: str) -> tuple[ast.FunctionDef | ast.ClassDef, ast.arguments]:
    """Find a function or a dataclass of keywords in its source; return it and its arguments."""
    path = Path(__file__).parent.joinpath(*module.split(".")[1:]).with_suffix(".py")
    tree = ast.parse(path.read_text(encoding="utf-8"))
    found = next(node for node in tree.body if getattr(node, "name", "") == name)
    if isinstance(found, ast.FunctionDef):
        found.args.args = [
            arg for arg in found.args.args if arg.arg != "model"
        ]  # made from options
        return found, found.args
    assert isinstance(found, ast.ClassDef)
    fields: dict[str, tuple[ast.arg, ast.expr | None]] = {}
    imported = {
        alias.name: node.module
        for node in tree.body
        if isinstance(node, ast.ImportFrom) and node.module
        for alias in node.names
    }
    for base in map(ast.unparse, found.bases):
        theirs = _definition(imported.get(base, module), base)[1]
        fields |= {
            a.arg: (a, d) for a, d in zip(theirs.kwonlyargs, theirs.kw_defaults, strict=True)
        }
    for node in found.body:
        if not isinstance(node, ast.AnnAssign) or node.value is None:
            continue
        # A field for any object takes nothing that could be typed.
        if not ast.unparse(node.annotation).startswith(("ClassVar", "Any")):
            field = ast.arg(ast.unparse(node.target), _typeable(node.annotation))
            fields[field.arg] = (field, node.value)
    names, defaults = zip(*fields.values(), strict=True) if fields else ((), ())
    return found, ast.arguments([], [], None, list(names), list(defaults), None, [])


def _typeable(kind: ast.expr) -> ast.expr:
    """Return a union of types without those of other modules, of which none can be typed."""
    if not isinstance(kind, ast.BinOp):
        return kind
    left, *right = (
        _typeable(k) for k in (kind.left, kind.right) if not isinstance(k, ast.Attribute)
    )
    return ast.BinOp(left, kind.op, right[0]) if right else left


def _gathered(function: Callable[..., Any], argv: list[str]) -> list[str]:
    """Read words that belong together as one list: `report a b`, `compare --metrics c d --out e f`.

    An option that takes names takes all words up to the next option, any other one word. Words
    left over belong to the function's first argument, if that takes names or may be left out:
    `fit faces/` is `fit --data faces/`.
    """
    parameters = list(inspect.signature(function).parameters.values())
    lists = {f"--{p.name}" for p in parameters if str(p.annotation).startswith("list[str]")}
    optional = bool(parameters) and parameters[0].kind is parameters[0].POSITIONAL_OR_KEYWORD
    optional = optional and parameters[0].default is not parameters[0].empty
    if not optional and (not parameters or f"--{parameters[0].name}" not in lists):
        return argv
    loose: list[str] = []
    gathered: list[str] = []
    rest = list(argv)
    while rest:
        word = rest.pop(0)
        if word == "--":
            loose += rest
            break
        if not word.startswith("-"):
            loose.append(word)
            continue
        option, equals, value = word.partition("=")
        if option not in lists:
            alone = bool(equals) or option == "--print_config"
            gathered += [word, *([] if alone else rest[:1])]
            rest = rest if alone else rest[1:]
            continue
        words = [value] if equals else []
        while not equals and rest and not rest[0].startswith("-"):
            words.append(rest.pop(0))
        gathered += [
            option,
            *(words if words[:1] and words[0].startswith("[") else [_listed(words)]),
        ]
    if optional:
        first = f"--{parameters[0].name}"
        given = any(word.partition("=")[0] == first for word in gathered)
        return [*gathered, *(f"{first}={word}" for word in loose[: not given]), *loose[not given :]]
    one = len(loose) == 1 and loose[0].startswith("[")
    return [*(loose if one else [_listed(loose)] if loose else []), *gathered]


def _listed(words: list[str]) -> str:
    """Return words as a list in YAML, in ASCII: JSON writes an emoji as two halves of one."""
    import yaml

    return yaml.safe_dump(
        words, default_style='"', default_flow_style=True, width=float("inf")
    ).strip()


def _flagged(function: Callable[..., Any], argv: list[str]) -> list[str]:
    """Read --overwrite alone as --overwrite=true."""
    parameters = inspect.signature(function).parameters.values()
    flags = {f"--{p.name}" for p in parameters if p.annotation in (bool, "bool")}
    bare = [k + 1 == len(argv) or argv[k + 1].startswith("-") for k in range(len(argv))]
    return [f"{w}=true" if w in flags and b else w for w, b in zip(argv, bare, strict=True)]


def _underscored(argument: str) -> str:
    """Read --latent-dim as --latent_dim: both spellings are typed."""
    if not argument.startswith("--"):
        return argument
    option, equals, value = argument.partition("=")
    return "--" + option[2:].replace("-", "_") + equals + value


@contextlib.contextmanager
def _quiet_messages() -> Iterator[None]:
    """Show warnings and the package's log as plain lines on stderr."""

    def show(message: Warning | str, *_: object, **__: object) -> None:
        print(f"aeot: warning: {message}", file=sys.stderr)

    handler = logging.StreamHandler()
    handler.setFormatter(logging.Formatter("aeot: %(message)s"))
    log = logging.getLogger("aeot")
    level = log.level
    with warnings.catch_warnings():
        warnings.showwarning = show
        log.addHandler(handler)
        log.setLevel(logging.INFO)
        try:
            yield
        finally:
            log.removeHandler(handler)
            log.setLevel(level)
