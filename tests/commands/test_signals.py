"""Ctrl-C and SIGTERM in the long loops of commands: what is kept, said, and made of it later."""

import json
import os
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
from PIL import Image

from aeot import _loop, cli
from aeot.commands import fit

STATUS = {signal.SIGINT: 130, signal.SIGTERM: 143}
FIT = ["--steps", "24", "--tol", "0.2", "--precision", "float32", "--architecture", "mlp"]
FIT += ["--width", "16"]


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """Vectors, and pictures of one blurred spot in two folders."""
    draw = np.random.default_rng(0)
    place = tmp_path_factory.mktemp("data")
    np.save(place / "rows.npy", draw.normal(size=(90, 6)) @ draw.normal(size=(6, 8)))
    x, y = np.meshgrid(np.arange(8), np.arange(8))
    for name in "ab":
        (place / name).mkdir()
        for k, (a, b) in enumerate(draw.uniform(1, 6, (24, 2))):
            spot = np.rint(255 * np.exp(-((x - a) ** 2 + (y - b) ** 2) / 4)).astype(np.uint8)
            Image.fromarray(spot).save(place / name / f"{k}.png")
    return place


class Strike:
    """Sends this process a signal when the loop of this name has made so many steps, once."""

    def __init__(self, monkeypatch, name, done, number):
        self.struck, self.steps_after = False, 0
        plain = _loop.Loop.at

        def at(loop, *arguments):
            plain(loop, *arguments)
            self.steps_after += self.struck
            if loop.name == name and loop.done >= done and not self.struck:
                self.struck = True
                os.kill(os.getpid(), number)

        monkeypatch.setattr(_loop.Loop, "at", at)


def results(path):
    """Bytes of the trained tensors and of what was generated, by name."""
    found = [*path.rglob("model.safetensors"), *path.rglob("generated.png"), *path.rglob("*.npy")]
    found += path.rglob("final.png")
    kept = {p.relative_to(path): p.read_bytes() for p in found if "checkpoint" not in p.parts}
    assert kept
    return kept


def stopped_and_repeated(argv, path, loop, done, number, monkeypatch, capsys):
    """Stop a command in a loop, check what it says, repeat it; return what it left."""
    capsys.readouterr()
    with monkeypatch.context() as patch:
        strike = Strike(patch, loop, done, number)
        assert cli.main(argv) == STATUS[number]
    assert strike.struck
    assert strike.steps_after == 0, "stopped within the step"
    lines = [line for line in capsys.readouterr().err.splitlines() if "stopped" in line]
    assert len(lines) == 1
    assert lines[0].startswith(f"aeot: stopped by {signal.Signals(number).name}")
    assert not (path / "summary.json").exists()
    handlers = [signal.getsignal(k) for k in STATUS]
    assert handlers == [signal.default_int_handler, signal.SIG_DFL]
    seen = []
    with monkeypatch.context() as patch:
        plain = _loop.Loop.__enter__
        patch.setattr(
            _loop.Loop, "__enter__", lambda loop: seen.append((loop.name, loop.done)) or plain(loop)
        )
        assert cli.main(argv) == 0
    return lines[0], seen


def fit_command(folders, path, latent):
    data = ["--data", str(folders / "rows.npy"), "--latent_dim", str(latent)]
    return ["fit", *data, "--out", str(path), *FIT]


@pytest.fixture(scope="module")
def straight(folders, tmp_path_factory):
    made = {}

    def run(latent):
        if latent not in made:
            made[latent] = tmp_path_factory.mktemp("runs") / f"z{latent}"
            assert cli.main(fit_command(folders, made[latent], latent)) == 0
        return made[latent]

    return run


