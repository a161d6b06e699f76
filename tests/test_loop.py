"""Signals set one flag, loops stop between two steps, and a file gets a line a minute."""

# ruff: noqa: PT012 - what is stopped is a block

import io
import os
import signal
import subprocess
import sys
import threading

import pytest

from aeot import _loop


class Clock:
    """Seconds that pass when they are told to."""

    def __init__(self):
        self.now = 100.0

    def __call__(self):
        return self.now


class Terminal(io.StringIO):
    def isatty(self):
        return True


def strike(number=signal.SIGINT):
    os.kill(os.getpid(), number)


def handlers():
    return [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)]


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_waits_for_the_next_beat(number):
    before, steps = handlers(), 0
    with pytest.raises(KeyboardInterrupt) as stopped, _loop.Loop("work", 5):
        for _ in range(5):
            _loop.beat()
            if steps == 2:
                strike(number)
            steps += 1  # the step in which it came is done to its end
    assert steps == 3
    assert stopped.value.number == number
    assert handlers() == before
    _loop.beat()  # nobody asks any more


def test_a_signal_after_the_last_beat_is_not_lost():
    message = "stopped by SIGTERM at the end of work"
    with pytest.raises(_loop.Stopped, match=message), _loop.Loop("work"):
        strike(signal.SIGTERM)
    assert _loop.asked() == 0


def test_nothing_stops_in_the_middle_of_a_step():
    with pytest.raises(_loop.Stopped), _loop.Loop("outer"):
        with _loop.whole(), _loop.Loop("inner"):
            strike()
            _loop.beat()
        reached = True
        _loop.beat()
        reached = False
    assert reached


def test_a_second_signal_stops_at_once(monkeypatch):
    with pytest.raises(_loop.Stopped), _loop.Loop("work"), _loop.whole():
        strike()
        strike()  # `timeout` sends each signal twice: that is one wish
        monkeypatch.setattr(_loop, "_TWICE", 0.0)
        strike()
        pytest.fail("went on")


def test_the_same_signal_twice_at_once_is_one_wish():
    done = False
    with pytest.raises(_loop.Stopped) as stopped, _loop.Loop("work"):
        strike(signal.SIGTERM)
        strike(signal.SIGTERM)  # as `timeout` sends it, to the process and to its group
        done = True
        _loop.beat()
    assert done
    assert not stopped.value.at_once


def test_a_part_that_may_stop_does_not_free_the_step_around_it():
    went_on = False
    with pytest.raises(_loop.Stopped), _loop.Loop("work"), _loop.whole():
        with _loop.whole(False):
            _loop.beat()
        with _loop.whole():
            pass
        strike()
        _loop.beat()
        went_on = True
        with _loop.whole(False):
            _loop.beat()
        pytest.fail("did not stop in the part that may")
    assert went_on


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_handlers_of_the_caller_are_left_alone(number):
    seen = []
    before = signal.signal(number, lambda *_: seen.append(1))
    own = handlers()
    try:
        with _loop.Loop("work"):
            assert handlers()[number == signal.SIGTERM] == own[number == signal.SIGTERM]
            strike(number)
            _loop.beat()
        assert handlers() == own
    finally:
        signal.signal(number, before)
    assert seen == [1]


def test_ignored_signals_stay_ignored():  # as under nohup
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        with _loop.Loop("work"):
            strike()
            _loop.beat()
    finally:
        signal.signal(signal.SIGINT, before)


def test_other_threads_install_nothing_and_stop_too():
    stopped = []

    def work():
        try:
            with _loop.Loop("thread"):
                while True:
                    _loop.beat()
        except _loop.Stopped:
            stopped.append(1)

    with pytest.raises(_loop.Stopped), _loop.Loop("main"):
        thread = threading.Thread(target=work)
        thread.start()
        strike()
        thread.join(10)
        assert stopped == [1]
        _loop.beat()


def test_a_command_stops_at_once_outside_its_loops():
    with pytest.raises(_loop.Stopped), _loop.stopping_at_once():
        with _loop.Loop("work"):
            _loop.beat()
        strike(signal.SIGTERM)
        pytest.fail("went on")
    assert _loop.asked() == 0


def test_a_file_gets_a_line_a_minute_after_the_first():
    out, clock = io.StringIO(), Clock()
    with _loop.Loop("joint", 960, stream=out, clock=clock) as loop:
        for step in range(1, 961):
            clock.now += 0.25  # four minutes in all
            loop.at(step, {"loss": 1 / step})
    lines = out.getvalue().splitlines()
    assert lines == [
        f"aeot: joint: step {240 * k} of 960, loss {1 / 240 / k:.4g}, {4 - k}:00 left"
        for k in (1, 2, 3, 4)
    ]


