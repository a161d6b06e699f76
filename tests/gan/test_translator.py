"""CycleGAN and Pix2Pix: the update against a trace by hand, storage, resuming, bad input."""

import math
from functools import partial

import numpy as np
import pytest
import torch
from sklearn.exceptions import NotFittedError
from torch import nn

import aeot
from aeot import _io
from aeot.data import loader, paired, tensors, unpaired
from aeot.gan.cyclegan import CycleGAN
from aeot.gan.pix2pix import Pix2Pix
from aeot.gan.translator import ImagePool, jitter, linear_decay

SMALL = {"filters": 4, "n_layers": 1}


def pictures(count=6, size=16, channels=1, seed=0):
    draw = torch.Generator().manual_seed(seed)
    return torch.rand(count, channels, size, size, generator=draw) * 2 - 1


class Gain(nn.Module):
    """A network of one number."""

    def __init__(self, value):
        super().__init__()
        self.value = nn.Parameter(torch.tensor(value))

    def forward(self, x):
        return self.value * x


class Adam:
    """The textbook's, for one number."""

    def __init__(self, rate, betas=(0.5, 0.999)):
        self.rate, self.betas, self.m, self.v, self.t = rate, betas, 0.0, 0.0, 0

    def step(self, value, slope, factor):
        b1, b2 = self.betas
        self.t += 1
        self.m, self.v = b1 * self.m + (1 - b1) * slope, b2 * self.v + (1 - b2) * slope**2
        m, v = self.m / (1 - b1**self.t), self.v / (1 - b2**self.t)
        return value - self.rate * factor * m / (math.sqrt(v) + 1e-8)


def test_four_steps_of_cyclegan_by_hand(monkeypatch):
    start = {"to_b": 0.7, "to_a": 1.2, "critic_a": 0.4, "critic_b": -0.3}
    monkeypatch.setattr(
        CycleGAN, "_build", lambda self: {f"{k}_": Gain(v) for k, v in start.items()}
    )
    data = unpaired(pictures(3, seed=1), pictures(3, seed=2))
    rate, weight, share, steps = 0.05, 10.0, 0.5, 4
    model = CycleGAN(
        learning_rate=rate, cycle=weight, identity=share, pool_size=1, decay=0.5,
        enlarge=1, flip=False, n_layers=1, seed=3,
    )  # fmt: skip
    model.fit(data, steps=steps)

    w, v, q, p = (start[name] for name in ("to_b", "to_a", "critic_a", "critic_b"))
    adam = {name: Adam(rate) for name in "wvqp"}
    pool, judged = {"a": None, "b": None}, []
    for step, (a, b) in zip(range(steps), loader(data, 1, seed=3), strict=False):
        a, b = a.double().numpy(), b.double().numpy()
        factor = [1, 1, 1 - 1 / 3, 1 - 2 / 3][step]
        fake_b, fake_a = w * a, v * b
        dw = np.mean(2 * (p * fake_b - 1) * p * a)
        dv = np.mean(2 * (q * fake_a - 1) * q * b)
        round_a, round_b = np.sign(v * w * a - a), np.sign(v * w * b - b)
        dw += weight * (np.mean(round_a * v * a) + np.mean(round_b * v * b))
        dv += weight * (np.mean(round_a * w * a) + np.mean(round_b * w * b))
        dw += weight * share * np.mean(np.sign(w * b - b) * b)
        dv += weight * share * np.mean(np.sign(v * a - a) * a)
        w, v = adam["w"].step(w, dw, factor), adam["v"].step(v, dv, factor)
        # Only now the discriminators, on the fakes of before, through a pool of one.
        stream = aeot.generator(3, "pool", step)
        past = {}
        for name, fake in (("a", fake_a), ("b", fake_b)):
            draw = float(torch.rand(1, generator=stream))
            if pool[name] is None or draw < 0.5:
                past[name] = fake
                pool[name] = fake if pool[name] is None else pool[name]
            else:
                past[name], pool[name] = pool[name], fake
        # Adam does not see the scale of a loss: the halved ones are compared as values.
        judged.append(np.mean((q * a - 1) ** 2) / 2 + np.mean((q * past["a"]) ** 2) / 2)
        dq = np.mean((q * a - 1) * a) + np.mean(q * past["a"] ** 2)  # losses are halved
        dp = np.mean((p * b - 1) * b) + np.mean(p * past["b"] ** 2)
        q, p = adam["q"].step(q, dq, factor), adam["p"].step(p, dp, factor)
    found = [getattr(model, f"{name}_").value.item() for name in start]
    assert model.history_[-1]["critic_a"] == pytest.approx(np.mean(judged), abs=1e-6)
    assert found == pytest.approx([w, v, q, p], abs=2e-6)


