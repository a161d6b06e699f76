"""The ``aeot`` command.

``aeot --help`` reads the table below and nothing else. A subcommand is one line of it: the function
that does the work, and one sentence. jsonargparse makes options of the function's signature; what
it returns is printed. A third entry names an estimator class: its constructor's options are
offered too, and the function gets the instance as ``model``.
"""

from __future__ import annotations

import contextlib
import importlib.util
import inspect
import json
import logging
import os
import shutil
import sys
import warnings
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import aeot

COMMANDS: dict[str, tuple[str, ...]] = {
    "demo": ("aeot.commands.fit:demo", "train, transport and generate on scikit-learn's digits"),
    "fit": (
        "aeot.commands.fit:fit",
        "fit a model and write a run directory",
        "aeot.models.aeot:AEOT",
    ),
    "sample": ("aeot.commands.fit:sample", "draw new images from a finished run"),
    "compare": ("aeot.commands.compare:compare", "train, measure and compare generators"),
    "report": ("aeot.commands.compare:report", "write one HTML page about runs and comparisons"),
    "translate": (
        "aeot.commands.translate:translate",
        "train a translator between two collections of images",
        "aeot.gan.translate:CycleGAN",
    ),
    "doctor": ("aeot.cli:doctor", "show versions, devices, compilers and data sets found"),
}
_HELP = """\
usage: aeot COMMAND [options]

Autoencoders and semi-discrete optimal transport for generative modelling.

commands:
{commands}

aeot COMMAND --help lists the options of a command. Each of them can come from a YAML file given
as --config FILE; --print_config writes one. AEOT_DEBUG=1 shows the traceback of an error.
"""


class _Refused(Exception):
    """The command line itself is wrong."""


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line.

    Args:
        argv: The arguments after ``aeot``; None takes the process's own.

    Returns:
        The exit status: 0, 2 for a mistake the user can mend, 130 if interrupted.
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
        with _quiet_messages():
            _run(argv[0], [_underscored(argument) for argument in argv[1:]])
    except KeyboardInterrupt:
        print("aeot: stopped", file=sys.stderr)
        return 130
    except BrokenPipeError:  # `aeot doctor | head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    # Training that diverged is a FloatingPointError.
    except (_Refused, ValueError, FloatingPointError, OSError, ImportError) as error:
        if os.environ.get("AEOT_DEBUG"):
            raise
        message = " ".join(str(error).split())
        print(f"aeot: error: {message or type(error).__name__}", file=sys.stderr)
        return 2
    return 0


def _run(command: str, argv: list[str]) -> None:
    import jsonargparse

    function = _load(COMMANDS[command][0])
    estimator = _load(COMMANDS[command][2]) if len(COMMANDS[command]) > 2 else None
    parser = jsonargparse.ArgumentParser(
        prog=f"aeot {command}",
        description=COMMANDS[command][1],
        exit_on_error=False,
        allow_abbrev=False,
    )
    parser.add_argument("--config", action="config", help="YAML file with any of these options")
    own = parser.add_function_arguments(
        function, as_group=False, as_positional=True, skip={"model"}
    )
    theirs = parser.add_class_arguments(estimator, as_group=False) if estimator else []
    try:
        chosen = parser.parse_args(_gathered(function, _flagged(function, argv)))
    except jsonargparse.ArgumentError as error:
        raise _Refused(f"{error}; see aeot {command} --help") from error
    plain = chosen.as_dict()
    arguments = {name: plain[name] for name in own}
    if estimator:
        arguments["model"] = estimator(**{name: plain[name] for name in theirs})
    if told := str(function(**arguments) or ""):
        print(told)


def _load(place: str) -> Callable[..., Any]:
    module, name = place.split(":")
    return getattr(importlib.import_module(module), name)


def _gathered(function: Callable[..., Any], argv: list[str]) -> list[str]:
    """Read words that belong together as one list: `report a b`, `compare --metrics c d --out e f`.

    An option that takes names takes all words up to the next option, any other one word. Words
    left over belong to the function's first argument, if that takes names.
    """
    parameters = list(inspect.signature(function).parameters.values())
    lists = {f"--{p.name}" for p in parameters if str(p.annotation).startswith("list[str]")}
    if not parameters or f"--{parameters[0].name}" not in lists:
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
            gathered += [word, *([] if equals else rest[:1])]
            rest = rest if equals else rest[1:]
            continue
        words = [value] if equals else []
        while not equals and rest and not rest[0].startswith("-"):
            words.append(rest.pop(0))
        gathered += [
            option,
            *(words if words[:1] and words[0].startswith("[") else [json.dumps(words)]),
        ]
    one = len(loose) == 1 and loose[0].startswith("[")
    return [*(loose if one else [json.dumps(loose)] if loose else []), *gathered]


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


def doctor() -> None:
    """Print what this installation can use: versions, devices, compilers, data sets."""
    from aeot._environment import environment
    from aeot.data.named import NAMES

    facts = environment()
    print(f"aeot {aeot.__version__}, Python {facts['python']}, {facts['platform']}")
    print(f"processor   {facts['processor']}, {facts['cores']} cores, {facts['threads']} threads")
    print(f"memory      {facts['memory_gib']} GiB")
    print(f"GPUs        {', '.join(facts['gpus']) or 'none'}")
    print(f"KeOps       {_keops()}")
    print("versions    " + ", ".join(f"{k} {v}" for k, v in facts["versions"].items()))
    print("data sets")
    for name in NAMES:
        print(f"  {name:<14}{_found(name)}")


def _found(name: str) -> str:
    from aeot.data import dataset

    if name == "celeba":  # reading it takes minutes
        return "not looked for; pass root=FOLDER when you use it"
    try:
        count = len(dataset(name, split="train"))
    except ValueError as error:
        return "not found; " + str(error).partition("; ")[2]
    return f"{count} training images"


def _keops() -> str:
    # Not imported: the first import compiles for half a minute.
    if importlib.util.find_spec("pykeops") is None:
        return "not installed; the other engines do without"
    compiler = next((c for c in ("g++", "clang++", "c++") if shutil.which(c)), None)
    return f"installed, compiler {shutil.which(compiler)}" if compiler else "installed, no compiler"
