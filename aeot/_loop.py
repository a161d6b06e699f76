"""Long loops: they stop when Ctrl-C or SIGTERM asks for it, and they say how far they are.

A signal sets one flag. Every loop that keeps something asks for it between two of its steps, where
its state is whole, writes its checkpoint and raises `Stopped`. Progress is one line that is
rewritten on a terminal, and one line a minute, after the first minute, anywhere else.
"""

from __future__ import annotations

import atexit
import contextlib
import os
import shutil
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from types import FrameType, TracebackType
from typing import TYPE_CHECKING, Any, TextIO

if TYPE_CHECKING:
    import torch
    from typing_extensions import Self

_SIGNALS = (signal.SIGINT, signal.SIGTERM)
_TWICE = 0.1  # seconds within which the same signal is the same wish: `timeout` sends it twice
_LINE_SECONDS = 60.0  # between two lines where there is no terminal
_WAIT_SECONDS = 0.5  # before a bar: what is over by then needs none
_BAR_SECONDS = 0.1  # between two states of the bar
_BAR = 20  # characters


class Stopped(KeyboardInterrupt):
    """A signal asked to stop, and what was running has stopped where its state is whole.

    Args:
        number: Of the signal.
        where: How far the work had come.
        kept: What is left of it, and how to go on.

    Attributes:
        number: Of the signal.
        where: How far the work had come; empty if nothing is known of that.
        heights: Of a transport that was stopped: the best heights so far (n,), to be passed as
            ``init``; None otherwise.
    """

    heights: torch.Tensor | None = None
    way_out = ""  # what a command says in the place of the usual
    at_once = False  # raised anywhere, perhaps in the middle of a step

    def __init__(self, number: int, where: str = "", kept: str = "") -> None:
        self.number, self.where = number, where
        _Uncaught.watch()
        text = f"stopped by {signal.Signals(number).name}" + (f" at {where}" if where else "")
        super().__init__(f"{text}: {kept}" if kept else text)

    @classmethod
    def of(cls, error: KeyboardInterrupt, way_out: str) -> Self:
        """Return the same for a command that says how to go on with it."""
        stopped = cls(getattr(error, "number", signal.SIGINT), getattr(error, "where", ""))
        stopped.way_out = way_out
        return stopped


class _Uncaught:
    """A script that `Stopped` ends dies of its signal: 130 or 143 to a shell, as others do.

    Python does so for KeyboardInterrupt itself, and ends with 1 for what is derived from it.
    """

    number = 0  # of the signal that ended the script
    hook: Callable[[type[BaseException], BaseException, TracebackType | None], Any] | None = None

    @classmethod
    def watch(cls) -> None:
        """Look out for it from now on."""
        if cls.hook is None:
            cls.hook, sys.excepthook = sys.excepthook, cls.report
            atexit.register(cls.die)

    @classmethod
    def report(
        cls, kind: type[BaseException], error: BaseException, trace: TracebackType | None
    ) -> None:
        """Print the exception as without us, and note its signal."""
        assert cls.hook is not None
        cls.hook(kind, error, trace)
        if isinstance(error, Stopped) and not hasattr(sys, "ps1"):  # a prompt goes on
            cls.number = error.number

    @classmethod
    def die(cls) -> None:
        """End the process by the signal that was asked for, if it ended the script."""
        if cls.number:
            for stream in (sys.stdout, sys.stderr):
                with contextlib.suppress(OSError, ValueError, AttributeError):
                    stream.flush()
            signal.signal(cls.number, signal.SIG_DFL)
            os.kill(os.getpid(), cls.number)


class _Flag:
    """Which signal asked to stop, in any thread."""

    def __init__(self) -> None:
        self.number = 0  # of the signal; 0: nobody asks
        self.since = 0.0
        self.scopes = 0  # that have handlers in place

    def note(self, number: int, frame: FrameType | None) -> None:  # noqa: ARG002
        """Ask to stop: the handler while a loop runs. Whoever asks again means at once."""
        now = time.monotonic()
        if not self.number:
            self.number, self.since = number, now
        elif now - self.since > _TWICE:
            stopped = Stopped(number)
            stopped.at_once = True
            raise stopped

    def halt(self, number: int, frame: FrameType | None) -> None:  # noqa: ARG002
        """Stop at once: the handler of a command outside of its loops."""
        self.number, self.since = number, time.monotonic()
        raise Stopped(number)


