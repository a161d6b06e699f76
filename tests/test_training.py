import functools
import itertools
import json
import os
import shutil
import signal

import pytest
import torch
from torch import nn

import aeot
from aeot import training
from aeot._rng import forked, generator


class Problem:
    """A small regression with everything a resumed run could get wrong: Adam, a schedule,
    batch statistics, dropout-like noise drawn per step."""

    def __init__(self):
        with forked(0, "problem"):
            self.net = nn.Sequential(nn.Linear(3, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Linear(8, 1))
        self.optimizer = torch.optim.Adam(self.net.parameters(), lr=1e-2)
        self.schedule = torch.optim.lr_scheduler.StepLR(self.optimizer, 7, 0.5)
        points = torch.randn(50, 3, generator=generator(0, "points"))
        self.data = aeot.tensors(points)

    @property
    def state(self):
        return {"net": self.net, "optimizer": self.optimizer, "schedule": self.schedule}

    def batches(self, step):
        return enumerate(aeot.loader(self.data, 8, seed=5, start=step), step)

    def update(self, batch):
        step, x = batch
        noise = 0.1 * torch.randn(x.shape, generator=generator(0, "noise", step))
        loss = (self.net(x + noise)[:, 0] - x.sum(1)).square().mean()
        self.optimizer.zero_grad()
        loss.backward()
        self.optimizer.step()
        self.schedule.step()
        return {"loss": loss.item()}

    def run(self, steps, **options):
        return training.run(
            self.update, self.batches, steps=steps, state=self.state, every=5, **options
        )

    def weights(self):
        return torch.cat([v.double().flatten() for v in self.net.state_dict().values()])


def without_time(history):
    return [{k: v for k, v in record.items() if k != "seconds"} for record in history]


def test_resuming_equals_never_stopping(tmp_path):
    straight = Problem()
    history = straight.run(33)
    assert [record["step"] for record in history] == [5, 10, 15, 20, 25, 30, 33]
    first = Problem()
    first.run(15, checkpoint=tmp_path / "run")
    second = Problem()
    resumed = second.run(33, checkpoint=tmp_path / "run")
    assert torch.equal(second.weights(), straight.weights())
    assert without_time(resumed) == without_time(history)
    third = Problem()  # finished: nothing is left to do
    assert third.run(33, checkpoint=tmp_path / "run") == resumed
    assert torch.equal(third.weights(), straight.weights())


def test_an_interrupt_between_records_loses_nothing(tmp_path):
    straight = Problem()
    straight.run(20)

    def interrupt(step, record):
        if step == 13:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        Problem().run(20, checkpoint=tmp_path / "run", on_step=interrupt)
    config = json.loads((tmp_path / "run" / "config.json").read_text())["config"]
    assert config["step"] == 10  # the last record
    again = Problem()
    again.run(20, checkpoint=tmp_path / "run")
    assert torch.equal(again.weights(), straight.weights())


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_a_killed_process_resumes_to_the_same_weights(tmp_path, request):
    # A fork cannot use the parent's threads, and sums depend on how many share them.
    request.addfinalizer(functools.partial(torch.set_num_threads, torch.get_num_threads()))
    torch.set_num_threads(1)
    child = os.fork()
    if child == 0:

        def die(step, record):
            if step == 17:
                os.kill(os.getpid(), signal.SIGKILL)

        try:
            Problem().run(25, checkpoint=tmp_path / "run", on_step=die, checkpoint_seconds=0)
        finally:
            os._exit(1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == -signal.SIGKILL
    config = json.loads((tmp_path / "run" / "config.json").read_text())["config"]
    assert config["step"] == 16  # the last whole step, in the middle of a record
    straight, again = Problem(), Problem()
    history = straight.run(25)
    resumed = again.run(25, checkpoint=tmp_path / "run")
    assert torch.equal(again.weights(), straight.weights())
    assert without_time(resumed) == without_time(history)  # the broken record is whole again
    assert [r["seconds"] for r in resumed] == sorted(r["seconds"] for r in resumed)


def test_plain_iterables_are_passed_over_on_resume(tmp_path):
    seen = []
    counter = nn.Linear(1, 1)

    def update(batch):
        seen.append(batch)
        return {"loss": 1.0}

    options = {"state": counter, "checkpoint": tmp_path / "run", "every": 1}
    training.run(update, range(10), steps=4, **options)
    training.run(update, range(10), steps=7, **options)
    assert seen == list(range(7))
    with pytest.raises(ValueError, match="batches must last for 11 steps"):
        training.run(update, range(10), steps=11, **options)


def test_records_are_means_over_their_steps(tmp_path):
    values = iter([1.0, 3.0, 5.0, 9.0, 4.0])
    history = training.run(
        lambda batch: {"loss": next(values)},
        range(5),
        steps=5,
        every=2,
        log=tmp_path / "log.jsonl",
        name="means",
    )
    assert [record["loss"] for record in history] == [2.0, 7.0, 4.0]
    lines = [json.loads(line) for line in (tmp_path / "log.jsonl").read_text().splitlines()]
    assert lines == [{"name": "means", **record} for record in history]


def test_on_step_sees_every_step_and_can_end_the_run():
    seen = []

    def watch(step, record):
        seen.append((step, record["loss"]))
        return step == 3

    history = training.run(lambda batch: {"loss": 2 * batch}, range(9), steps=9, on_step=watch)
    assert seen == [(1, 0), (2, 2), (3, 4)]
    assert [record["step"] for record in history] == [3]


@pytest.mark.parametrize("resumed", [False, True])
def test_a_nan_loss_stops_at_once_and_restores_the_last_record(resumed, tmp_path):
    problem, witness = Problem(), Problem()
    witness.run(10)
    if resumed:  # optimisers adopt the tensors they load; a snapshot that shared them would drift
        Problem().run(10, checkpoint=tmp_path / "run")
    plain = problem.update

    def poisoned(batch):
        if batch[0] == 12:
            batch = (12, batch[1] * torch.nan)
        return plain(batch)

    problem.update = poisoned
    with pytest.raises(training.Diverged, match=r"'loss' became nan at step 13; .* step 10 was"):
        problem.run(30, checkpoint=tmp_path / "run")
    assert torch.equal(problem.weights(), witness.weights())
    averages = [
        [state["exp_avg"] for state in each.optimizer.state.values()] for each in (problem, witness)
    ]
    assert all(map(torch.equal, *averages))
    again, straight = Problem(), Problem()
    again.run(30, checkpoint=tmp_path / "run")
    straight.run(30)
    assert torch.equal(again.weights(), straight.weights())


def test_a_nan_weight_is_never_written(tmp_path):
    problem = Problem()

    def poison(step, record):
        if step == 7:
            with torch.no_grad():
                problem.net[3].bias.fill_(torch.inf)

    problem.update = lambda batch: {"loss": 0.0}  # a loss that does not show it
    with pytest.raises(training.Diverged, match="net.3.bias became NaN or infinite at step 8"):
        problem.run(20, checkpoint=tmp_path / "run", on_step=poison)
    assert bool(torch.isfinite(problem.weights()).all())


def test_a_save_killed_between_its_renames_is_taken_up(tmp_path):
    Problem().run(10, checkpoint=tmp_path / "run")
    os.replace(tmp_path / "run", tmp_path / ".run.replaced-1-0a1b2c")
    seen = []
    Problem().run(12, checkpoint=tmp_path / "run", on_step=lambda step, _: seen.append(step))
    assert seen == [11, 12]


def test_a_damaged_checkpoint_is_passed_over_for_the_one_before_it(tmp_path, caplog):
    Problem().run(10, checkpoint=tmp_path / "run")
    Problem().run(20, checkpoint=tmp_path / "run")
    file = tmp_path / "run" / "model.safetensors"
    file.write_bytes(file.read_bytes()[:-1] + b"?")
    straight, again, seen = Problem(), Problem(), []
    straight.run(25)
    again.run(25, checkpoint=tmp_path / "run", on_step=lambda step, _: seen.append(step))
    assert seen[0] == 11
    assert torch.equal(again.weights(), straight.weights())
    assert "going on from the one before it" in caplog.text


def test_a_disk_without_room_for_a_checkpoint_is_known_before_any_work(tmp_path, monkeypatch):
    usage = shutil.disk_usage(tmp_path)._replace(free=100)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage)
    with pytest.raises(OSError, match=r"MB are needed and 0\.0 MB are free; make room: '.*run'"):
        Problem().run(5, checkpoint=tmp_path / "run", on_step=lambda *_: pytest.fail("worked"))
    assert not list(tmp_path.iterdir())


def test_a_log_inside_the_checkpoint_is_refused_before_any_work(tmp_path):
    with pytest.raises(ValueError, match="log must lie outside the checkpoint"):
        training.run(
            lambda batch: pytest.fail("worked"),
            [1],
            steps=1,
            state=torch.nn.Linear(1, 1),
            checkpoint=tmp_path / "run",
            log=tmp_path / "run" / "log.jsonl",
        )
    assert not list(tmp_path.iterdir())


def test_checkpoints_of_something_else_are_refused(tmp_path):
    facts = {"rate": 0.1, "betas": (0.5, 0.9)}
    Problem().run(5, checkpoint=tmp_path / "run", facts=facts)
    Problem().run(6, checkpoint=tmp_path / "run", facts=facts | {"new": 1})  # a later version
    with pytest.raises(ValueError, match=r"rate must be 0\.1 as when .*run began, got 0\.2"):
        Problem().run(8, checkpoint=tmp_path / "run", facts=facts | {"rate": 0.2})
    with pytest.raises(ValueError, match="steps must be at least 6, where .*run stands, got 4"):
        Problem().run(4, checkpoint=tmp_path / "run", facts=facts)
    seen = []
    with pytest.raises(ValueError, match="log must be a file that can be written"):
        Problem().run(8, log=tmp_path, on_step=lambda *_: seen.append(1))
    assert not seen
    other = nn.Linear(2, 2)
    with pytest.raises(ValueError, match=r"state must hold \['other'\]"):
        training.run(
            lambda batch: {}, range(9), steps=9, state={"other": other}, checkpoint=tmp_path / "run"
        )
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(ValueError, match="checkpoint must be a directory"):
        Problem().run(5, checkpoint=tmp_path / "file")
    with pytest.raises(ValueError, match="state must be given"):
        training.run(lambda batch: {}, range(9), steps=9, checkpoint=tmp_path / "run2")


def test_generators_go_on_only_as_they_began(tmp_path):
    points = torch.randn(40, 2, generator=generator(0, "points"))
    small = {"latent_dim": 2, "batch_size": 8, "hidden": 8}
    run = {"steps": 4, "checkpoint": tmp_path / "gan"}
    aeot.GAN(**small).fit(points, **run)
    for model, data, words in (
        (aeot.LSGAN(**small), points, "class must be 'GAN'"),
        (aeot.GAN(**small, learning_rate=0.5), points, "learning_rate must be 5e-05"),
        (aeot.GAN(**small | {"hidden": 9}), points, "hidden must be 8"),
        (aeot.GAN(**small), points[:33], "rows must be 40"),
        (aeot.GAN(**small), points + 1e-3, "data must be '"),
    ):
        with pytest.raises(ValueError, match=words):
            model.fit(data, **run | {"steps": 6})
    aeot.GAN(**small).fit(points, **run | {"steps": 6})
    two_stages = aeot.GLANN(latent_dim=2, batch_size=8)
    two_stages.fit(points, steps=4, checkpoint=tmp_path / "glann")
    with pytest.raises(ValueError, match="steps must be 4 as when"):  # stages are shares of them
        two_stages.fit(points, steps=6, checkpoint=tmp_path / "glann")
    ae = aeot.Autoencoder(latent_dim=2)
    ae.fit(points, steps=6, checkpoint=tmp_path / "ae")
    with pytest.raises(ValueError, match="latent_dim must be 2"):
        aeot.Autoencoder(latent_dim=1).fit(points, steps=6, checkpoint=tmp_path / "ae")


def test_a_run_stopped_before_its_first_step_says_that_nothing_is_kept(tmp_path):
    problem = Problem()

    def batches(step):
        os.kill(os.getpid(), signal.SIGTERM)
        return problem.batches(step)

    told = "step 0 of 9 of training: nothing is kept, and the same call begins anew"
    with pytest.raises(KeyboardInterrupt, match=told):
        training.run(
            problem.update, batches, steps=9, state=problem.state, checkpoint=tmp_path / "c"
        )
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize("at", [13, 20])  # in the middle of a record, and at its end
def test_a_signal_loses_no_step(tmp_path, number, at):
    straight = Problem()
    history = straight.run(33)

    def strike(step, record):
        if step == at:
            os.kill(os.getpid(), number)

    with pytest.raises(KeyboardInterrupt, match=f"step {at} of 33 of training") as stopped:
        Problem().run(33, checkpoint=tmp_path / "run", on_step=strike)
    assert str(tmp_path / "run") in str(stopped.value)
    assert "the same call goes on" in str(stopped.value)
    seen = []
    again = Problem()
    resumed = again.run(33, checkpoint=tmp_path / "run", on_step=lambda step, _: seen.append(step))
    assert seen[0] == at + 1
    assert torch.equal(again.weights(), straight.weights())
    assert without_time(resumed) == without_time(history)


def test_a_signal_without_a_checkpoint_says_so():
    def strike(step, record):
        os.kill(os.getpid(), signal.SIGINT)

    with pytest.raises(KeyboardInterrupt, match="nothing is kept of it without a checkpoint"):
        Problem().run(33, on_step=strike)


def test_a_checkpoint_waits_for_fifty_times_its_cost(tmp_path, monkeypatch):
    now, save, written = [0.0], training._io.save, []

    def slow(*arguments, **options):
        now[0] += 5
        written.append(now[0])
        save(*arguments, **options)

    def second(step, record):
        now[0] += 1

    monkeypatch.setattr(training._io, "save", slow)
    monkeypatch.setattr(training._loop.Pace.__init__, "__defaults__", (lambda: now[0],))
    Problem().run(1000, checkpoint=tmp_path / "run", on_step=second)
    assert written[0] == 65
    assert min(b - a for a, b in zip(written, written[1:-1], strict=False)) >= 255
    assert len(written) == 5  # after 60, 310, 560, 810 seconds of work, and at the end


def test_finer_records_are_means_over_fewer_steps():
    losses = [float(k) for k in range(1, 24)]
    fine = training.run(lambda x: {"loss": x}, losses, steps=23, every=10, finer=5)
    assert [r["step"] for r in fine] == [*range(2, 23, 2), 23]
    assert [r["loss"] for r in fine] == [*(k + 0.5 for k in range(1, 23, 2)), 23.0]
    assert len(training.run(lambda x: {"loss": x}, losses, steps=23, every=10)) == 3


def test_a_run_that_is_done_ends_and_does_not_go_on_when_resumed(tmp_path):
    weight = torch.nn.Linear(1, 1)
    seen = []

    def update(batch):
        seen.append(batch)
        return {"loss": 1.0}

    options = {"steps": 9, "state": weight, "checkpoint": tmp_path / "run", "checkpoint_seconds": 0}
    options |= {"done": lambda: len(seen) >= 4}
    history = training.run(update, itertools.count, **options)
    assert seen == [0, 1, 2, 3]
    assert history[-1]["step"] == 4
    assert training.run(update, itertools.count, **options) == history
    assert seen == [0, 1, 2, 3]
