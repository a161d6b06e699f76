"""CycleGAN and Pix2Pix: the update against a trace by hand, storage, resuming, bad input."""

import numpy as np
import pytest
import torch

from aeot.gan.updates import ImagePool, jitter


def test_pool_against_a_list():
    pool, reference = ImagePool(3), []
    draws = torch.rand(40, generator=torch.Generator().manual_seed(5)).tolist()
    stream = torch.Generator().manual_seed(5)
    for k in range(20):
        batch = torch.tensor([2.0 * k, 2.0 * k + 1]).view(2, 1, 1, 1)
        wanted = []
        for value in batch.flatten().tolist():
            draw = draws.pop(0)
            if len(reference) < 3:
                reference.append(value)
                wanted.append(value)
            elif draw < 0.5:
                wanted.append(value)
            else:
                slot = int((draw - 0.5) * 2 * 3)
                wanted.append(reference[slot])
                reference[slot] = value
        assert pool.query(batch, stream).flatten().tolist() == wanted
        assert pool.images.flatten().tolist() == reference
    assert ImagePool(0).query(batch, stream) is not None


def test_pool_statistics():
    pool, stream = ImagePool(10), torch.Generator().manual_seed(0)
    ages = []
    for k in range(20_000):
        out = pool.query(torch.full((1, 1, 1, 1), float(k)), stream)
        ages.append(k - int(out))
    ages = np.array(ages[1000:])
    assert np.mean(ages == 0) == pytest.approx(0.5, abs=0.015)  # deviation 0.0036
    # A stored image leaves with probability 1/2 * 1/10 a query: its age is geometric, mean 20.
    assert ages[ages > 0].mean() == pytest.approx(20, rel=0.05)


def test_jitter_crops_and_flips_both_of_a_pair_alike():
    x = torch.rand(8, 1, 16, 16, generator=torch.Generator().manual_seed(0)) * 2 - 1
    stream = torch.Generator().manual_seed(0)
    one, two = jitter([x, -x], enlarge=1.25, flip=True, generator=stream)
    assert one.shape == x.shape
    torch.testing.assert_close(one, -two)
    assert not torch.allclose(one, x)
    same = jitter([x], enlarge=1, flip=False, generator=stream)[0]
    assert torch.equal(same, x)
    mirrored = jitter([x], enlarge=1, flip=True, generator=stream)[0]
    kept = [torch.equal(m, i) for m, i in zip(mirrored, x, strict=True)]
    flipped = [torch.equal(m, i.flip(-1)) for m, i in zip(mirrored, x, strict=True)]
    assert sum(kept) + sum(flipped) == 8
    assert 0 < sum(kept) < 8


def test_a_restored_pool_follows_the_device_of_its_images():
    pool = ImagePool(3)
    pool.load_state_dict({"images": torch.zeros(3, 1, 2, 2)})
    out = pool.query(torch.zeros(2, 1, 2, 2, device="meta"), torch.Generator().manual_seed(0))
    assert out.device.type == pool.images.device.type == "meta"