def test_three_steps_of_pix2pix_by_hand(monkeypatch):
    start = {"to_b": 0.7, "critic": 0.4}
    monkeypatch.setattr(
        Pix2Pix, "_build", lambda self: {f"{k}_": Gain(v) for k, v in start.items()}
    )
    data = paired(pictures(3, seed=1), pictures(3, seed=2))
    rate, weight, steps = 0.05, 0.3, 3
    model = Pix2Pix(
        learning_rate=rate, l1=weight, decay=0.0, enlarge=1, flip=False, n_layers=1, seed=3
    )
    model.fit(data, steps=steps)

    w, q = start["to_b"], start["critic"]
    adam, seen = {name: Adam(rate) for name in "wq"}, []
    for _, (a, b) in zip(range(steps), loader(data, 1, seed=3), strict=False):
        a, b = a.double().numpy(), b.double().numpy()
        real, fake = np.stack([a, b]), np.stack([a, w * a])  # the critic sees the input beside it
        judged = np.mean(np.logaddexp(0, -q * real)) + np.mean(np.logaddexp(0, q * fake))
        dq = np.mean(-real / (1 + np.exp(q * real))) + np.mean(fake / (1 + np.exp(-q * fake)))
        q = adam["q"].step(q, dq, 1)  # first, and the generator meets the new one
        fooled, missed = np.mean(np.logaddexp(0, -q * fake)), np.mean(np.abs(w * a - b))
        dw = np.mean(-q * a / (1 + np.exp(q * w * a))) / 2  # half of what it sees is the input
        dw += weight * np.mean(np.sign(w * a - b) * a)
        w = adam["w"].step(w, dw, 1)
        seen.append({"critic": judged / 2, "adversary": fooled, "l1": missed})
    assert [model.to_b_.value.item(), model.critic_.value.item()] == pytest.approx([w, q], abs=2e-6)
    for name in seen[0]:
        wanted = np.mean([record[name] for record in seen])
        assert model.history_[-1][name] == pytest.approx(wanted, abs=1e-6), name


@pytest.mark.parametrize(
    ("model", "order"),
    [(CycleGAN(**SMALL, n_blocks=1), ["generators", "critics"]),
     (Pix2Pix(**SMALL), ["critics", "generators"])],
)  # fmt: skip
def test_each_optimiser_moves_its_own_networks_in_turn(model, order, monkeypatch):
    events, original = [], torch.optim.Adam.step

    def step(self, *args):
        before = {k: [p.clone() for p in m.parameters()] for k, m in model._modules.items()}
        original(self, *args)
        moved = {
            k for k, m in model._modules.items()
            if any(not torch.equal(x, y) for x, y in zip(before[k], m.parameters(), strict=True))
        }  # fmt: skip
        name = "generators" if self is model._optimizers["generators"] else "critics"
        assert moved == {k for k in model._modules if k.startswith("to_") == (name == "generators")}
        events.append(name)

    monkeypatch.setattr(torch.optim.Adam, "step", step)
    x = pictures()
    model.fit((unpaired if isinstance(model, CycleGAN) else paired)(x, -x), steps=2)
    assert events == order * 2


def test_schedule_is_the_published_one():
    factors = [linear_decay(epoch, constant=100, decay=100) for epoch in range(200)]
    assert factors[:100] == [1.0] * 100
    assert factors[100] == pytest.approx(100 / 101)
    assert factors[199] == pytest.approx(1 / 101)
    steps = [b - a for a, b in zip(factors[99:], factors[100:], strict=False)]
    assert steps == pytest.approx([-1 / 101] * 100)


