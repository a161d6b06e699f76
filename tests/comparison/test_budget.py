import inspect
import mmap
import re
import types

import pytest
import torch

import aeot
from aeot import _loop
from aeot.comparison import budget

DATA = aeot.tensors(torch.zeros(50, 2))


class Clock:
    def __init__(self):
        self.now = 100.0

    def perf_counter(self):
        return self.now

    def process_time(self):
        return self.now / 2  # another process has the other half


class Trainee:
    """Takes `pace` seconds a step, and as many steps as it is told unless it is stopped."""

    batch_size = 8
    _multiple = 3

    def __init__(self, clock, pace=0.5, slow_after=None):
        self.clock, self.pace, self.slow_after = clock, pace, slow_after
        self.asked, self.done = [], []

    def fit(self, data, *, steps, on_step=None):
        self.asked.append(steps)
        self.done.append(0)
        for step in range(1, steps + 1):
            slow = len(self.asked) > 1 and self.slow_after and step > self.slow_after
            self.clock.now += self.pace * (4 if slow else 1)
            self.done[-1] = step
            if on_step(step, {}):
                break
        return self


class OpenEnded(Trainee):
    _open_ended = True


class TwoParts(Trainee):
    def fit_autoencoder(self, data, *, steps, on_step=None):
        return super().fit(data, steps=steps, on_step=on_step)

    def fit_transport(self, data):
        self.clock.now += 7.0


@pytest.fixture
def clock(monkeypatch):
    clock = Clock()
    fake = types.SimpleNamespace(perf_counter=clock.perf_counter, process_time=clock.process_time)
    monkeypatch.setattr(budget, "time", fake)
    return clock


def test_seconds_become_the_steps_that_fit(clock):
    model = Trainee(clock)
    facts = budget.train(model, DATA, seconds=100)
    # 3 s at 0.5 s a step: 7 steps to see 3 s pass; 96.5 s are left for 193 steps
    assert model.done == [7, 193]
    assert facts["steps"] == 193
    assert facts["train_seconds"] == 100
    assert facts["images_seen"] == 193 * 24
    assert facts["budget"] == "100 s"


def test_processor_seconds_do_not_pass_while_others_run(clock):
    model = Trainee(clock)
    facts = budget.train(model, DATA, seconds=50, processor=True)
    assert model.done == [7, 193]  # as in 100 s of wall clock
    assert (facts["train_seconds"], facts["cpu_seconds"]) == (100, 50)
    assert facts["budget"] == "50 processor s"


def test_a_model_without_a_schedule_is_stopped_in_time_and_fitted_once(clock):
    model = OpenEnded(clock, pace=4)  # a first step of any length would mislead a forecast
    facts = budget.train(model, DATA, seconds=100)
    assert model.done == [25]
    assert facts["train_seconds"] == 100


def test_training_ends_at_the_limit_if_the_pace_drops(clock):
    model = Trainee(clock, slow_after=50)
    facts = budget.train(model, DATA, seconds=100)
    assert model.asked[1] == 193
    # 25 s for 50 steps, then 2 s each until 96.5 s have passed
    assert facts["steps"] == 50 + 36
    assert 100 <= facts["train_seconds"] < 102


def test_a_model_of_two_parts_keeps_a_reserve_for_the_second(clock):
    model = TwoParts(clock)
    facts = budget.train(model, DATA, seconds=100, reserve=0.3)
    assert model.done == [7, 133]  # (70 - 3.5) / 0.5
    assert facts["train_seconds"] == 77  # 70 and the transport, which is not hidden


