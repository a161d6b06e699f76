import json
import os
import subprocess
import sys
import textwrap

import torch

from aeot import distributed
from aeot._shard import Shard


def test_alone_it_is_the_whole_and_touches_nothing():
    shard = distributed.shard()
    assert (shard.index, shard.count) == (0, 1)
    part = torch.arange(3)
    assert shard.sum(part) is part
    assert distributed.agree(part) is part
    assert distributed.is_writer()
    distributed.wait()
    distributed.leave()
    assert not torch.distributed.is_initialized()


def test_shards_cover_every_block_once():
    for count in (1, 2, 3, 7):
        for start in range(5):
            blocks = [b for i in range(count) for b in Shard(i, count).blocks(start, 23)]
            assert sorted(blocks) == list(range(start, 23))


SCRIPT = """
    import json, sys, torch
    from aeot import distributed
    shard = distributed.shard()
    values = torch.arange(100, dtype=torch.float64) ** 2
    mine = sum((values[10 * b : 10 * b + 10].sum() for b in shard.blocks(0, 10)), torch.zeros(()))
    total = shard.sum(mine.double())
    counts = shard.sum(torch.tensor([1, shard.index]))
    same = distributed.agree(torch.tensor([float(shard.index + 5)]))
    distributed.wait()
    if distributed.is_writer():
        body = {"count": shard.count, "part": float(mine), "total": float(total),
                "counts": counts.tolist(), "same": same.tolist()}
    else:
        body = {"part": float(mine), "same": same.tolist(), "total": float(total)}
    with open(f"{sys.argv[1]}/{shard.index}.json", "w") as file:
        json.dump(body, file)
    distributed.leave()
"""


def test_two_processes_add_up_to_one(tmp_path):
    script = tmp_path / "work.py"
    script.write_text(textwrap.dedent(SCRIPT))
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node=2"]
    command += ["--standalone", str(script), str(tmp_path)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, capture_output=True, text=True, timeout=600, env=environment)
    assert done.returncode == 0, done.stderr
    first, second = (json.loads((tmp_path / f"{rank}.json").read_text()) for rank in (0, 1))
    expected = sum(i**2 for i in range(100))
    assert first["count"] == 2
    assert first["part"] + second["part"] == first["total"] == second["total"] == expected
    assert first["part"] not in (0, expected)
    assert first["counts"] == [2, 1]
    assert first["same"] == second["same"] == [5.0]