def test_only_a_constant_rate_can_be_prolonged(tmp_path):
    x = pictures()
    data, small = unpaired(x, -x), SMALL | {"n_blocks": 0}
    for decay in (0.0, 0.5):
        place = tmp_path / str(decay)
        CycleGAN(**small, decay=decay).fit(data, steps=2, checkpoint=place)
        other = CycleGAN(**small, decay=0.5 - decay)
        with pytest.raises(ValueError, match="decay must be"):
            other.fit(data, steps=2, checkpoint=place)
    longer = CycleGAN(**small, decay=0.0).fit(data, steps=4, checkpoint=tmp_path / "0.0")
    straight = CycleGAN(**small, decay=0.0).fit(data, steps=4)
    assert all(torch.equal(v, weights(longer)[k]) for k, v in weights(straight).items())
    with pytest.raises(ValueError, match="steps must be 2 as when"):
        CycleGAN(**small, decay=0.5).fit(data, steps=4, checkpoint=tmp_path / "0.5")


def estimators():
    x = pictures()
    noisy = {"enlarge": 1.25, "batch_size": 2, "seed": 4}
    return {
        "cyclegan": (lambda: CycleGAN(**SMALL, **noisy, n_blocks=1, pool_size=3, cycle_noise=2.0),
                     unpaired(x, pictures(5, seed=1))),
        "sinkhorn": (lambda: CycleGAN(**SMALL, **noisy, n_blocks=1, adversary="sinkhorn"),
                     unpaired(x, pictures(5, seed=1))),
        "pix2pix": (lambda: Pix2Pix(**SMALL, **noisy, noise_channels=2, diversity=1.0),
                    paired(x, -x)),
    }  # fmt: skip


def weights(model):
    return {name: tensor.clone() for name, tensor in _io.pack(model.state())[0].items()}


@pytest.mark.parametrize("kind", ["cyclegan", "sinkhorn", "pix2pix"])
def test_resumed_training_equals_uninterrupted(kind, tmp_path, monkeypatch):
    make, data = estimators()[kind]
    whole = make().fit(data, steps=7)
    stopped = make().fit(data, steps=7, checkpoint=tmp_path / "d", on_step=lambda k, _: k == 5)
    assert any(not torch.equal(x, weights(stopped)[k]) for k, x in weights(whole).items())
    resumed = make().fit(data, steps=7, checkpoint=tmp_path / "d")

    def killed(step, record):
        if step == 5:
            raise KeyboardInterrupt

    # Written after each step, as if each took a minute.
    loop = partial(aeot.training.run, checkpoint_seconds=0)
    monkeypatch.setattr("aeot.gan.estimator.training.run", loop)
    with pytest.raises(KeyboardInterrupt):
        make().fit(data, steps=7, checkpoint=tmp_path / "c", on_step=killed)
    assert aeot._io.load(tmp_path / "c", kind="checkpoint")[1]["step"] == 4
    seen = []
    again = make().fit(
        data, steps=7, checkpoint=tmp_path / "c", on_step=lambda k, _: seen.append(k)
    )
    assert seen == [5, 6, 7]
    for other in (again, resumed):
        for name, value in weights(whole).items():
            assert torch.equal(value, weights(other)[name]), name
    assert again.history_[-1] == whole.history_[-1] | {"seconds": again.history_[-1]["seconds"]}


def test_checkpoint_holds_pools_and_schedule(tmp_path):
    make, data = estimators()["cyclegan"]
    make().fit(data, steps=2, checkpoint=tmp_path / "c")
    tensors_, config = aeot._io.load(tmp_path / "c", kind="checkpoint")
    assert tensors_["pool_a.images"].shape == (3, 1, 16, 16)
    assert tensors_["pool_b.images"].shape == (3, 1, 16, 16)
    state = aeot._io.unpack(tensors_, config["state"])
    assert state["generators_schedule"]["last_epoch"] == 2
    assert len(state["generators"]["state"]) == len(
        state["generators"]["param_groups"][0]["params"]
    )


@pytest.mark.parametrize("kind", ["cyclegan", "sinkhorn", "pix2pix"])
def test_save_load_and_same_seed(kind, tmp_path):
    make, data = estimators()[kind]
    model, twin = make().fit(data, steps=2), make().fit(data, steps=2)
    model.save(tmp_path / "m")
    back = type(model).load(tmp_path / "m", device="cpu")
    x = pictures(5, seed=9)
    assert torch.equal(model.translate(x), back.translate(x))
    assert torch.equal(model.translate(x), twin.translate(x))
    assert back.history_ == model.history_
    assert back.betas == model.betas
    other = Pix2Pix if kind != "pix2pix" else CycleGAN
    with pytest.raises(ValueError, match="holds a"):
        other.load(tmp_path / "m")
    with pytest.raises(ValueError, match="device must be a device of this machine"):
        type(model).load(tmp_path / "m", device="cuda:99")


