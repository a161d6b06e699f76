import dataclasses
import json
import os
import signal

import pytest
import torch
from torch import nn

from aeot import _io

TENSORS = {"a": torch.arange(5.0), "b": torch.tensor([[True, False]]), "c": torch.tensor(3)}
CONFIG = {"name": "x", "values": [1, 2.5, None]}


def test_what_is_saved_is_loaded(tmp_path):
    tied = {**TENSORS, "again": TENSORS["a"]}
    _io.save(tmp_path / "m", tied, CONFIG, kind="Thing")
    tensors, config = _io.load(tmp_path / "m", kind="Thing")
    assert config == CONFIG
    assert tensors.keys() == tied.keys()
    for name, tensor in tied.items():
        assert torch.equal(tensors[name], tensor)
        assert tensors[name].dtype == tensor.dtype
    assert sorted(p.name for p in tmp_path.iterdir()) == ["m"]  # no scratch is left behind


def test_a_run_directory_leads_to_its_model(tmp_path):
    _io.save(tmp_path / "run" / "model", TENSORS, CONFIG, kind="Thing")
    assert _io.load(tmp_path / "run", kind="Thing")[1] == CONFIG


@pytest.mark.parametrize("name", ["model.safetensors", "config.json"])
def test_one_flipped_bit_is_found(tmp_path, name):
    _io.save(tmp_path / "m", TENSORS, CONFIG, kind="Thing")
    path = tmp_path / "m" / name
    body = bytearray(path.read_bytes())
    for position in (0, len(body) // 2, len(body) - 1):
        damaged = bytearray(body)
        damaged[position] ^= 1
        path.write_bytes(damaged)
        with pytest.raises(ValueError, match=f"{name} was changed or damaged"):
            _io.load(tmp_path / "m", kind="Thing")
    path.unlink()
    with pytest.raises(ValueError, match=f"{name} is missing"):
        _io.load(tmp_path / "m", kind="Thing")


def test_other_kinds_formats_and_places_are_refused(tmp_path):
    with pytest.raises(ValueError, match="must be a saved model"):
        _io.load(tmp_path / "nothing", kind="Thing")
    _io.save(tmp_path / "m", TENSORS, CONFIG, kind="Thing")
    with pytest.raises(ValueError, match="holds a 'Thing', not a 'Other'"):
        _io.load(tmp_path / "m", kind="Other")
    manifest = tmp_path / "m" / "manifest.json"
    body = json.loads(manifest.read_text())
    manifest.write_text(json.dumps(body | {"format": 99}))
    with pytest.raises(ValueError, match="format 99"):
        _io.load(tmp_path / "m", kind="Thing")
    del body["sha256"]["model.safetensors"]
    manifest.write_text(json.dumps(body))
    with pytest.raises(ValueError, match="does not list model.safetensors"):
        _io.load(tmp_path / "m", kind="Thing")
    manifest.write_text("{")
    with pytest.raises(ValueError, match="cannot be read"):
        _io.load(tmp_path / "m", kind="Thing")


def test_nothing_of_others_is_overwritten(tmp_path):
    (tmp_path / "file").write_text("mine")
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "notes.txt").write_text("mine")
    for name in ("file", "folder", "file/inside"):
        with pytest.raises(ValueError, match="path must be"):
            _io.save(tmp_path / name, TENSORS, CONFIG, kind="Thing")
    assert (tmp_path / "folder" / "notes.txt").read_text() == "mine"
    assert (tmp_path / "file").read_text() == "mine"


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
@pytest.mark.parametrize("stage", ["save_file", "_sync", "replace", "replace twice"])
def test_a_process_killed_while_saving_leaves_the_old_model_whole(tmp_path, stage):
    _io.save(tmp_path / "m", TENSORS, CONFIG, kind="Thing")
    child = os.fork()
    if child == 0:  # a process of its own, killed at its first or second call of `stage`
        owner, name = (os, "replace") if stage.startswith("replace") else (_io, stage)
        original, calls = getattr(owner, name), []

        def dying(*args):
            calls.append(1)
            if len(calls) > stage.endswith("twice"):
                os.kill(os.getpid(), signal.SIGKILL)
            return original(*args)

        setattr(owner, name, dying)
        try:
            _io.save(tmp_path / "m", {"a": torch.zeros(2)}, {}, kind="Thing")
        finally:
            os._exit(1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == -signal.SIGKILL
    tensors, config = _io.load(tmp_path / "m", kind="Thing")
    assert config == CONFIG
    assert torch.equal(tensors["a"], TENSORS["a"])
    _io.save(tmp_path / "m", {"a": torch.zeros(2)}, {}, kind="Thing")
    assert _io.load(tmp_path / "m", kind="Thing")[1] == {}


def test_a_text_appears_whole_or_not_at_all(tmp_path, monkeypatch):
    place = tmp_path / "text"
    _io.write_text(place, "first")

    def killed(*_):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(_io.os, "replace", killed)
        with pytest.raises(KeyboardInterrupt):
            _io.write_text(place, "second")
    assert place.read_text() == "first"
    assert list(tmp_path.iterdir()) == [place]
    with pytest.raises(ValueError, match=r"text must be a JSON file, got a damaged one.*delete it"):
        _io.read_json(place)


def test_pack_keeps_optimiser_states(tmp_path):
    layer = nn.Linear(3, 2)
    optimizer = torch.optim.Adam(layer.parameters(), lr=0.1, amsgrad=True)
    layer(torch.ones(1, 3)).sum().backward()
    optimizer.step()
    tree = {"opt": optimizer.state_dict(), "pair": (1, [None, "x", True]), "empty": {}}
    tree["like a mark"] = {"$tuple": [1]}
    tensors, skeleton = _io.pack(tree)
    _io.save(tmp_path / "m", tensors, {"tree": skeleton}, kind="checkpoint")
    stored, config = _io.load(tmp_path / "m", kind="checkpoint")
    back = _io.unpack(stored, config["tree"])
    assert back["pair"] == tree["pair"]
    assert back["empty"] == {}
    assert back["like a mark"] == tree["like a mark"]
    assert config["tree"]["pair"] == {"$tuple": [1, [None, "x", True]]}  # the rest is plain JSON
    assert back["opt"]["param_groups"] == tree["opt"]["param_groups"]
    for key, state in tree["opt"]["state"].items():
        for name, value in state.items():
            assert torch.equal(back["opt"]["state"][key][name], value)


def test_pack_refuses_what_it_cannot_keep():
    with pytest.raises(TypeError, match=r"a\.0: a set cannot be saved"):
        _io.pack({"a": [{1, 2}]})
    with pytest.raises(TypeError, match="same name"):
        _io.pack({"a.b": torch.ones(1), "a": {"b": torch.zeros(1)}})


def test_unwritable_places_are_found_before_work(tmp_path, monkeypatch):
    monkeypatch.setattr(os, "access", lambda *args: False)
    with pytest.raises(ValueError, match="path must be writable"):
        _io.check_writable(tmp_path / "new")


@dataclasses.dataclass(frozen=True)
class Inner:
    values: torch.Tensor
    rule: float | None = None


@dataclasses.dataclass(frozen=True)
class Outer:
    owner: nn.Module
    inner: Inner
    flag: bool


def test_records_are_put_together_around_what_was_left_out():
    owner = nn.Linear(1, 1)
    outer = Outer(owner, Inner(torch.arange(3), 0.5), True)
    parts = _io.take_apart(outer, leave_out=nn.Module)
    tensors, skeleton = _io.pack(parts)
    back = _io.put_together(
        _io.unpack(tensors, json.loads(json.dumps(skeleton))), globals(), owner=owner
    )
    assert back.owner is owner
    assert back.flag is True
    assert back.inner.rule == 0.5
    assert torch.equal(back.inner.values, outer.inner.values)
    with pytest.raises(ValueError, match="unknown record 'os'"):
        _io.put_together({"record": "os"}, globals())
