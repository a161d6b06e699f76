"""`aeot runs`: the table says what the records of the runs say."""

import json
import os

import pytest

from aeot import cli
from aeot.commands.runs import runs

SUMMARY = {
    "data": "faces",
    "rows": 90,
    "latent_dim": 8,
    "reconstruction": {"train": 0.1, "held_out": 0.0125},
    "certificate": {"converged": True, "mass_error_upper": 0.0449},
    "modes": 3,
    "sampled": {"acceptance": 0.915},
    "nearest": {"median": 0.06, "median_held_out": 0.08},
    "seconds": {"reading": 1.2, "transport": 60.0},
}


def run_in(folder, name, record, body, age):
    (folder / name).mkdir()
    (folder / name / record).write_text(json.dumps(body))
    os.utime(folder / name, (age, age))


def test_every_kind_of_run_has_its_line_the_newest_last(tmp_path, capsys):
    run_in(tmp_path, "second", "summary.json", SUMMARY, 200)
    worse = {**SUMMARY, "certificate": {"converged": False, "mass_error_upper": 0.2}}
    run_in(tmp_path, "third run", "summary.json", worse, 300)
    run_in(tmp_path, "first", "config.yaml", {}, 100)
    run_in(tmp_path, "compared", "compare.json", {}, 400)
    (tmp_path / "compared" / "comparison.json").write_text("{}")
    (tmp_path / "no run").mkdir()
    assert cli.main(["runs", str(tmp_path)]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split("  ")[0] for line in lines[1:5]] == [
        "first",
        "second",
        "third run",
        "compared",
    ]
    heads, second, third = lines[0].split(), lines[2].split(), lines[3].split()
    told = dict(zip(heads, second, strict=True))
    assert told == {
        "run": "second", "data": "faces", "rows": "90", "latent": "8", "error": "0.0125",
        "bound": "0.045", "modes": "3", "accepted": "91.5%", "near": "0.75", "seconds": "61",
    }  # fmt: skip
    assert "0.200*" in third
    assert "not finished: the same command goes on" in lines[1]
    assert "comparison, finished" in lines[4]
    assert lines[0].index("data") == lines[2].index("faces") == lines[3].index("faces")


def test_damaged_records_end_no_list(tmp_path):
    run_in(tmp_path, "a", "summary.json", {"certificate": 3, "seconds": [1], "nearest": None}, 1)
    run_in(tmp_path, "b", "summary.json", [1], 2)
    assert "-" in runs(str(tmp_path))
    assert "damaged: summary.json" in runs(str(tmp_path))


def test_a_folder_without_runs_says_how_to_make_one(tmp_path):
    assert "aeot fit makes the first" in runs(str(tmp_path))
    with pytest.raises(ValueError, match=r"folder must be a folder of runs, got .*; aeot fit"):
        runs(str(tmp_path / "none"))


def test_a_run_itself_is_shown_and_a_damaged_summary_is_told(tmp_path):
    run_in(tmp_path, "faces", "summary.json", SUMMARY, 100)
    assert runs(str(tmp_path / "faces")).splitlines()[1] == runs(str(tmp_path)).splitlines()[1]
    (tmp_path / "faces" / "summary.json").write_text("{")
    assert "damaged" in runs(str(tmp_path))
    assert "goes on" not in runs(str(tmp_path)).splitlines()[1]
