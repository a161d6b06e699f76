"""Argument checks with one message form: name, requirement, what came, the way out."""

from __future__ import annotations

import contextlib
import difflib
import functools
import inspect
import math
import os
import re
import reprlib
import sys
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol, TypeAlias

import numpy as np
import torch


class SupportsArray(Protocol):
    """What turns itself into a NumPy array: tensors, arrays, tables of pandas and polars."""

    def __array__(self) -> np.ndarray: ...


# What `array` takes: those, lists of those, and numbers in lists, nested up to images (B, C, H, W)
ArrayLike: TypeAlias = (
    SupportsArray
    | Sequence[SupportsArray]
    | Sequence[float]
    | Sequence[Sequence[float]]
    | Sequence[Sequence[Sequence[float]]]
    | Sequence[Sequence[Sequence[Sequence[float]]]]
)


def fail(name: str, requirement: str, got: object, way_out: str = "") -> ValueError:
    """Build the one kind of error this package raises for bad arguments.

    Args:
        name: The argument, as the caller spells it.
        requirement: What it must be, starting after "must" (``"be positive"``).
        got: What came instead; shown as is.
        way_out: What to do about it, or nothing.

    Returns:
        The error, to be raised by the caller.
    """
    message = f"{name} must {requirement}, got {got}"
    return ValueError(f"{message}; {way_out}" if way_out else message)


@contextlib.contextmanager
def renamed(old: str, new: str) -> Iterator[None]:
    """Have errors about the argument `old` of what is called here name the caller's own."""
    try:
        yield
    except ValueError as error:
        told = str(error)
        if not told.startswith(f"{old} must"):
            raise
        raise type(error)(new + told.removeprefix(old)) from error


_SHORT = reprlib.Repr()
_SHORT.maxlist = _SHORT.maxtuple = _SHORT.maxset = _SHORT.maxdict = 4
_SHORT.maxstring = _SHORT.maxother = 100


def shown(value: object) -> str:
    """Return a short account of any value for a message: tables by their shape, the rest cut."""
    shape, kind = getattr(value, "shape", None), type(value).__name__
    if isinstance(shape, tuple) and not (isinstance(value, np.generic)):
        dtype = getattr(value, "dtype", "")
        number = f" {value.item()!r}" if shape == () and hasattr(value, "item") else ""
        return f"{kind}{number} of shape {tuple(shape)}" + (f", {dtype}" if str(dtype) else "")
    if isinstance(value, type):
        return f"the class {value.__name__}"
    return " ".join(_SHORT.repr(value).split())


def meant(word: object, options: Iterable[str]) -> str:
    """Return "did you mean 'x'?" for the option that a mistyped word is like, or nothing."""
    options = {option.lower(): option for option in options}
    near = difflib.get_close_matches(str(word).lower(), options, n=1)
    return f"did you mean {options[near[0]]!r}?" if near else ""


def keywords(name: str, known: Iterable[str], given: Mapping[str, object]) -> None:
    """Check that a function, or a class, takes the arguments that it is given by name.

    Raises:
        TypeError: If it does not take one; the message asks for the one that was meant, or lists
            what there is.
    """
    known = list(known)
    for word, value in given.items():
        if word not in known:
            way_out = meant(word, known) or f"it takes {', '.join(known) or 'none'}"
            raise TypeError(f"{name} takes no argument {word!r}, got {shown(value)}; {way_out}")


def arguments(
    function: Callable[..., Any],
) -> Callable[[tuple[Any, ...], Mapping[str, Any]], None]:
    """Return a check of what a function, or a method, is called with: arguments by place, by name.

    The check raises a TypeError for the first that the function does not take, or takes by its
    name alone; it says what was meant, or what there is.
    """
    found = inspect.signature(function).parameters.values()
    kinds = {p.kind for p in found}
    places = sum(p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD) for p in found)
    most = math.inf if inspect.Parameter.VAR_POSITIONAL in kinds else places
    by_name = [p.name for p in found if p.kind is p.KEYWORD_ONLY]
    names = (p.name for p in found if p.kind not in (p.VAR_POSITIONAL, p.VAR_KEYWORD))
    known = dict.fromkeys(name for name in names if name not in ("self", "cls"))
    any_name = inspect.Parameter.VAR_KEYWORD in kinds

    def check(args: tuple[Any, ...], given: Mapping[str, Any]) -> None:
        if len(args) > most:
            way_out = f"it takes {', '.join(known) or 'none'}"
            if by_name:
                way_out = "write its name: " + ", ".join(f"{name}=" for name in by_name)
            name, value = _called(function, args), shown(args[places])
            raise TypeError(f"{name} takes no such argument without a name, got {value}; {way_out}")
        if not any_name and not known.keys() >= given.keys():
            keywords(_called(function, args), known, given)

    return check


