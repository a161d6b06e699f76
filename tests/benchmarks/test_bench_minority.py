"""What long training makes of a minority: rows are kept, and begin where page 67 ends."""

import importlib.util
import json
import re
from pathlib import Path

import pytest

PATH = Path(__file__).parents[2] / "benchmarks" / "bench_minority.py"
spec = importlib.util.spec_from_file_location("bench_minority", PATH)
bench_minority = importlib.util.module_from_spec(spec)
spec.loader.exec_module(bench_minority)


def test_a_training_is_looked_at_on_the_way_and_made_once(tmp_path, monkeypatch):
    out = tmp_path / "rows.jsonl"
    command = ["bench", "--rows", "GAN", "--seeds", "0", "--marks", "2", "3", "--out", str(out)]
    monkeypatch.setattr("sys.argv", command)
    for _ in range(2):
        bench_minority.main()
    (row,) = map(json.loads, out.read_text().splitlines())
    assert [mark["steps"] for mark in row["marks"]] == [2, 3]
    assert all(0 <= mark[name] <= 1 for mark in row["marks"] for name in ("inside", "minority"))


@pytest.mark.parametrize(
    ("name", "told"),
    [("GAN", "GAN"), ("WGAN-GP", "WGAN-GP"), ("re-weighted", "WGAN-GP, re-weighted")],
)
def test_the_rows_begin_where_the_page_ends(name, told):
    page = bench_minority.ROWS.parent / "examples" / "67_minorities_and_clients.txt"
    number = r"([\d.]+)%? ± +[\d.]+%? +"
    found = re.search(rf"^{told} +{number}{number}([\d.]+)%", page.read_text(), re.M)
    rows = map(json.loads, bench_minority.ROWS.read_text().splitlines())
    first = [row["marks"][0] for row in rows if row["row"] == name]
    assert len(first) == 3
    for k, (key, scale) in enumerate({"modes": 1, "inside": 100, "minority": 100}.items()):
        mean = scale * sum(mark[key] for mark in first) / 3
        assert mean == pytest.approx(float(found[k + 1]), abs=0.06), key