@pytest.mark.parametrize(
    ("loop", "done", "latent", "where", "number"),
    [
        ("joint", 5, 4, "step 5 of 16 of joint", signal.SIGTERM),
        ("transport", 1, 4, "of the transport", signal.SIGINT),
        ("exact transport", 1, 2, "the exact transport", signal.SIGTERM),
        pytest.param("decoder", 3, 4, "step 3 of 8 of decoder", 2, marks=pytest.mark.slow),
    ],
)
def test_fit_goes_on_where_it_was_stopped(
    loop, done, latent, where, number, folders, straight, tmp_path, monkeypatch, capsys
):
    path, number = tmp_path / "run", signal.Signals(number)
    argv = fit_command(folders, path, latent)
    told, seen = stopped_and_repeated(argv, path, loop, done, number, monkeypatch, capsys)
    assert where in told
    assert told.endswith("; the same command goes on")
    assert results(path) == results(straight(latent))
    if loop == "joint":
        assert ("joint", 5) in seen
    elif "transport" in loop:
        assert {("joint", 16), ("decoder", 8)} <= set(seen), "no step is trained again"
    records = [json.loads(line) for line in (path / "log.jsonl").read_text().splitlines()]
    whole = (straight(latent) / "log.jsonl").read_text().splitlines()
    assert [(r["name"], r["step"]) for r in records] == [
        (r["name"], r["step"]) for r in map(json.loads, whole)
    ]
    assert not (path / "checkpoint").exists()


@pytest.mark.parametrize("number", STATUS)
def test_a_run_stopped_before_anything_was_saved_says_so(
    number, folders, tmp_path, monkeypatch, capsys
):
    argv = fit_command(folders, tmp_path / "run", 2)

    def stopped_while_it_reads(argv):
        with monkeypatch.context() as patch:
            patch.setattr(fit, "_read", lambda *_, **__: os.kill(os.getpid(), number))
            assert cli.main(argv) == STATUS[number]
        return capsys.readouterr().err

    anew = "; the same command starts anew: nothing was saved yet\n"
    assert stopped_while_it_reads(argv).endswith(anew)
    with monkeypatch.context() as patch:
        Strike(patch, "joint", 5, number)
        assert cli.main(argv) == STATUS[number]
    assert capsys.readouterr().err.endswith("; the same command goes on\n")
    assert stopped_while_it_reads(argv).endswith("; the same command goes on\n")
    # what is to be replaced is not what is gone on with
    assert stopped_while_it_reads([*argv, "--overwrite"]).endswith(anew)
    assert cli.main(argv) == 0
    # outside of the run's folder nobody knows
    with monkeypatch.context() as patch:
        patch.setattr(cli, "_load", lambda _: os.kill(os.getpid(), number))
        assert cli.main(argv) == STATUS[number]
    told = capsys.readouterr().err
    assert told.endswith("; the same command goes on with what was saved, if anything was\n")


def test_a_stopped_run_that_replaces_another_says_so(folders, tmp_path, monkeypatch, capsys):
    argv = [*fit_command(folders, tmp_path / "run", 2), "--overwrite"]
    with monkeypatch.context() as patch:
        Strike(patch, "joint", 5, signal.SIGINT)
        assert cli.main(argv) == 130
    assert "the same command without --overwrite goes on" in capsys.readouterr().err
    assert cli.main(argv[:-1]) == 0


@pytest.mark.slow
@pytest.mark.parametrize("number", STATUS)
def test_translate_goes_on_where_it_was_stopped(number, folders, tmp_path, monkeypatch, capsys):
    options = ["--size", "8", "--steps", "6", "--filters", "4", "--n_blocks", "1"]
    argv = ["translate", str(folders / "a"), str(folders / "b"), *options, "--n_layers", "1"]
    assert cli.main([*argv, "--out", str(tmp_path / "straight")]) == 0
    path = tmp_path / "run"
    argv += ["--out", str(path)]
    told, seen = stopped_and_repeated(argv, path, "CycleGAN", 3, number, monkeypatch, capsys)
    assert "step 3 of 6 of CycleGAN; the same command goes on" in told
    assert ("CycleGAN", 3) in seen
    assert results(path) == results(tmp_path / "straight")