def _called(function: Callable[..., Any], args: tuple[Any, ...]) -> str:
    """Return what a caller calls a function: a method by the class of the object, not its base."""
    owner, _, name = function.__qualname__.rpartition(".")
    kind = type(args[0]) if args and not isinstance(args[0], type) else (args or (None,))[0]
    if owner and owner in {base.__qualname__ for base in getattr(kind, "__mro__", ())}:
        owner = kind.__name__
    return owner if name == "__init__" else ".".join(filter(None, (owner, name)))


def unused(where: str, /, way_out: str = "", **given: tuple[object, object]) -> None:
    """Refuse arguments that change nothing here, unless they have their defaults.

    Args:
        where: Why they change nothing, as in "for vectors".
        way_out: What to do; by default that is said of any of them.
        given: The value and the default of each, by its name.

    Raises:
        ValueError: For the first that differs from its default.
    """
    for name, (value, default) in given.items():
        if value is not default and value != default:
            told = way_out or "it would change nothing"
            raise fail(name, f"be left out {where}", shown(value), told)


def scalar(value: object) -> Any:  # noqa: ANN401
    """Return the number that an array or a tensor without axes holds, anything else as it is."""
    if isinstance(value, (np.ndarray, torch.Tensor)) and value.ndim == 0:
        return value.item()
    return value


_LARGEST = (1 << 63) - 1  # of the whole numbers that torch and NumPy count with

_PASSED_OVER = ("aeot", "contextlib", "sklearn", "torch")


def warn(message: str, category: type[Warning] = UserWarning) -> None:
    """Warn once per line of the caller's, outside this package and the wrappers around it."""
    frame, level = sys._getframe(1), 2
    while frame.f_back and frame.f_globals.get("__name__", "").split(".")[0] in _PASSED_OVER:
        frame, level = frame.f_back, level + 1
    warnings.warn(message, category, stacklevel=level)


_SIZE = re.compile(r"\s*(\d+(?:\.\d+)?)\s*([kmgt]?)(i?)b?\s*", re.IGNORECASE)


def _as_number(value: object, *, whole: bool = False) -> str:
    """Return how what is no number, or no whole one, is meant to be written, or nothing."""
    if value is None:
        return "leave it out for the default"
    if isinstance(value, (bool, np.bool_)):
        return "write a number: yes and no say nothing here"
    if isinstance(value, (float, np.floating)) and whole and math.isfinite(value):
        return f"write {int(value)}" if float(value).is_integer() else "round it"
    if isinstance(value, (int, float, np.number)):
        return ""  # the bounds say it
    if not isinstance(value, str):
        return "write one number" if hasattr(value, "__len__") else "write a number"
    found = _SIZE.fullmatch(value)
    if found and (found[2] or value.strip().lower().endswith("b")):
        unit = (1024 if found[3] else 1000) ** (" kmgt".index(found[2].lower() or " "))
        return f"write {round(float(found[1]) * unit)}, a number without a unit"
    try:
        text = float(value)
    except ValueError:
        return "write a number"
    return f"write {int(text) if whole and text.is_integer() else value.strip()} without quotes"


def integer(
    name: str, value: object, *, minimum: int | None = 1, maximum: int | None = None
) -> int:
    """Return `value` as an int with ``minimum <= value <= maximum``.

    Raises:
        ValueError: If it is not a whole number (bools are not), out of range, or beyond 64 bits.
    """
    number = scalar(value)
    if isinstance(number, (int, np.integer)) and not isinstance(number, bool):
        number = int(number)
        least = -_LARGEST if minimum is None else minimum
        if least <= number <= (_LARGEST if maximum is None else maximum):
            return number
        if maximum is None and number > _LARGEST:
            maximum = _LARGEST
    bounds = [] if minimum is None else [f">= {minimum}"]
    bounds += [] if maximum is None else [f"<= {maximum}"]
    must = " ".join(["be a whole number", " and ".join(bounds)]).strip()
    raise fail(name, must, shown(value), _as_number(number, whole=True))


