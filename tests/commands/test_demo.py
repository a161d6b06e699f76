"""The demo at a few steps: what it leaves, and that it may be repeated."""

import json

import pytest

import aeot
from aeot import cli
from aeot.commands import demo
from aeot.commands.directory import RunDirectory


@pytest.fixture
def shortened(monkeypatch):
    from aeot.data import dataset

    def few(name, **how):
        data = dataset(name, **how)
        return data.subset(range(0, len(data), 6))

    monkeypatch.setattr(demo, "dataset", few)
    monkeypatch.setattr(demo, "_STEPS", 12)


def test_the_demo_ends_with_its_report_and_may_be_repeated(shortened, tmp_path, capsys):
    path = tmp_path / "demo"
    assert cli.main(["demo", "--out", str(path)]) == 0
    _, first, *rest = capsys.readouterr().out.splitlines()
    assert f"{path}/pictures/tears.png: a rectangle, torn into 4 pieces" in first
    assert " ".join(rest[-1].split()) == f"report {path}/report.html: open it in a browser"
    assert "demo" in (path / "report.html").read_text()
    pictures = {p.stem for p in (path / "pictures").glob("*.png")}
    assert {"tears", "by_class", "jump", "generated", "paths"} <= pictures
    with RunDirectory(path, {}, last="summary.json", overwrite=True):  # holds nothing but the run
        pass
    assert json.loads((path / "summary.json").read_text())["data"] == "digits"


@pytest.mark.slow
def test_a_demo_that_was_stopped_goes_on(shortened, tmp_path, monkeypatch, capsys):
    path = tmp_path / "demo"

    def stop(*_, **__):
        raise KeyboardInterrupt

    drawn = []
    letters = demo._letters
    monkeypatch.setattr(demo, "_letters", lambda *given: drawn.append(given) or letters(*given))
    for place in ((aeot.AEOT, "fit_transport"), (demo, "write_page")):
        with monkeypatch.context() as patch:
            patch.setattr(*place, stop)
            assert cli.main(["demo", "--out", str(path)]) == 130
        assert "the same command goes on" in capsys.readouterr().err
    assert cli.main(["demo", "--out", str(path)]) == 0
    assert len(drawn) == 1
    log = [json.loads(line) for line in (path / "log.jsonl").read_text().splitlines()]
    trained = [(r["name"], r["step"]) for r in log if r["name"] != "transport"]
    assert len(trained) == len(set(trained)) > 1, "no step is made twice"
    assert (path / "report.html").is_file()
    before = (path / "report.html").read_bytes()
    assert cli.main(["demo", "--out", str(path)]) == 0  # a finished one is replaced
    assert len(drawn) == 2
    assert len(before) > 0


def test_the_demo_leaves_a_folder_of_others_alone(shortened, tmp_path, capsys):
    (tmp_path / "thesis.tex").write_text("precious")
    assert cli.main(["demo", "--out", str(tmp_path)]) == 2
    assert "out must be new or empty" in capsys.readouterr().err
    assert [p.name for p in tmp_path.iterdir()] == ["thesis.tex"]


def test_the_demo_leaves_another_run_alone(tmp_path, capsys):
    with RunDirectory(tmp_path / "mine", {"data": "faces/", "seed": 0}) as run:
        run.begin()
        run.write("environment.json", {})
        run.write("summary.json", {"data": "faces/"})
    before = {p: p.read_bytes() for p in (tmp_path / "mine").iterdir()}
    assert cli.main(["demo", "--out", str(tmp_path / "mine")]) == 2
    said = capsys.readouterr().err
    assert "out must be new or of an earlier demo" in said
    assert "choose another folder" in said
    assert {p: p.read_bytes() for p in (tmp_path / "mine").iterdir()} == before