def test_translations_do_not_depend_on_company():
    x = pictures(40, seed=9)
    model = CycleGAN(**SMALL, n_blocks=1).fit(unpaired(x, -x), steps=1)
    torch.testing.assert_close(model.translate(x)[3:4], model.translate(x[3:4]), atol=1e-5, rtol=0)
    assert model.translate(x, to="a").shape == x.shape
    assert model.translate(x[:0]).shape == (0, 1, 16, 16)
    noisy = Pix2Pix(**SMALL, noise_channels=2).fit(paired(x, -x), steps=1)
    torch.testing.assert_close(noisy.translate(x)[:5], noisy.translate(x[:5]), atol=1e-5, rtol=0)
    assert not torch.equal(noisy.translate(x, seed=1), noisy.translate(x, seed=2))
    still = noisy.translate(x, noise=False)
    torch.testing.assert_close(still, noisy.translate(x, noise=False, seed=5), atol=0, rtol=0)


def test_bfloat16_keeps_float32_weights():
    x = pictures()
    for model, data in (
        (CycleGAN(**SMALL, n_blocks=1, precision="bfloat16"), unpaired(x, -x)),
        (Pix2Pix(**SMALL, precision="bfloat16"), paired(x, -x)),
    ):
        model.fit(data, steps=3)
        assert {v.dtype for v in weights(model).values()} == {torch.float32}
        assert model.translate(x).dtype == torch.float32


def test_sample_grids_while_training():
    x, seen = pictures(), []
    model = CycleGAN(**SMALL, n_blocks=1)
    model.fit(unpaired(x, -x), steps=3, on_step=lambda k, r: seen.append(model.translate(x[:2])))
    assert len(seen) == 3
    assert not torch.equal(seen[0], seen[2])
    assert model.to_b_.training is False


@pytest.mark.parametrize("generator", ["unet", "resnet"])
@pytest.mark.parametrize("norm", ["instance-affine", "none"])
def test_pix2pix_learns_to_invert(generator, norm):
    """Also without a norm that would bring back to size what small first weights shrink."""
    x = pictures(16, size=16)
    x = torch.nn.functional.interpolate(x[..., ::4, ::4], size=16, mode="nearest")
    model = Pix2Pix(
        generator=generator, norm=norm, filters=8, enlarge=1, dropout=0.0, learning_rate=2e-3,
        batch_size=4, adversary="none", n_blocks=None if generator == "unet" else 1,
    )  # fmt: skip
    model.fit(paired(x, -x), steps=100)
    assert float((model.translate(x) + x).abs().mean()) < 0.25  # answering 0: 0.5; x itself: 1