def real(
    name: str,
    value: object,
    *,
    above: float = -math.inf,
    minimum: float = -math.inf,
    maximum: float = math.inf,
) -> float:
    """Return `value` as a finite float with ``above < value`` and ``minimum <= value <= maximum``.

    Raises:
        ValueError: If it is not a real number or out of range.
    """
    number = scalar(value)
    if isinstance(number, (int, float, np.integer, np.floating)) and not isinstance(number, bool):
        found = math.inf
        with contextlib.suppress(OverflowError):  # of whole numbers beyond 1e308
            found = float(number)
        if math.isfinite(found) and above < found and minimum <= found <= maximum:
            return found
    parts = [f"> {above:g}"] if above > -math.inf else []
    parts += [f">= {minimum:g}"] if minimum > -math.inf else []
    parts += [f"<= {maximum:g}"] if maximum < math.inf else []
    must = " ".join(["be a finite number", " and ".join(parts)]).strip()
    raise fail(name, must, shown(value), _as_number(number))


def seed(name: str, value: object) -> int:
    """Return `value` as an int >= 0, however large.

    Raises:
        ValueError: If it is no whole number or negative.
    """
    number = scalar(value)
    if not isinstance(number, (int, np.integer)) or isinstance(number, bool) or number < 0:
        way_out = _as_number(number, whole=True) or "any number from 0 on will do"
        raise fail(name, "be a whole number >= 0", shown(value), way_out)
    return int(number)


def flag(name: str, value: object) -> bool:
    """Return `value` if it is a bool; "no" would be true, and 0 may be a slip.

    Raises:
        ValueError: If it is anything else.
    """
    if not isinstance(value, (bool, np.bool_)):
        way_out = "leave it out for the default" if value is None else ""
        if isinstance(value, str):
            way_out = "write one of them without quotes"
        elif isinstance(value, (int, float)) and value in (0, 1):
            way_out = f"write {bool(value)}"
        raise fail(name, "be True or False", shown(value), way_out)
    return bool(value)


def callback(name: str, value: object) -> None:
    """Check that what is to be called on the way is None or can be called.

    Raises:
        ValueError: If it is anything else.
    """
    if value is not None and not callable(value):
        raise fail(name, "be callable or None", shown(value))


def function(name: str, value: object, call: str, way_out: str = "") -> None:
    """Check that a value can be called; `call` says how, as in ``draw(n, stream)``.

    Raises:
        ValueError: If it is anything else.
    """
    if not callable(value):
        raise fail(name, f"be callable as {call}", shown(value), way_out)


def instance(name: str, value: object, kind: type, way_out: str = "") -> None:
    """Check that a value is of a class of this package.

    Raises:
        ValueError: If it is not.
    """
    if not isinstance(value, kind):
        article = "an" if kind.__name__[0] in "AEIOU" else "a"
        raise fail(name, f"be {article} {kind.__name__}", shown(value), way_out)


def mapping(name: str, value: object, what: str, *, empty: bool = False) -> dict[str, Any]:
    """Return a mapping whose keys are text as a dict.

    Args:
        name: The argument, as the caller spells it.
        value: The mapping.
        what: What its values are, for the message.
        empty: Whether it may hold nothing.

    Raises:
        ValueError: If it is no mapping, empty where it must not be, or a key is no text.
    """
    if not isinstance(value, Mapping):
        raise fail(name, f"map names to {what}", shown(value))
    if not value and not empty:
        raise fail(name, f"hold {what}", "none")
    for key in value:
        try:
            text(name, key)
        except ValueError as error:
            raise fail(name, "have names that are text", shown(key)) from error
    return dict(value)


_LIMITS = ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes")


@functools.cache
def _main_memory() -> int:
    if not hasattr(os, "sysconf"):  # on Windows
        return 1 << 62
    found = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    for place in _LIMITS:  # of a container
        with contextlib.suppress(OSError, ValueError):  # there is none, or it says "max"
            found = min(found, int(Path(place).read_text()))
    return found


