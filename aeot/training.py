"""The one training loop: it counts, records, guards against NaN, checkpoints and resumes."""

from __future__ import annotations

import contextlib
import json
import logging
import math
import os
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from copy import deepcopy
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import nn

from aeot import _check, _io, _loop, _ranks
from aeot._environment import is_out_of_memory

_LOG = logging.getLogger(__name__)
_KIND = "checkpoint"
OPEN_ENDED = 10**9  # steps of a fit that something else ends; how many are left is not shown
_PARTS = {  # of a checkpoint
    "step": int,
    "history": list[dict[str, float]],
    "part": dict[str, float | dict[str, float]],
    "state": dict,
    "facts": dict,
}


class Stateful(Protocol):
    """Anything that can say where it stands and go back there: modules, optimisers, schedules."""

    def state_dict(self) -> Mapping[str, Any]:
        """Return the state."""
        ...

    def load_state_dict(self, state: Any, /) -> object:  # noqa: ANN401 - mostly Mapping[str, Any]
        """Go back to a state."""
        ...


class Diverged(FloatingPointError):
    """Training met a value that is not finite; the last good state was restored."""


def run(
    update: Callable[[Any], Mapping[str, float]],
    batches: Iterable[Any] | Callable[[int], Iterable[Any]],
    *,
    steps: int,
    state: Stateful | Mapping[str, Stateful] | None = None,
    checkpoint: str | os.PathLike | None = None,
    facts: Mapping[str, Any] | None = None,
    on_step: Callable[[int, dict[str, float]], bool | None] | None = None,
    done: Callable[[], bool] | None = None,
    every: int = 100,
    finer: int = 1,
    checkpoint_seconds: float = 60.0,
    log: str | os.PathLike | None = None,
    name: str = "training",
    history: list[dict[str, float]] | None = None,
    progress: bool | None = None,
) -> list[dict[str, float]]:
    """Call `update` on one batch after another, and keep what is needed to go on later.

    Resuming equals never stopping, provided that `update` draws random numbers only from
    generators keyed by the step; it gets the step with the batch if it asks for it:
    ``lambda step: enumerate(loader(data, 64, seed=seed, start=step), step)``.

    Args:
        update: Does one step and returns what it measured, by name.
        batches: A function from the first step to an iterable of batches, such as
            ``lambda step: loader(data, 64, seed=seed, start=step)``; or an iterable, of which a
            resumed run passes over what was used before.
        steps: How many steps there are in all, those of a resumed run included.
        state: What `update` changes: something with ``state_dict`` and ``load_state_dict``, or
            several by name. Needed for checkpoints and to step back from a NaN.
        checkpoint: Directory to resume from, if it exists, and to write to. It is replaced whole,
            at the end, when a signal stops the run, and in between as `checkpoint_seconds` says;
            an exception takes it back to the last record or the last writing.
        facts: Plain values that must be what they were when the checkpoint began, such as
            the arguments of the estimator and what tells its data from others (its `digest`).
        on_step: Called as ``on_step(step, record)`` after each step, counted from 1, with what
            that step measured; returning True ends the run.
        done: Asked before the first step, once a checkpoint is read, and after each; True ends the
            run, as `on_step` does, and one that ended so does not go on when it is resumed.
        every: Steps per record of the history; a record holds means over them.
        finer: Records in so many steps, where one is too coarse for a curve.
        checkpoint_seconds: The shortest time between two checkpoints, which is longer where 50
            times the time that one takes is: they cost 2 % at most. 0: one after every step.
        log: File to which each record is added as a line of JSON; its folder is made. After a
            kill, the records since the last writing of the checkpoint come a second time.
        name: Of the work, where progress is shown.
        history: List that is to hold the history, also where an exception ends the run.
        progress: Whether to show it on stderr; None: a bar if that is a terminal, else a line a
            minute.

    Returns:
        The history: one dict per record with ``step``, ``seconds`` (spent in this process and
        those it resumed from) and the means.

    Raises:
        Diverged: If a measured value or a weight after a step, or any state at a record, is not
            finite. The message names it; `state` and the checkpoint are back at the last record
            or writing.
        MemoryError: If a step does not fit into memory; the message names `batch_size`, where
            `facts` hold it.
        KeyboardInterrupt: If Ctrl-C or SIGTERM came: once the step is done and the checkpoint
            holds it; a second Ctrl-C does not wait. Handlers of the caller's are left alone, and
            what they raise stops the run where it is.
        OSError: If the disk has no room for a checkpoint.
        ValueError: If the checkpoint belongs to something else, stands beyond `steps`, or it or
            `log` cannot be written; if `log` lies inside the checkpoint, which is replaced whole.

    Example:
        >>> weight = torch.nn.Parameter(torch.tensor(0.0))
        >>> optimizer = torch.optim.SGD([weight], lr=0.5)
        >>> def update(batch):
        ...     loss = (weight - batch) ** 2
        ...     optimizer.zero_grad()
        ...     loss.backward()
        ...     optimizer.step()
        ...     return {"loss": loss.item()}
        >>> history = run(update, lambda step: iter([1.0] * 4), steps=4, every=2)
        >>> [record["step"] for record in history], weight.item()
        ([2, 4], 1.0)
    """
    check_options(checkpoint=checkpoint, log=log, on_step=on_step, progress=progress)
    if _ranks.rank():  # the first one writes
        log = None
    steps = _check.integer("steps", steps, minimum=0)
    every = _check.integer("every", every)
    often = max(1, every // _check.integer("finer", finer))
    if checkpoint is not None:
        if state is None:
            raise _check.fail("state", "be given with a checkpoint", "None")
        checkpoint = _check.path("checkpoint", checkpoint)
        if _ranks.rank() == 0:
            checkpoint = _io.check_writable(checkpoint, kind=_KIND, name="checkpoint")
        if log is not None and checkpoint in _check.path("log", log).absolute().parents:
            raise _check.fail("log", "lie outside the checkpoint, which is replaced whole", log)
    _ranks.agree({"steps": steps, "checkpoint": checkpoint is not None, **(facts or {})})
    keeper = _Keeper(state, checkpoint, checkpoint_seconds, facts)
    history = [] if history is None else history
    step, history[:], begun_record = keeper.restore()
    if step > steps:
        way_out = "choose another checkpoint to train for less"
        raise _check.fail("steps", f"be at least {step}, where {checkpoint} stands", steps, way_out)
    if log is not None:
        _append(log)
    elapsed = begun_record.get("seconds", history[-1]["seconds"] if history else 0.0)
    begun = time.perf_counter()
    sums: dict[str, float] = begun_record.get("sums", {})
    counts: dict[str, int] = begun_record.get("counts", {})  # a step may miss a measurement
    stop = step >= steps or _ranks.agreed(lambda: bool(done and done()), torch.zeros(1))
    total = None if steps >= OPEN_ENDED else steps

    def part() -> dict[str, Any]:
        seconds = round(elapsed + time.perf_counter() - begun, 3)
        return {"seconds": seconds, "sums": dict(sums), "counts": dict(counts)}

    def ends(step: int, measured: dict[str, float]) -> bool:
        with _ranks.alone():
            wished = bool(on_step and on_step(step, {"step": step, **measured}))
            return wished or bool(done and done())

    def stopped(number: int) -> _loop.Stopped:
        keeper.take(step, list(history), part())
        of = "" if total is None else f" of {total}"
        return _loop.Stopped(number, f"step {step}{of} of {name}", keeper.kept())

    with _loop.Loop(name, total, done=step, progress=progress) as loop:
        try:
            for batch in _from(batches, step):
                if stop:
                    break
                try:
                    _ranks.pause()
                except _loop.Stopped as asked:
                    raise stopped(asked.number) from None
                with _loop.whole():
                    try:
                        measured = {key: float(value) for key, value in update(batch).items()}
                    except _loop.Stopped as stop_in_step:
                        if stop_in_step.at_once:
                            raise
                        raise stopped(stop_in_step.number) from None  # nothing is changed yet
                    except (MemoryError, RuntimeError) as error:
                        if not is_out_of_memory(error):
                            raise
                        raise MemoryError(_too_large(step + 1, name, facts, error)) from error
                    step += 1
                    for key, value in measured.items():
                        if not math.isfinite(value):
                            raise keeper.diverged(f"{key!r} became {value}", step)
                        sums[key] = sums.get(key, 0.0) + value
                        counts[key] = counts.get(key, 0) + 1
                    if bad := keeper.bad_weight():
                        raise keeper.diverged(f"{bad} became NaN or infinite", step)
                    stop = _ranks.agreed(partial(ends, step, measured), _told(measured))
                    stop = stop or step == steps
                    if step % often == 0 or stop:
                        means = {key: value / counts[key] for key, value in sums.items()}
                        record = {"step": step, "seconds": part()["seconds"], **means}
                        if step % every == 0 or stop:  # which copies all weights
                            keeper.take(step, [*history, record])
                        history.append(record)
                        sums, counts = {}, {}
                        if log is not None:
                            _append(log, {"name": name, **record})
                    elif keeper.due():  # steps may take half a minute each
                        keeper.take(step, list(history), part())
                loop.at(step, measured)
            if not stop and step < steps:
                raise _check.fail("batches", f"last for {steps} steps", f"{step} batches")
        finally:
            keeper.write()
    return history


def check_options(
    *,
    checkpoint: object = None,
    log: object = None,
    on_step: object = None,
    progress: object = None,
) -> None:
    """Check what every fit takes beside its data, for those that do other work before `run`.

    Raises:
        ValueError: If one is of another kind than `run` takes.
    """
    for name, value in (("checkpoint", checkpoint), ("log", log)):
        if value is not None:
            _check.path(name, value)
    _check.callback("on_step", on_step)
    if progress is not None:
        _check.flag("progress", progress)


def _told(measured: Mapping[str, float]) -> torch.Tensor:
    return torch.tensor([*measured.values()], dtype=torch.float64)


def _from(batches: Iterable[Any] | Callable[[int], Iterable[Any]], step: int) -> Iterator[Any]:
    if callable(batches):
        return iter(batches(step))
    return islice(iter(batches), step, None)


def _too_large(step: int, name: str, facts: Mapping[str, Any] | None, error: BaseException) -> str:
    told = " ".join(str(error).split())[:120] or type(error).__name__
    size = (facts or {}).get("batch_size")
    must = "take smaller batches" if size is None else f"batch_size must be below {size}"
    return (
        f"step {step} of {name} does not fit into memory: {must}, or the networks smaller ({told})"
    )


def _append(log: str | os.PathLike, *records: dict[str, Any]) -> None:
    try:
        Path(log).parent.mkdir(parents=True, exist_ok=True)
        _io.append_lines(log, *records)
    except OSError as error:
        raise _check.fail("log", "be a file that can be written", str(error)) from error


class _Keeper:
    """Snapshots of the state at records, in memory and now and then on disk."""

    def __init__(
        self,
        state: Stateful | Mapping[str, Stateful] | None,
        directory: Path | None,
        seconds: float,
        facts: Mapping[str, Any] | None,
    ) -> None:
        if state is not None and not isinstance(state, Mapping):
            state = {"state": state}
        self.state: dict[str, Stateful] = dict(state or {})
        self.directory = directory
        self.writes = directory is not None and _ranks.rank() == 0
        self.pace = None if seconds == 0 else _loop.Pace(seconds)
        # As they come back from a file.
        self.facts = json.loads(json.dumps(dict(facts or {}), default=_io.plain))
        self.snapshot: tuple[int, dict[str, torch.Tensor], dict[str, Any]] | None = None
        self.written = True

    def restore(self) -> tuple[int, list[dict[str, float]], dict[str, Any]]:
        """Return the step to go on from, the history so far and the record in the making."""
        place = self.directory
        if place is not None and _ranks.everyones(_io.holds_save(place))[0]:
            tensors, config = _ranks.first(lambda: _io.load(place, kind=_KIND))
            with _io.using(place):
                for name, kind in _PARTS.items():
                    if not _io.fits(config.get(name), kind):
                        got = _check.shown(config.get(name))
                        raise _io.Damaged(f"{name} must be {kind}, got {got}")
                if config["step"] < 0:
                    raise _io.Damaged(f"step must be at least 0, got {config['step']}")
                self._compare(config["facts"])
                _load(self.state, tensors, config["state"], self.directory)
            self.snapshot = (config["step"], tensors, config)
            if _ranks.rank() == 0:
                _LOG.info("resumed from %s at step %d", self.directory, config["step"])
            return config["step"], list(config["history"]), config["part"]
        self.take(0, [])
        self.written = True  # nothing worth a file yet
        if self.directory is not None and self.snapshot is not None:  # said before the work
            _io.check_space(self.directory, sum(t.nbytes for t in self.snapshot[1].values()))
        return 0, [], {}

    def _compare(self, began: dict[str, Any]) -> None:
        for name, value in self.facts.items():
            if name in began and began[name] != value:
                must = f"be {began[name]!r} as when {self.directory} began"
                raise _check.fail(name, must, repr(value), "or choose another checkpoint")

    def bad_weight(self) -> str | None:
        """Return the name of a network's weight that is not finite, if there is one."""
        modules = {k: part for k, part in self.state.items() if isinstance(part, nn.Module)}
        weights = [weight for part in modules.values() for weight in part.parameters()]
        if not weights:
            return None
        with torch.no_grad():  # a sum loses neither NaN nor infinity, and is the cheapest pass
            sums = torch.stack([w.sum(dtype=torch.float32) for w in weights])
        if bool(torch.isfinite(sums).all()):
            return None
        for name, part in modules.items():
            for key, weight in part.named_parameters():
                if not bool(torch.isfinite(weight).all()):
                    return f"{name}.{key}"
        return None

    def due(self) -> bool:
        """Whether the last writing is so long ago that the next should not wait for a record."""
        return self.writes and (self.pace is None or self.pace.due())

    def take(
        self, step: int, history: list[dict[str, float]], part: dict[str, Any] | None = None
    ) -> None:
        """Keep the present state, unless a tensor of it is not finite: then raise `Diverged`."""
        if not self.state or (self.snapshot is not None and self.snapshot[0] == step):
            return
        tree = {name: part.state_dict() for name, part in self.state.items()}
        tensors, skeleton = _io.pack(tree)
        for name, tensor in tensors.items():
            if tensor.is_floating_point() and not bool(torch.isfinite(tensor).all()):
                raise self.diverged(f"{name} became NaN or infinite", step)
        copies = {name: t.detach().to("cpu", copy=True) for name, t in tensors.items()}
        config = {"step": step, "history": history, "part": part or {}, "state": skeleton}
        config["facts"] = self.facts
        self.snapshot, self.written = (step, copies, config), False
        if self.due():
            self.write()

    def diverged(self, what: str, step: int) -> Diverged:
        """Go back to the last state kept, and return the error that says so."""
        kept = "no state was kept"
        if self.snapshot is not None:
            back, tensors, config = self.snapshot
            _load(self.state, tensors, config["state"])
            kept = f"the state of step {back} was restored"
        return Diverged(f"{what} at step {step}; {kept}; lower the learning rate or check the data")

    def write(self) -> None:
        if not self.writes or self.snapshot is None or self.written:
            return
        assert self.directory is not None
        _, tensors, config = self.snapshot
        with self.pace.measured() if self.pace else contextlib.nullcontext():
            _io.save(self.directory, tensors, config, kind=_KIND, keep_previous=True)
        self.written = True

    def kept(self) -> str:
        """Return what a run that was stopped leaves behind, and how to go on."""
        if self.directory is None:
            return "nothing is kept of it without a checkpoint"
        if self.snapshot is None or self.snapshot[0] == 0:
            return "nothing is kept, and the same call begins anew"
        return f"{self.directory} holds it, and the same call goes on"


def _load(
    state: dict[str, Stateful],
    tensors: dict[str, torch.Tensor],
    skeleton: Any,  # noqa: ANN401
    directory: Path | None = None,
) -> None:
    """Give every part its state, of a snapshot or of the checkpoint in a directory."""
    # clone: optimisers adopt the tensors they are given, and would write into the snapshot.
    tree = _io.unpack({name: tensor.clone() for name, tensor in tensors.items()}, skeleton)
    if tree.keys() != state.keys():
        got = f"{sorted(tree)} in {directory or 'the checkpoint'}"
        raise _check.fail("state", f"hold {sorted(state)}", got, "choose another checkpoint")
    before = {} if directory is None else {k: deepcopy(p.state_dict()) for k, p in state.items()}
    for name, part in state.items():
        try:
            part.load_state_dict(tree[name])
        except Exception as error:  # of whatever kind: it is made of what somebody wrote
            if directory is None or is_out_of_memory(error):
                raise
            for one, kept in before.items():  # whoever begins anew begins with what there was
                state[one].load_state_dict(kept)
            told = " ".join(str(error).split())[:300]
            raise _io.Damaged(f"its state does not fit {name} ({told})") from error