@pytest.mark.slow
@pytest.mark.parametrize("number", STATUS)
@pytest.mark.parametrize("loop", ["joint", "WGANGP"])
def test_compare_keeps_the_models_that_are_finished(
    loop, number, folders, tmp_path, monkeypatch, capsys
):
    argv = ["compare", "AEOT", "WGANGP", "--data", str(folders / "a"), "--images_seen", "2000"]
    argv += ["--latent_dim", "2", "--size", "8", "--n_samples", "4"]
    assert cli.main([*argv, "--out", str(tmp_path / "straight")]) == 0
    path = tmp_path / "run"
    argv += ["--out", str(path)]
    told, seen = stopped_and_repeated(argv, path, loop, 3, number, monkeypatch, capsys)
    which = "WGANGP" if loop == "WGANGP" else "AEOT"
    assert (
        f" of {loop}; the models finished are kept: the same command goes on with {which}" in told
    )
    assert (loop, 3) in seen, "from the step it was in"
    assert not list(path.rglob("*.checkpoint"))
    if loop == "WGANGP":
        assert [name for name, _ in seen].count("joint") == 1, "for two steps, as a rehearsal"
    assert results(path) == results(tmp_path / "straight")


@pytest.mark.parametrize("number", STATUS)
def test_sample_leaves_nothing_half_written(
    number, folders, straight, tmp_path, monkeypatch, capsys
):
    path = tmp_path / "drawn"
    argv = ["sample", str(straight(2)), "--n", "600", "--out", str(path)]
    told, _ = stopped_and_repeated(argv, path, "decoding", 256, number, monkeypatch, capsys)
    assert told.endswith("; the same command starts anew")
    assert cli.main([*argv[:-1], str(tmp_path / "straight")]) == 0
    assert results(path) == results(tmp_path / "straight")