def memory() -> int:
    """Return the bytes of this machine's memory, or of its GPU's if that is larger."""
    found = _main_memory()
    return max(found, torch.cuda.mem_get_info()[1]) if torch.cuda.is_initialized() else found


def rows(
    name: str,
    value: object,
    width: int,
    *,
    minimum: int = 1,
    way_out: str = "ask for parts, each with another seed",
) -> int:
    """Return how many rows are wanted, if this machine's memory could hold a result of so many.

    Args:
        name: The argument, as the caller spells it.
        value: How many.
        width: Numbers a row, of four bytes at least.
        minimum: The fewest.
        way_out: What to do where they are too many.

    Raises:
        ValueError: If it is not a whole number, too small, or more than any memory would do for.
    """
    number = integer(name, value, minimum=minimum)
    if 4 * width * number > memory():
        must = f"be at most {memory() // (4 * width)}, which fill the memory of this machine"
        raise fail(name, must, shown(value), way_out)
    return number


def text(name: str, value: object, way_out: str = "") -> str:
    """Return `value` if it is text that can be written to a file.

    Raises:
        ValueError: If it is anything else, or holds half a character.
    """
    if isinstance(value, str):
        with contextlib.suppress(UnicodeEncodeError):
            value.encode()
            return value
    raise fail(name, "be text", shown(value), way_out)


def choice(name: str, value: object, options: Iterable[str]) -> str:
    """Return `value` if it is one of `options`.

    Raises:
        ValueError: If it is not; the message lists the options.
    """
    options = list(options)
    if not isinstance(value, str) or value not in options:
        known = "be one of " + ", ".join(repr(o) for o in options)
        way_out = "leave it out for the default" if value is None else meant(value, options)
        raise fail(name, known, shown(value), way_out)
    return value


def path(name: str, value: object) -> Path:
    """Return a path, with ``~`` replaced by the home that it stands for.

    Raises:
        ValueError: If it is none, or of a user without a home.
    """
    if not isinstance(value, (str, os.PathLike)) or isinstance(value, bytes):
        raise fail(name, "be a path", shown(value))
    text = os.fspath(value)
    if not isinstance(text, str) or "\0" in text or not text:
        raise fail(name, "be a path", shown(text), "write the name of a file or folder")
    try:
        if max(map(len, os.fsencode(text).split(b"/"))) > 255:  # no file system has longer ones
            must = "be a path of names of at most 255 bytes"
            raise fail(name, must, shown(text), "choose shorter ones")
        return Path(text).expanduser()
    except UnicodeEncodeError as error:
        raise fail(name, "be a path", shown(text), "write whole characters") from error
    except RuntimeError as error:
        way_out = "write the folder in full"
        raise fail(name, "begin with a home that is known", repr(text), way_out) from error


def device(name: str, value: str | torch.device) -> torch.device:
    """Return the device called `value`, if this machine has it.

    Raises:
        ValueError: If there is no such device, or this machine has none.
    """
    try:
        return torch.empty(0, device=value).device
    except (
        RuntimeError,
        AssertionError,
        TypeError,
        ValueError,
    ) as error:  # torch raises any of them
        way_out = f"{_reason(error)}; 'cpu' always works"
        raise fail(name, "be a device of this machine", shown(value), way_out) from error


def tensor(name: str, value: ArrayLike | float) -> torch.Tensor:
    """Return an array-like as a real tensor of its own dtype: the one door for all of them.

    Tensors stay on their device and keep their graph; those of inference mode are copied, because
    no gradient could pass them. All else goes through NumPy to the CPU: numbers, lists, arrays of
    any strides and byte order, tables of pandas and polars. What needs no conversion is not copied;
    read-only arrays are shared as well, for nothing here writes to what it was given.

    Raises:
        ValueError: If it is not numeric or holds no values.
    """
    _check_unmasked(name, value)
    if hasattr(value, "toarray"):  # SciPy's sparse matrices
        raise fail(name, "be a dense array", shown(value), f"pass {name}.toarray()")
    try:
        found = _as_tensor(value)
    except (TypeError, ValueError, RuntimeError, OverflowError) as error:
        got = f"{type(value).__name__} ({_reason(error)})"
        raise fail(name, "be a numeric array", got) from error
    if found.layout != torch.strided:
        raise fail(name, "be a dense array", str(found.layout), f"pass {name}.to_dense()")
    if found.is_complex():
        raise fail(name, "be a real array", str(found.dtype))
    if found.is_meta:
        raise fail(name, "hold values", "a tensor on the device 'meta'")
    return found