def test_a_budget_of_images_counts_every_real_batch(clock):
    model = Trainee(clock)
    facts = budget.train(model, DATA, images_seen=1000)
    assert model.done == [1000 // 24]
    assert facts["images_seen"] == 24 * 41


def test_a_training_that_goes_on_adds_up_its_seconds(clock, tmp_path):
    place, begun = tmp_path / "unfinished", []

    class Resumed(Trainee):
        def fit(self, data, *, steps, on_step=None, checkpoint=None):
            begun.append(checkpoint.exists())
            checkpoint.mkdir(parents=True, exist_ok=True)

            def stop_once(step, record):
                if step == 30 and not begun[-1]:
                    raise KeyboardInterrupt
                return on_step(step, record)

            rest = steps - 30 if begun[-1] else steps
            return super().fit(data, steps=rest, on_step=stop_once)

    with pytest.raises(KeyboardInterrupt):
        budget.train(Resumed(clock), DATA, images_seen=1000, checkpoint=place)
    facts = budget.train(Resumed(clock), DATA, images_seen=1000, checkpoint=place)
    assert begun == [False, True]
    assert (facts["steps"], facts["images_seen"]) == (41, 24 * 41)
    assert facts["train_seconds"] == 41 * 0.5
    assert facts["cpu_seconds"] == 10.25
    timed = budget.train(OpenEnded(clock, pace=4), DATA, seconds=100, checkpoint=place)
    assert timed["train_seconds"] == 100, "a time begins anew"


def test_the_peak_sees_memory_that_was_given_back():
    before = budget.Peak()
    low = before.gib()
    with mmap.mmap(-1, 160 << 20) as block:  # an allocator may hold pages that are resident already
        block.write(b"\1" * len(block))
    assert before.gib() - low > 0.1
    assert budget.Peak().gib() < before.gib() + 1e-3 or not before.exact


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({}, "seconds or images_seen must be given, got none of them"),
        ({"seconds": 1, "images_seen": 1}, "got both"),
        ({"seconds": 0}, "seconds must be a finite number > 0"),
        ({"images_seen": 0}, "images_seen must be a whole number"),
    ],
)
def test_bad_budgets_are_refused(arguments, message, clock):
    with pytest.raises(ValueError, match=message):
        budget.train(Trainee(clock), DATA, **arguments)


def test_a_model_that_cannot_be_stopped_is_refused():
    class Deaf:
        def fit(self, data):
            return self

    with pytest.raises(ValueError, match=r"model must have fit\(data, steps=, on_step=\)"):
        budget.train(Deaf(), DATA, seconds=1)


def test_every_estimator_that_draws_can_be_stopped():
    for name in aeot.__all__:
        cls = getattr(aeot, name)
        if hasattr(cls, "fit") and hasattr(cls, "sample") and name != "SemiDiscreteOT":
            fit = getattr(cls, "fit_autoencoder", cls.fit)
            assert {"steps", "on_step"} <= inspect.signature(fit).parameters.keys(), name


def test_flow_matching_trains_for_a_budget():
    model = aeot.FlowMatching(hidden=8, layers=1, batch_size=8)
    facts = budget.train(model, aeot.tensors(torch.randn(40, 2)), images_seen=80)
    assert facts["steps"] == 10
    seen = []
    model.fit(torch.randn(40, 2), steps=9, on_step=lambda step, _: seen.append(step) or step == 4)
    assert seen == [1, 2, 3, 4]


def test_two_phases_share_the_steps_that_fit():
    digits = aeot.dataset("digits")
    model = aeot.GLANN(latent_dim=4, batch_size=100)
    facts = budget.train(model, digits, images_seen=1000)
    assert facts["steps"] == 10
    # 7 steps of reconstruction, 3 of the mapping, which alone records its misfit
    assert model.choice_.epoch >= 0


def test_an_autoencoder_of_few_rows_sees_no_more_than_there_are():
    few = aeot.tensors(torch.randn(10, 3, generator=aeot.generator(0)))
    facts = budget.train(aeot.Autoencoder(latent_dim=2, batch_size=128), few, images_seen=45)
    assert (facts["steps"], facts["images_seen"]) == (4, 40)
    with pytest.raises(ValueError, match="reserve must be"):
        budget.train(aeot.Autoencoder(latent_dim=2), few, seconds=1, reserve=2)


def test_a_training_for_a_time_shows_the_time_and_no_number_of_steps(monkeypatch, capsys):
    monkeypatch.setattr(_loop, "_LINE_SECONDS", 0.0)
    budget.train(aeot.GAN(latent_dim=2, hidden=8, batch_size=10), DATA, seconds=0.2)
    shown = capsys.readouterr().err.splitlines()[-1]
    assert re.match(r"aeot: budget: second [\d.]+ of 0.2.* left; GAN: step \d+, ", shown)