@pytest.mark.parametrize(
    ("model", "data", "message"),
    [
        (CycleGAN(), lambda: unpaired(pictures(size=16), pictures(size=32)), "rows of shape"),
        (CycleGAN(), lambda: unpaired(pictures(), pictures(channels=3)), "rows of shape"),
        (
            CycleGAN(),
            lambda: unpaired(pictures(), tensors(pictures()).subset([])),
            "data.b must hold",
        ),
        (CycleGAN(), lambda: unpaired(pictures(size=30), pictures(size=30)), "multiples of 4"),
        (CycleGAN(), lambda: pictures(), "data must be made by aeot.unpaired"),
        (CycleGAN(), lambda: unpaired(torch.zeros(3, 2), torch.zeros(3, 2)), "hold images"),
        (CycleGAN(), lambda: paired(pictures(), pictures()), "data must be unpaired"),
        (CycleGAN(), lambda: unpaired(pictures(), pictures()), "n_layers must leave"),
        (CycleGAN(filters=0), lambda: unpaired(pictures(), pictures()), "filters must"),
        (CycleGAN(cycle=-1), lambda: unpaired(pictures(), pictures()), "cycle must"),
        (CycleGAN(adversary="x"), lambda: unpaired(pictures(), pictures()), "adversary must be"),
        (CycleGAN(adversary="sinkhorn"), lambda: unpaired(pictures(), pictures()), "batch_size"),
        (CycleGAN(decay=2), lambda: unpaired(pictures(), pictures()), "decay must"),
        (Pix2Pix(), lambda: unpaired(pictures(), pictures()), "data must be paired"),
        (Pix2Pix(), lambda: paired(pictures(), pictures(5)), "rows like a"),
        (Pix2Pix(), lambda: paired(pictures(size=20), pictures(size=20)), "multiples of 8"),
        (Pix2Pix(), lambda: paired(pictures(size=16), pictures(size=24)), "whole number of times"),
        (Pix2Pix(), lambda: paired(pictures(), pictures(size=32)), "pass generator='upscale'"),
        (
            Pix2Pix(generator="upscale"),
            lambda: paired(pictures(), pictures()),
            "times as large as in a, at least 2 x 2, got a of 16 x 16 and b of 16 x 16",
        ),
        (
            Pix2Pix(generator="upscale"),
            lambda: paired(pictures(size=4), pictures(size=12)),
            "got a of 4 x 4 and b of 12 x 12; aeot.data.low_high",
        ),
        (
            Pix2Pix(generator="upscale", crop=1),
            lambda: paired(pictures(size=4), pictures(size=8)),
            "got a of 1 x 1 and b of 2 x 2",
        ),
        (Pix2Pix(diversity=1.0), lambda: paired(pictures(), pictures()), "noise_channels must"),
        (Pix2Pix(generator="x"), lambda: paired(pictures(), pictures()), "generator must be"),
        (CycleGAN(device="foo"), lambda: unpaired(pictures(), pictures()), "device must be"),
        (Pix2Pix(device="cuda:99"), lambda: paired(pictures(), pictures()), "device must be"),
    ],
)
@pytest.mark.filterwarnings("ignore:no image value")
def test_bad_input_before_training(model, data, message, tmp_path):
    with pytest.raises(ValueError, match=message):
        model.fit(data(), steps=1, checkpoint=tmp_path / "c")
    assert not hasattr(model, "to_b_")
    assert not (tmp_path / "c").exists()


@pytest.mark.parametrize("steps", [0, -1, 1.5])
def test_no_model_without_a_step(steps, tmp_path):
    x = pictures()
    for model, data in ((CycleGAN(**SMALL), unpaired(x, -x)), (Pix2Pix(**SMALL), paired(x, -x))):
        with pytest.raises(ValueError, match="steps must be a whole number >= 1, got"):
            model.fit(data, steps=steps, checkpoint=tmp_path / "c")
        assert not hasattr(model, "to_b_")
    assert not (tmp_path / "c").exists()


def test_bad_images_to_translate():
    x = pictures()
    with pytest.raises(NotFittedError):
        CycleGAN().translate(x)
    with pytest.raises(NotFittedError):
        CycleGAN().save("nowhere")
    model = CycleGAN(**SMALL, n_blocks=0).fit(unpaired(x, -x), steps=1)
    for bad, message in [
        (pictures(channels=3), r"shape \(B, 1, H, W\)"),
        (pictures(size=18), "multiples of 4"),
        (x[0], "shape"),
        ((x + 1) * 127, r"lie in \[-1, 1\]"),
        (x * math.nan, "finite"),
    ]:
        with pytest.raises(ValueError, match=message):
            model.translate(bad)
    with pytest.raises(ValueError, match="to must be one of"):
        model.translate(x, to="c")
    with pytest.raises(ValueError, match="^to must be 'b', got 'a'$"):
        Pix2Pix(**SMALL).fit(paired(x, -x), steps=1).translate(x, to="a")
    assert model.translate(tensors(x)).shape == x.shape


@pytest.mark.parametrize("empty", ["a", "b"])
def test_an_empty_domain_is_named(empty):
    domains = {name: torch.zeros(0 if name == empty else 4, 1, 16, 16) for name in "ab"}
    with pytest.raises(ValueError, match=f"{empty} must hold at least one row"):
        unpaired(domains["a"], domains["b"])


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


class Patches(nn.Module):
    """A critic with one linear score for each of the two halves of an image of 2 x 2 pixels."""

    def __init__(self, weights):
        super().__init__()
        self.weights = nn.Parameter(weights)  # (2, 4)

    def forward(self, x):
        return (x.flatten(1) @ self.weights.T)[:, None, :, None]