def _check_unmasked(name: str, value: object) -> None:
    """Refuse arrays with masked entries, which NumPy would hand over as if they were not."""
    if isinstance(value, np.ma.MaskedArray) and np.ma.is_masked(value):
        raise fail(name, "have no masked entries", f"{np.ma.count_masked(value)} of them")


def _as_tensor(value: Any) -> torch.Tensor:  # noqa: ANN401 - that is what it finds out
    if torch.is_tensor(value):
        return value.clone() if value.is_inference() else value
    if isinstance(value, (list, tuple)) and any(torch.is_tensor(part) for part in value):
        return torch.stack([_as_tensor(part) for part in value])
    found = np.asarray(value)
    if found.dtype == object:  # as columns with missing entries are; numbers find their own type
        found = np.array(found.tolist())
    if found.dtype == object:  # whole numbers beyond 64 bits, decimals
        odd = [x for x in found.flat if x is None or isinstance(x, (str, bytes))]
        if odd:
            raise TypeError(f"it holds {shown(odd[0])}")
        found = found.astype(np.float64)
    if found.dtype.kind not in "biufc":
        raise TypeError(f"its dtype is {found.dtype}")
    if found.dtype.kind == "u" and found.dtype.itemsize > 1:  # torch hardly computes with those
        found = found.astype(np.float64 if found.dtype.itemsize == 8 else np.int64)
    if found.dtype == np.longdouble:
        found = found.astype(np.float64)
    if not found.dtype.isnative:
        found = found.astype(found.dtype.newbyteorder("="))
    if any(stride < 0 or stride % found.itemsize for stride in found.strides):
        found = found.copy()  # as flipped arrays and fields of records have; torch has no such
    if found.flags.writeable:
        return torch.from_numpy(found)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "The given NumPy array is not writ", UserWarning)
        return torch.from_numpy(found)


def _reason(error: Exception) -> str:
    """The first sentence of what torch or NumPy said."""
    return str(error).split("\n")[0].split(". ")[0][:200].rstrip(".")


def array(name: str, value: ArrayLike | float) -> torch.Tensor:
    """Return an array-like as a finite floating tensor, on its device; see `tensor`.

    float32 and float64 are kept; numbers, lists and whole numbers become float64, which holds them;
    shorter floats become float32.

    Raises:
        ValueError: If it is not numeric or holds NaN or infinity.
    """
    found = tensor(name, value)
    if not found.is_floating_point():
        found = found.to(torch.float64)
    elif found.dtype != torch.float64:
        found = found.to(torch.float32)
    finite = torch.isfinite(found)
    if not bool(finite.all()):
        bad = int((~finite).sum())
        first = tuple(int(i) for i in (~finite).nonzero()[0])
        got = f"{bad} NaN or infinite value(s), the first at index {first}"
        raise fail(name, "be finite", got, "drop or repair those rows")
    return found


def points(
    name: str,
    value: ArrayLike,
    *,
    dim: int | None = None,
    min_rows: int = 1,
) -> torch.Tensor:
    """Return an array-like of shape (rows, dim) as a finite floating tensor.

    Raises:
        ValueError: If it is not two-dimensional, too short, not `dim` wide, or not finite.
    """
    found = array(name, value)
    if found.ndim != 2 or found.shape[1] == 0:
        way_out = ""
        if found.ndim == 1:
            row, column = f"{name}[None] makes one row", f"{name}[:, None] a column"
            way_out = row if dim is not None and len(found) == dim > 1 else f"{row}, {column}"
        raise fail(name, "have shape (rows, dim)", f"shape {tuple(found.shape)}", way_out)
    if found.shape[0] < min_rows:
        raise fail(name, f"have at least {min_rows} row(s)", str(found.shape[0]))
    if found.dtype == torch.float64 and found.numel():
        largest = max(abs(float(edge)) for edge in found.detach().aminmax())
        if largest > 1e150:
            must, way_out = "hold values below 1e150 (squares overflow)", "use another unit"
            raise fail(name, must, f"{largest:g}", way_out)
    if dim is not None and found.shape[1] != dim:
        raise fail(name, f"have {dim} columns", str(found.shape[1]))
    return found