class _Thread(threading.local):
    """What every thread has for itself."""

    def __init__(self) -> None:
        self.loops: list[Loop] = []  # it runs, the outermost first
        self.held = False  # in the middle of a step, where nothing stops


_flag = _Flag()
_threads = _Thread()
_OURS: tuple[Any, ...] = (signal.default_int_handler, signal.SIG_DFL, _flag.halt)


def _take_over(handler: Callable[[int, FrameType | None], None]) -> dict[int, Any]:
    """Put a handler in the place of Python's own; a caller's handlers stay, as do ignored signals.

    Returns:
        The handlers that were there, by signal; none outside the main thread.
    """
    if threading.current_thread() is not threading.main_thread():
        return {}
    found = {number: signal.getsignal(number) for number in _SIGNALS}
    before: dict[int, Any] = {number: known for number, known in found.items() if known in _OURS}
    for number in before:
        signal.signal(number, handler)
    _flag.scopes += bool(before)
    return before


def _give_back(before: dict[int, Any]) -> int:
    """Restore the handlers; return the signal that asked to stop meanwhile, or 0."""
    for number, handler in before.items():
        signal.signal(number, handler)
    asked = _flag.number if before else 0
    _flag.scopes -= bool(before)
    if before and not _flag.scopes:
        _flag.number = 0
    return asked


@contextlib.contextmanager
def stopping_at_once() -> Iterator[None]:
    """Have Ctrl-C and SIGTERM raise `Stopped` wherever no loop of ours runs: for commands."""
    before = _take_over(_flag.halt)
    try:
        yield
    finally:
        _give_back(before)


@contextlib.contextmanager
def whole(held: bool = True) -> Iterator[None]:
    """Let nothing inside stop: what is changed in the middle of a step is changed to its end.

    Args:
        held: False for a part of the step before anything is changed, which may stop after all.
    """
    before, _threads.held = _threads.held, held
    try:
        yield
    finally:
        _threads.held = before


def asked() -> int:
    """Return the number of the signal that asks to stop; 0 if none does, or a step is not done."""
    return 0 if _threads.held else _flag.number


def beat() -> None:
    """Be called every now and then by what takes long: stops if asked to, and shows progress.

    Raises:
        Stopped: If a signal asks for it.
    """
    if number := asked():
        raise Stopped(number)
    if loops := _threads.loops:
        loops[0]._display.show(loops)


def at(done: float, values: Mapping[str, object] | None = None) -> None:
    """Say how far the innermost loop is: see `Loop.at`."""
    if _threads.loops:
        _threads.loops[-1].at(done, values)


