"""Several processes that solve together: the bits of one process, and no one left waiting."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
import work_together

import aeot
from aeot import _ranks, cli
from aeot.features import Classifier
from aeot.search import numba_engine, torch_engine
from aeot.solvers import scorer


@pytest.fixture(autouse=True)
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def plain(value):
    return json.loads(json.dumps(value))


NORMALISED = {"residual", "images", "IMLE", "GLANN"}  # by batches


def same_losses(found, alone):
    """Compare what every rank trained with one process: another order of adding up, no more.

    What stands before a batch normalisation has gradients that are rounding and nothing else, of
    which Adam makes steps of full size: there equal losses would be luck.
    """
    for name, (last, _) in alone.items():
        assert {rank[name][1] for rank in found} == {found[0][name][1]}, name
        wide = 1e-3 if name in NORMALISED else 1e-5
        assert found[0][name][0] == pytest.approx(last, rel=wide, abs=5e-6), name


def test_two_processes_find_the_heights_of_one_and_train_together():
    alone, found = plain(work_together.few()), work_together.run(2, "few")
    same_losses([rank.pop("trained") for rank in found], alone.pop("trained"))
    for rank in found:
        assert rank == alone


@pytest.mark.slow
@pytest.mark.parametrize("size", [1, 3, 4])
def test_any_number_of_processes_find_the_heights_of_one_and_train_together(size):
    alone, found = plain(work_together.few()), work_together.run(size, "few")
    same_losses([rank.pop("trained") for rank in found], alone.pop("trained"))
    for rank in found:
        assert rank == alone


# Ranks, tiles and memory make more than one group: of as few as suffice, and as have a tile.
GROUPS = {(4, "few"): 2, (6, "few"): 3, (6, "ties"): 2, (6, "halves"): 2}


def same_where_sites_are_shared(size):
    alone, held = plain(work_together.shared())
    found = work_together.run(size, "shared")
    for rank, _ in found:
        assert rank == alone
    for name, whole in held.items():
        here = [parts[name] for _, parts in found]
        groups = GROUPS.get((size, name), 1)
        assert sum(here) == groups * whole  # each group holds each site once
        assert max(here) < whole


def test_two_processes_that_hold_half_of_the_sites_each_find_the_same():
    same_where_sites_are_shared(2)


@pytest.mark.parametrize("tiles", [3, 4, 7])
@pytest.mark.parametrize("size", [1, 2, 4, 5, 6])
def test_as_few_ranks_hold_the_sites_as_each_has_memory_for(monkeypatch, size, tiles):
    sites = torch.zeros(512 * tiles - 100, 3)
    monkeypatch.setattr(scorer._ranks, "size", lambda: size)
    for tiles_that_fit in (1, 2, 3, 7):
        asked = []
        monkeypatch.setattr(
            scorer._ranks, "everyones", lambda k, asked=asked: asked.append(k) or [k]
        )
        memory = 4 * 512 * 3 * tiles_that_fit
        held = scorer._holders(numba_engine, sites, memory)
        groups = [k for k in range(1, size + 1) if size % k == 0 and k <= tiles]
        most = {k: max(len(part) for part in _ranks.parts(range(tiles), 1, k)) for k in groups}
        enough = [k for k in groups if most[k] <= tiles_that_fit]
        assert held == (enough or groups)[0 if enough else -1]
        assert not any(most[k] <= tiles_that_fit for k in groups if k < held)
    # Of another rank that has less memory this one hears.
    if len(groups) > 1:
        monkeypatch.setattr(scorer._ranks, "everyones", lambda k: [k, groups[-1]])
        assert scorer._holders(numba_engine, sites, 1 << 30) == groups[-1]
    assert scorer._holders(torch_engine, sites, 1) == 1


@pytest.mark.slow
@pytest.mark.parametrize("size", [3, 4, 6])
def test_any_number_of_processes_that_share_the_sites_find_the_same(size):
    same_where_sites_are_shared(size)


@pytest.mark.slow
@pytest.mark.parametrize("size", [2, 3])
def test_every_model_is_trained_together(size):
    # Few steps: rounding grows, and what is tested is that every part is shared rightly.
    same_losses(work_together.run(size, "trained_all", 20), plain(work_together.trained_all(20)))


@pytest.mark.slow
def test_after_a_hundred_steps_losses_are_those_of_one_process():
    alone = plain(work_together.trained_all(100))
    # ALI: data moved by one rounding move its losses by 6e-5 in a hundred steps of one process.
    for name in NORMALISED | {"ALI"}:
        del alone[name]
    same_losses(work_together.run(2, "trained_all", 100, seconds=1800), alone)


@pytest.mark.slow
def test_in_bfloat16_ranks_differ_by_its_rounding_alone():
    """Each rank rounds its part of a gradient to eight bits; in float32 nothing else differs."""
    alone, found = plain(work_together.rounded()), work_together.run(2, "rounded")
    assert found[0] == found[1]
    whole, half = (np.array(alone[name]) for name in ("float32", "bfloat16"))
    assert found[0]["float32"] == pytest.approx(whole, rel=1e-5)
    assert found[0]["bfloat16"][0] == pytest.approx(half[0], rel=1e-6)  # before any gradient
    apart = np.abs(found[0]["bfloat16"] - half).sum()
    assert 0 < apart < np.abs(half - whole).sum()  # what one process loses by bfloat16


@pytest.mark.slow
@pytest.mark.parametrize("size", [2, 3])
@pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
def test_every_method_and_call_is_the_same_in_several_processes(size):
    alone = plain(work_together.many())
    for found in work_together.run(size, "many"):
        assert found == alone


def test_no_rank_waits_for_one_that_fails_differs_or_is_stopped(tmp_path):
    first, second = work_together.run(2, "troubles", str(tmp_path / "state"))
    for name in ("sites", "exact"):
        assert first[name] == second[name]
        assert first[name].startswith("ValueError: sites must be the same on every rank, got")
    assert first["bad"].startswith("ValueError: tol must be")
    assert second["bad"].startswith("ConnectionError: rank 0 of 2 failed in solve_semidiscrete")
    assert "tol must be" in second["bad"]
    assert "labels" in second["classes"]
    assert "rank 1 of 2 failed in solve_conditional" in first["classes"]
    assert "must be the same on every rank" in first["rows"]
    for name, told in {"labels": "labels", "seed": "seed", "memory": "memory"}.items():
        assert first[name].startswith(f"ValueError: {told} must be the same on every rank"), name
        assert first[name] == second[name]
    assert first["calls"].startswith("RuntimeError: the 2 ranks do not make the same calls")
    assert "solve_hierarchical" in second["calls"]
    assert second["callback"] == "LookupError: a callback of ours"
    assert "LookupError: a callback of ours" in first["callback"]
    assert first["ended"] == second["ended"]
    assert first["ended"][1] == "grow"
    for found in (first, second):
        assert found["stopped"].startswith("Stopped: stopped by SIGTERM at step")
    box, y = aeot.UniformBox(dim=4), work_together.normal(200, 4)
    alone = plain(work_together.told(aeot.solve_semidiscrete(box, y, tol=0.05)))
    assert first["resumed"] == second["resumed"] == alone
    one = plain(work_together.told(aeot.solve_semidiscrete(box, y, tol=0.1)))
    assert [first["alone"], second["alone"]] == [None, one]
    assert first["said"] == [False] * 11  # by a command: the first rank speaks, of all errors
    assert second["said"] == [True] * 11
    # Numbers that others wait for cannot be replaced by words: the connection ends.
    assert second["lost"] == "MemoryError: no memory for sums"
    assert "another of the 2 ranks is gone" in first["lost"]
    for found in (first, second):
        assert "start all of them again" in found["after"]
    # A caller who catches the second signal ends no process: the others hear of it all the same.
    assert second["twice"].startswith("Stopped: ")
    assert "another of the 2 ranks is gone" in first["twice"]


def compared(size, folder, failing):
    """Return what the ranks say, after checking that they found what one process finds."""
    digits = aeot.dataset("digits", size=8).subset(slice(0, 300))
    Classifier(channels=4, width=8, epochs=1).fit(digits).save(folder / "net")
    found = work_together.run(size, "compared", str(folder), failing)
    assert cli.main(work_together.compare_command(folder, "alone")) == 0
    told = []
    for place in (folder / "alone", folder / "together"):
        rows = json.loads((place / "comparison.json").read_text())["rows"]
        weights = sorted((place / "models").glob("*/model.safetensors"))
        told.append([[path.parent.name, path.read_bytes()] for path in weights])
        told[-1] += [[row["model"], row["metrics"]] for row in rows]
        assert not list(place.rglob("*.checkpoint"))
    assert told[0] == told[1]
    return found


@pytest.mark.slow
def test_two_processes_train_a_row_of_a_comparison_each_and_one_that_fails_ends_both(tmp_path):
    first, second = compared(2, tmp_path, 1)
    said = "aeot: error: rank 1 of 2 failed in aeot compare: FloatingPointError: the loss is nan"
    assert first == [[[2, [said]], [0, []]], ["VAE"]]
    assert second == [[[2, []], [0, []]], ["GAN", "GAN"]]  # and what the other made is kept


@pytest.mark.slow
def test_three_processes_compare_two_models(tmp_path):
    assert [trained for _, trained in compared(3, tmp_path, -1)] == [["VAE"], ["GAN"], []]


def torchrun(*arguments):
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone"]
    environment = os.environ | {"OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
    environment["PYTHONPATH"] = str(Path(aeot.__file__).parents[1])
    # Else the ranks that are started again find the addresses of those that died (torch 2.14).
    environment["TORCH_DISABLE_SHARE_RDZV_TCP_STORE"] = "1"
    done = subprocess.run(
        [*command, "--nproc-per-node", "2", *arguments],
        env=environment,
        capture_output=True,
        text=True,
        timeout=170,
    )
    assert done.returncode == 0, done.stderr
    return done


@pytest.mark.slow
def test_torchrun_goes_on_where_a_killed_rank_left_the_solve(tmp_path):
    places = str(tmp_path / "state"), str(tmp_path / "answer")
    torchrun("--max-restarts", "3", work_together.__file__, "torchrun", "-", "2", "killed", *places)
    found, first, steps = json.loads((tmp_path / "answer").read_text())
    y = work_together.normal(400, 6)
    seen = []
    options = {"tol": 0.04, "on_step": lambda record: seen.append(record)}
    alone = work_together.told(aeot.solve_semidiscrete(aeot.UniformBox(dim=6), y, **options))
    assert not first
    assert 0 < steps < len(seen)  # it did not begin anew
    assert found == plain(alone)


@pytest.mark.slow
def test_the_command_fits_one_model_in_two_processes(tmp_path):
    rows = work_together.normal(300, 6).float()
    rows[:, 3:] = rows[:, :3].square()
    np.save(tmp_path / "rows.npy", rows.numpy())
    options = ["fit", "--data", str(tmp_path / "rows.npy"), "--latent-dim", "4", "--steps", "60"]
    options += ["--tol", "0.1", "--precision", "float32", "--device", "cpu", "--out"]
    done = torchrun("-m", "aeot", *options, str(tmp_path / "two"))
    assert done.stdout.count("certificate") <= 1
    assert cli.main([*options, str(tmp_path / "one")]) == 0
    written = [
        {p.relative_to(tmp_path / run).as_posix() for p in (tmp_path / run).rglob("*")}
        for run in ("one", "two")
    ]
    assert written[0] == written[1]
    one, two = (aeot.AEOT.load(tmp_path / run / "model", device="cpu") for run in ("one", "two"))
    assert two.certificate_["converged"]
    for name, weight in one.autoencoder_.decoder_.state_dict().items():
        other = two.autoencoder_.decoder_.state_dict()[name]
        assert torch.allclose(weight, other, rtol=1e-3, atol=1e-4), name
    assert torch.allclose(one.encode(rows), two.encode(rows), rtol=1e-3, atol=1e-3)