@pytest.mark.slow
@pytest.mark.parametrize("stage", ["joint", "decoder", "transport"])
def test_a_scheduler_stops_and_kills(stage, folders, tmp_path):
    """SIGTERM, and SIGKILL two seconds later, as batch schedulers do; then the job comes again."""
    argv = [sys.executable, "-m", "aeot", *fit_command(folders, tmp_path / "run", 4)]
    argv += ["--steps", "9000", "--tol", "0.002"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    log, ends = tmp_path / "run" / "log.jsonl", []
    for _ in range(20):
        job = subprocess.Popen(argv, env=environment, stderr=subprocess.PIPE, text=True)
        stopped = None
        while job.poll() is None:
            time.sleep(0.02)
            reached = f'"name": "{stage}"' in (log.read_text() if log.exists() else "")
            if reached and not ends and stopped is None:
                job.send_signal(signal.SIGTERM)
                stopped = time.monotonic()
            if stopped and time.monotonic() - stopped > 2:
                job.kill()
        ends.append((job.returncode, job.stderr.read()))
        if job.returncode == 0:
            break
    assert ends[0][0] == 143, ends
    assert "the same command goes on" in ends[0][1]
    assert ends[-1][0] == 0
    straight = tmp_path / "straight"
    argv[argv.index("--out") + 1] = str(straight)
    subprocess.run(argv, env=environment, check=True, capture_output=True)
    assert results(tmp_path / "run") == results(straight)


def stop_in(monkeypatch, name):
    """Send Ctrl-C as soon as a loop of this name has made a step."""
    return Strike(monkeypatch, name, 1, signal.SIGINT)


def test_a_stopped_second_fit_leaves_no_mixture_of_two(monkeypatch):
    import torch
    from sklearn.exceptions import NotFittedError

    import aeot

    draw = torch.Generator().manual_seed(0)
    first, second = (torch.randn(60, 6, generator=draw) for _ in range(2))
    model = aeot.AEOT(latent_dim=4, tol=0.2, precision="float32").fit(first, steps=4)
    drawn = model.sample(4)
    for step in ("joint", "transport"):
        with monkeypatch.context() as patch:
            stop_in(patch, step)
            with pytest.raises(KeyboardInterrupt):
                model.fit(second, steps=4)
        if step == "joint":
            assert torch.equal(model.sample(4), drawn), "as it was"
    with pytest.raises(NotFittedError):  # codes of the second, and no map onto them
        model.sample(4)
    rows = second.double().numpy()
    map_of_rows = aeot.SemiDiscreteOT(tol=0.2).fit(first.double().numpy())
    kept = map_of_rows.transform(first.double().numpy())
    with monkeypatch.context() as patch:
        stop_in(patch, "transport")
        with pytest.raises(KeyboardInterrupt):
            map_of_rows.fit(rows)
    assert np.array_equal(map_of_rows.transform(first.double().numpy()), kept), "as it was"


def test_parts_of_a_hierarchical_map_stop_too(monkeypatch):
    import torch

    import aeot

    sites = torch.randn(60, 4, generator=torch.Generator().manual_seed(0))
    stop_in(monkeypatch, "transport")
    with pytest.raises(KeyboardInterrupt, match="coarse part of the hierarchical") as stopped:
        aeot.solve_hierarchical(aeot.UniformBox(dim=4), sites, clusters=3, tol=0.2)
    assert stopped.value.heights is None, "those of a part are not those of the map"


def test_an_update_may_stop_in_a_search_that_changes_nothing(tmp_path, monkeypatch):
    import torch

    import aeot
    from aeot.gan import imle

    points = torch.randn(80, 2, generator=torch.Generator().manual_seed(0))
    make = lambda: aeot.IMLE(batch_size=20, noise_dim=4)  # noqa: E731
    straight, searches = make().fit(points, steps=10), []
    plain = imle.nearest

    def struck(*arguments, **options):
        searches.append(1)
        if len(searches) == 2:  # of the second epoch
            os.kill(os.getpid(), signal.SIGTERM)
        return plain(*arguments, **options)

    with monkeypatch.context() as patch:
        patch.setattr(imle, "nearest", struck)
        with pytest.raises(KeyboardInterrupt, match="step 4 of 10 of IMLE"):
            make().fit(points, steps=10, checkpoint=tmp_path / "imle")
    again = make().fit(points, steps=10, checkpoint=tmp_path / "imle")
    assert torch.equal(again.sample(5), straight.sample(5))


def test_both_transports_of_a_translator_go_on(tmp_path, monkeypatch):
    import torch

    import aeot

    images = torch.rand(2, 30, 1, 8, 8, generator=torch.Generator().manual_seed(0)) * 2 - 1
    data = aeot.unpaired(*images)
    make = lambda: aeot.TransportTranslator(latent_dim=5, tol=0.3)  # noqa: E731
    straight = make().fit(data, steps=4)
    for _ in "ba":  # each of the two, once
        with monkeypatch.context() as patch:
            stop_in(patch, "transport")
            with pytest.raises(KeyboardInterrupt, match="of the transport"):
                make().fit(data, steps=4, checkpoint=tmp_path / "t")
    again = make().fit(data, steps=4, checkpoint=tmp_path / "t")
    for to in "ab":
        assert torch.equal(again.maps_[to].heights, straight.maps_[to].heights)


def test_every_fit_shows_or_hides_its_progress(capsys):
    import torch

    import aeot

    rows = torch.randn(60, 3, generator=torch.Generator().manual_seed(0))
    for progress, told in ((True, "aeot: joint: step 1 of "), (False, ""), (None, "")):
        aeot.AEOT(latent_dim=2, tol=0.3).fit(rows, steps=3, progress=progress)
        err = capsys.readouterr().err
        assert err.startswith(told)
        assert bool(err) == bool(told)
    for model in (aeot.Autoencoder(latent_dim=2), aeot.GAN(latent_dim=2, hidden=8)):
        model.fit(rows, steps=3, progress=True)
        assert "step 1 of " in capsys.readouterr().err
        model.fit(rows, steps=3)
        assert capsys.readouterr().err == ""