def test_a_wasserstein_critic_of_patches_feels_the_whole_image():
    """Its slope is that of the mean over patches: here |(w_1 + w_2) / 2|, wherever it is taken."""
    weights = torch.tensor([[3.0, 0.0, 0.0, 0.0], [0.0, 4.0, 0.0, 0.0]])
    for model in (CycleGAN(adversary="wasserstein"), Pix2Pix(adversary="wasserstein")):
        real, fake = pictures(5, 2, seed=1), pictures(5, 2, seed=2)
        loss = model._critic_loss(Patches(weights), real, fake, aeot.generator(0, "x"))
        gap = Patches(weights)(fake).mean() - Patches(weights)(real).mean()
        assert loss.item() == pytest.approx(gap.item() + 10 * (2.5 - 1) ** 2, rel=1e-5)


@pytest.mark.parametrize("kind", [CycleGAN, Pix2Pix])
def test_a_wasserstein_generator_goes_where_its_critic_scores_higher(kind):
    """A critic that is not trained scores the mean of an image, so outputs have to rise."""
    pairs = (paired if kind is Pix2Pix else unpaired)(pictures(), pictures(seed=1))
    options = {"l1": 0.0} if kind is Pix2Pix else {"cycle": 0.0, "identity": 0.0}

    class Bright(nn.Module):
        def __init__(self):
            super().__init__()
            self.none = nn.Parameter(torch.zeros(()))

        def forward(self, x):
            return x[:, -1:].mean((1, 2, 3), keepdim=True) + 0 * self.none

    class Judged(kind):
        def _build(self):
            found = super()._build()
            return {k: Bright() if "critic" in k else x for k, x in found.items()}

    made = [
        Judged(**SMALL, **options, adversary="wasserstein", flip=False, enlarge=1.0)
        .fit(pairs, steps=steps)
        .translate(pictures(seed=3))
        .mean()
        for steps in (1, 60)
    ]
    assert made[1] > made[0] + 0.05


@pytest.mark.parametrize("kind", [CycleGAN, Pix2Pix])
def test_wasserstein_translators_train_and_refuse_batch_statistics(kind):
    domains = (paired if kind is Pix2Pix else unpaired)(pictures(), pictures(seed=1))
    model = kind(**SMALL, adversary="wasserstein").fit(domains, steps=2)
    assert model.translate(pictures(2)).shape == (2, 1, 16, 16)
    with pytest.raises(ValueError, match="norm must not be 'batch' with 'wasserstein'"):
        kind(**SMALL, adversary="wasserstein", norm="batch").fit(domains, steps=1)


@pytest.mark.parametrize(("difference", "wanted"), [("absolute", -0.5), ("squared", 0.0)])
def test_a_generator_without_adversary_learns_the_median_or_the_mean(
    monkeypatch, difference, wanted
):
    """One input has three partners: -0.5 twice and 1 once, with median -0.5 and mean 0."""
    monkeypatch.setattr(Pix2Pix, "_build", lambda self: {"to_b_": Gain(0.3)})
    a = -torch.ones(3, 1, 8, 8)
    b = -torch.tensor([-0.5, -0.5, 1.0])[:, None, None, None].expand(-1, 1, 8, 8)
    model = Pix2Pix(
        adversary="none", difference=difference, batch_size=3, learning_rate=0.02, decay=0.5,
        enlarge=1, flip=False,
    )  # fmt: skip
    model.fit(paired(a, b), steps=300)
    assert model.to_b_.value.item() == pytest.approx(wanted, abs=0.02)


@pytest.mark.parametrize("kind", [CycleGAN, Pix2Pix])
def test_images_loaded_larger_are_cropped_without_resizing(kind):
    seen = []

    class Watched(kind):
        def _update(self, step, a, b):
            seen.append((a, b))
            return super()._update(step, a, b)

    x = torch.arange(18.0 * 18).view(1, 1, 18, 18) / 200 - 0.9
    y = -x
    pairs = kind is Pix2Pix
    model = Watched(**SMALL, crop=16, flip=False).fit(
        (paired if pairs else unpaired)(x, y), steps=9
    )
    assert model.shape_ == (1, 16, 16)
    corners = set()
    for a, b in seen:
        assert a.shape == (1, 1, 16, 16)
        row, column = divmod(round(float((a[0, 0, 0, 0] + 0.9) * 200)), 18)
        corners.add((row, column))
        assert torch.equal(a, x[..., row : row + 16, column : column + 16])
        if pairs:
            assert torch.equal(b, -a)
    assert len(corners) > 1
    for crop, told in [(20, "crop must be at most 18"), (10, "crop must have sides that are mul")]:
        with pytest.raises(ValueError, match=told):
            kind(**SMALL, crop=crop).fit((paired if pairs else unpaired)(x, y), steps=1)