class Loop:
    """A context in which a long loop can be stopped and shows how far it is.

    A loop inside another is shown behind it, in the same line.

    Args:
        name: Of the work; empty for what only holds loops together, so that the minute between two
            lines goes on from one to the next.
        total: Steps in all; None if nobody knows.
        done: Of them, those an earlier process made.
        unit: What the steps are.
        progress: Whether to show it: True from the beginning, False never; None: on a terminal,
            or once a minute has passed.
        stops: Whether a signal waits for `beat`; False for work that keeps nothing and may end
            anywhere, and whose bar goes away with it.
        stream: Where to show it; None: stderr.
        clock: Seconds.
    """

    def __init__(
        self,
        name: str,
        total: float | None = None,
        *,
        done: float = 0,
        unit: str = "step",
        progress: bool | None = None,
        stops: bool = True,
        stream: TextIO | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.name, self.total, self.unit = name, total, unit
        self.first = self.done = done
        self.progress, self.values = progress, dict[str, object]()
        self._stops, self._stream, self._clock = stops, stream, clock
        self._end: float | None = None
        self._before: dict[int, Any] = {}
        self._display: _Display

    def __enter__(self) -> Self:
        self.begun = self._clock()
        if outer := _threads.loops:
            self._display = outer[0]._display
        else:
            self._display = _Display(self._stream or sys.stderr, self._clock)
        if self.progress:
            self._display.next = self.begun
        _threads.loops.append(self)
        if self._stops:
            self._before = _take_over(_flag.note)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        loops = _threads.loops
        if self.name and not any(loop.name for loop in loops[: loops.index(self)]):
            self._display.end(loops if self._stops else [])
        loops.remove(self)
        number = _give_back(self._before)
        if number and error is None:  # it came after the last step
            raise Stopped(number, f"the end of {self.name}")

    def at(
        self, done: float, values: Mapping[str, object] | None = None, left: float | None = None
    ) -> None:
        """Say how far the loop is, and show it if it is time for that.

        Args:
            done: Steps made, those of an earlier process included.
            values: What else is worth showing, such as a loss.
            left: Seconds still to go; None: from the pace so far.
        """
        self.done, self._end = done, None if left is None else self._clock() + left
        self.values.update(values or {})
        self._display.show(_threads.loops)

    def left(self) -> float | None:
        """Return the seconds still to go, None if that is not known."""
        if self._end is not None:
            return max(self._end - self._clock(), 0.0)
        if self.total is None or self.done <= self.first:
            return None
        pace = (self._clock() - self.begun) / (self.done - self.first)
        return pace * max(self.total - self.done, 0)

    def words(self) -> str:
        """Return name, position and values, such as "joint: step 3 of 9, loss 0.25, 0:04 left"."""
        parts = []
        if self.total is not None or self.done:
            of = "" if self.total is None else f" of {_number(self.total)}"
            parts.append(f"{self.unit} {_number(self.done)}{of}")
        parts += [f"{name} {_number(value)}" for name, value in self.values.items()]
        left = self.left()
        if left is not None:
            parts.append(f"{duration(left)} left")
        return f"{self.name}: {', '.join(parts) or 'begun'}"


class _Display:
    """The line on a terminal, or the lines in a file, that loops inside each other share."""

    def __init__(self, stream: TextIO | None, clock: Callable[[], float]) -> None:
        self.stream, self.clock = stream, clock
        self.terminal = stream is not None and hasattr(stream, "isatty") and stream.isatty()
        self.next = clock() + (_WAIT_SECONDS if self.terminal else _LINE_SECONDS)
        self.drawn = False

    def show(self, loops: list[Loop]) -> None:
        """Show the loops, the outermost first, if the last time is long enough ago."""
        if (now := self.clock()) < self.next or any(loop.progress is False for loop in loops):
            return
        if not any(loop.name for loop in loops):  # between two: there is nothing to tell
            return
        if self.terminal:
            self.next, self.drawn = now + _BAR_SECONDS, True
            self._write(f"\r{_bar(loops)}\x1b[K")
        else:
            self.next = now + _LINE_SECONDS
            self._write(f"aeot: {_text(loops)}\n")

    def end(self, loops: list[Loop]) -> None:
        """Leave the bar of these loops as it is and go on below it; of none, take it away."""
        if self.drawn:
            self._write(f"\r{_bar(loops)}\x1b[K" + ("\n" if loops else ""))
            self.drawn = False

    def _write(self, text: str) -> None:
        if self.stream is None:  # a program without a console
            return
        with contextlib.suppress(OSError, ValueError):  # closed
            self.stream.write(text)
            self.stream.flush()


def _text(loops: list[Loop]) -> str:
    return "; ".join(loop.words() for loop in loops if loop.name)


def _bar(loops: list[Loop]) -> str:
    bar = ""
    if total := next((loop.total for loop in loops if loop.name), None):
        done = next(loop.done for loop in loops if loop.name)
        bar = f"[{'#' * round(_BAR * min(max(done / total, 0.0), 1.0)):<{_BAR}}] "
    return (bar + _text(loops))[: shutil.get_terminal_size().columns - 1]


def _number(value: object) -> str:
    if isinstance(value, float) and not value.is_integer():
        return f"{value:.4g}"
    return f"{int(value)}" if isinstance(value, (int, float)) else str(value)


def duration(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"


class Pace:
    """When a checkpoint is due: such that all of them together cost at most 2 % of the time.

    Args:
        seconds: The shortest time between two, whatever they cost.
        clock: Seconds.
    """

    def __init__(self, seconds: float, clock: Callable[[], float] = time.monotonic) -> None:
        self.seconds, self._clock = seconds, clock
        self.cost = 0.0
        self.last = clock()

    def due(self) -> bool:
        """Whether 50 times what the last one cost has passed since it was written."""
        return self._clock() - self.last >= max(self.seconds, 50 * self.cost)

    @contextlib.contextmanager
    def measured(self) -> Iterator[None]:
        """Write one inside."""
        begun = self._clock()
        yield
        self.last = self._clock()
        self.cost = self.last - begun