def images(name: str, value: ArrayLike, *, minimum: int = 1) -> torch.Tensor:
    """Return an array-like of shape (B, C, H, W) as a finite floating tensor, on its device.

    Raises:
        ValueError: If it has another shape, fewer than `minimum` images, or is not finite.
    """
    found = array(name, value)
    if found.ndim != 4 or 0 in found.shape[1:]:
        raise fail(name, "have shape (B, C, H, W)", f"shape {tuple(found.shape)}")
    if len(found) < minimum:
        raise fail(name, f"hold at least {minimum} image" + "s" * (minimum > 1), str(len(found)))
    return found


def labels(name: str, value: Any) -> np.ndarray:  # noqa: ANN401
    """Return classes as an array of whole numbers (int64) or of texts.

    Raises:
        ValueError: If one is missing, or they are neither, or both, or too large.
    """
    must = "be whole numbers or texts"
    _check_unmasked(name, value)
    if torch.is_tensor(value):
        dense = tensor(name, value).detach().cpu()
        value = (dense.float() if dense.dtype == torch.bfloat16 else dense).numpy()
    try:
        found = np.asarray(value)
        if found.dtype.kind == "U" and isinstance(value, (list, tuple)):
            found = np.array(value, dtype=object)  # where numbers, and NaN, are no texts
    except ValueError as error:  # rows of several lengths
        raise fail(name, must, shown(value)) from error
    if found.dtype == object or found.dtype.kind == "T":
        kinds = {type(x) for x in found.flat}
        if kinds and all(issubclass(kind, str) for kind in kinds):
            found = np.array(found.tolist(), dtype=str)
        elif kinds and all(issubclass(kind, (int, float, np.number)) for kind in kinds):
            found = np.array(found.tolist())  # of objects if one is beyond 64 bits
        else:
            odd = [x for x in found.flat if not isinstance(x, (str, int, np.integer))]
            got = shown(odd[0]) if odd else "both" if kinds else "none"
            way_out = "drop rows without a class; give all classes as texts or all as numbers"
            raise fail(name, must, got, way_out)
    if found.dtype.kind == "f":
        whole = np.isfinite(found) & (found == np.round(found))  # NaN, too, is no class
        if not whole.all():
            first = float(found.flat[int(np.argmin(whole))])
            raise fail(name, must, f"{first:g}", "round them, or drop rows without a class")
    if found.dtype.kind in "biufO":
        largest = max(abs(int(found.max())), abs(int(found.min()))) if found.size else 0
        if largest >= 2**63:
            raise fail(name, "be whole numbers below 2**63", largest, "number the classes from 0")
        return found.astype(np.int64)
    if found.dtype.kind != "U":
        raise fail(name, must, str(found.dtype))
    return found


def masses(value: ArrayLike | None, n: int, *, name: str = "masses") -> torch.Tensor:
    """Return target masses as a float64 tensor (n,) that sums to one exactly in rounding.

    Args:
        value: None for equal masses, or n positive numbers summing to one within 1e-6.
        n: How many sites there are.
        name: The argument, as the caller spells it.

    Raises:
        ValueError: If the shape, the sign or the sum is wrong.
    """
    if value is None:
        return torch.full((n,), 1.0 / n, dtype=torch.float64)
    found = array(name, value).detach().to(torch.float64)
    if found.shape != (n,):
        raise fail(name, f"have shape ({n},), one per site", f"shape {tuple(found.shape)}")
    if not bool((found > 0).all()):
        bad = int((found <= 0).nonzero()[0])
        got = f"{float(found[bad]):g} at index {bad}"
        raise fail(name, "be positive", got, "drop the sites that carry no mass")
    total = math.fsum(found.tolist())  # exact, so the same in any order of the sites
    if abs(total - 1) > 1e-6:
        raise fail(name, "sum to 1", f"{total:.6g}", f"divide by {name}.sum()")
    # What one division has rounded is kept, so that masses that were saved stay the same.
    return found if abs(total - 1) <= 2.5e-16 else found / total