def test_up_sampling_by_resizing_is_the_resnets_alone():
    both = paired(pictures(), pictures(seed=1))
    with pytest.raises(ValueError, match="upsampling must be left out in a U-Net"):
        Pix2Pix(**SMALL, upsampling="resize").fit(both, steps=1)
    options = {"generator": "resnet", "n_blocks": 1}
    plain, other = (
        Pix2Pix(**SMALL, **options, upsampling=how).fit(both, steps=1)
        for how in ("transposed", "resize")
    )
    assert plain.count_parameters() == other.count_parameters()


def blocks_with_detail(count=2000, side=3, factor=2, seed=0):
    """Small images, and large ones in which every pixel has become a bright and a dark column."""
    small = pictures(count, side, seed=seed) / 2
    lit = torch.where(torch.arange(factor * side) % 2 == 0, 0.4, -0.4)
    return small, small.repeat_interleave(factor, 2).repeat_interleave(factor, 3) + lit


def test_upscaling_inverts_means_of_blocks():
    """Detail that the mean has lost is there again, which no interpolation of the input has."""
    small, large = blocks_with_detail()
    assert torch.allclose(torch.nn.functional.avg_pool2d(large, 2), small, atol=1e-6)
    model = Pix2Pix(
        generator="upscale", upsampling="resize", n_blocks=1, filters=8, norm="none", n_layers=0,
        dropout=0.0, adversary="wasserstein", enlarge=1, flip=False, batch_size=16,
        learning_rate=3e-3,
    )  # fmt: skip
    model.fit(paired(small, large), steps=200)
    small, large = blocks_with_detail(seed=1)
    off = (model.translate(small) - large).abs().mean()
    assert float(off) < 0.1  # every pixel repeated is off by 0.4


@pytest.mark.parametrize("factor", [2, 4])
def test_a_model_that_enlarges_is_cropped_alike_saved_and_loaded(factor, tmp_path):
    seen = []

    class Watched(Pix2Pix):
        def _update(self, step, a, b):
            seen.append((a, b))
            return super()._update(step, a, b)

    ramp = torch.arange(36.0).view(1, 1, 6, 6) / 36 - 0.5
    both = paired(ramp, ramp.repeat_interleave(factor, 2).repeat_interleave(factor, 3))
    options = SMALL | {"generator": "upscale", "n_blocks": 1, "noise_channels": 1, "n_layers": 0}
    model = Watched(**options, crop=4).fit(both, steps=6)
    assert (model.shape_, model.out_shape_) == ((1, 4, 4), (1, 4 * factor, 4 * factor))
    for a, b in seen:
        assert torch.equal(a.repeat_interleave(factor, 2).repeat_interleave(factor, 3), b)
    assert len({float(a.sum()) for a, _ in seen}) > 1
    model = Pix2Pix(**options).fit(both, steps=2)  # enlarged by 286/256 and cropped: 7 of 6, and 6
    x = pictures(3, 5)
    made = model.translate(x)
    assert made.shape == (3, 1, 5 * factor, 5 * factor)
    model.save(tmp_path / "m")
    assert torch.equal(Pix2Pix.load(tmp_path / "m", device="cpu").translate(x), made)
    assert model.translate(x[:0]).shape[0] == 0
    with pytest.raises(ValueError, match="image sides must be at least 2"):
        model.translate(pictures(1, 1))


def test_without_an_adversary_there_is_no_critic(tmp_path):
    both = paired(pictures(), pictures(seed=1))
    model = Pix2Pix(filters=4, adversary="none").fit(both, steps=3)
    assert set(model.history_[-1]) >= {"l1"}
    assert not {"critic", "adversary"} & set(model.history_[-1])
    assert set(model.count_parameters()) == {"to_b"}
    model.save(tmp_path / "model")
    again = Pix2Pix.load(tmp_path / "model").translate(pictures(2))
    assert torch.equal(again, model.translate(pictures(2)))
    with pytest.raises(ValueError, match=r"l1 must be above 0 with adversary 'none', got 0"):
        Pix2Pix(filters=4, adversary="none", l1=0.0).fit(both, steps=1)