def test_short_loops_are_silent_in_a_file_and_share_its_minutes():
    out, clock = io.StringIO(), Clock()
    for _ in range(4):  # each begins a minute of its own
        with _loop.Loop("work", 40, stream=out, clock=clock) as loop:
            for step in range(40):
                clock.now += 1
                loop.at(step)
    assert out.getvalue() == ""
    with _loop.Loop("", stream=out, clock=clock, stops=False):
        for name in "abcd":
            with _loop.Loop(name, 40, clock=clock) as loop:
                for step in range(1, 41):
                    clock.now += 1
                    loop.at(step)
    shown = [line.split(",")[0] for line in out.getvalue().splitlines()]
    assert shown == ["aeot: b: step 20 of 40", "aeot: c: step 40 of 40"]


def test_between_two_loops_and_at_their_beginning_no_line_is_empty():
    out, clock = io.StringIO(), Clock()
    with _loop.Loop("", stream=out, clock=clock, stops=False):
        clock.now += 61
        _loop.beat()  # as other work between two loops does
        assert out.getvalue() == ""
        with _loop.Loop("transport", clock=clock):
            _loop.beat()
    assert out.getvalue() == "aeot: transport: begun\n"


def test_a_terminal_gets_one_line_that_is_rewritten():
    out, clock = Terminal(), Clock()
    with _loop.Loop("short", 5, stream=out, clock=clock) as loop:
        loop.at(1)
    assert out.getvalue() == ""
    with _loop.Loop("joint", 100, done=50, stream=out, clock=clock) as loop:
        for step in range(51, 101):
            clock.now += 0.05
            loop.at(step, {"loss": 0.5})
    states = out.getvalue().split("\r")
    assert len(states) < 30, "not oftener than ten times a second"
    assert out.getvalue().count("\n") == 1
    assert states[-1].startswith("[####################] joint: step 100 of 100, loss 0.5")
    # The pace is that of this process, which made half of the steps.
    assert "step 75 of 100, loss 0.5, 0:01 left" in out.getvalue()
    with _loop.Loop("decoding", 9, stream=out, clock=clock, stops=False) as loop:
        clock.now += 1
        loop.at(1)
    assert out.getvalue().endswith("\r\x1b[K"), "of what keeps nothing no bar is left"


def test_a_loop_inside_another_is_shown_behind_it():
    out, clock = io.StringIO(), Clock()
    with _loop.Loop("parts", 3, stream=out, clock=clock) as outer:
        outer.at(1)
        with _loop.Loop("transport", unit="samples", clock=clock) as inner:
            clock.now += 61
            inner.at(5000, {"stage": "grow", "bound": 0.25}, 75)
    text = "parts: step 1 of 3, 2:02 left; transport: samples 5000, stage grow, bound 0.25"
    assert out.getvalue() == f"aeot: {text}, 1:15 left\n"


def test_progress_is_shown_or_hidden_when_asked():
    for progress, lines in ((True, 1), (False, 0)):
        out, clock = io.StringIO(), Clock()
        with _loop.Loop("work", stream=out, clock=clock, progress=progress) as loop:
            loop.at(1)
            clock.now += 59
            loop.at(2)
        assert out.getvalue().count("\n") == lines


def test_a_closed_stream_stops_nothing():
    out = io.StringIO()
    out.close()
    display = _loop._Display.__new__(_loop._Display)
    display.stream = out
    display._write("text")


def test_checkpoints_cost_two_percent_at_most():
    clock = Clock()
    pace = _loop.Pace(60.0, clock)
    written, spent = [], 0.0
    for _ in range(6000):  # a step takes a second, writing a checkpoint five
        clock.now += 1
        if pace.due():
            written.append(clock.now - 100)
            with pace.measured():
                clock.now += 5
                spent += 5
    assert written[0] == 60, "the first as soon as a minute has passed"
    assert spent <= 0.02 * (clock.now - 100)
    assert len(written) > 20, "and as many as that allows"


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_script_that_is_stopped_dies_of_the_signal(number):
    script = (
        "import os, signal\n"
        "from aeot import _loop\n"
        "signal.signal(signal.SIGINT, signal.default_int_handler)\n"
        "with _loop.Loop('work'):\n"
        f"    os.kill(os.getpid(), {int(number)})\n"
        "    _loop.beat()\n"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert done.returncode == -number
    assert done.stderr.splitlines()[-1].startswith("aeot._loop.Stopped: stopped by SIG")
