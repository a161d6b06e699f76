"""WGAN, WGAN-GP and its conditional form, each rule against numbers worked out by hand."""

import copy
import dataclasses

import pytest
import torch
from scipy.stats import wasserstein_distance

from aeot import GAN, WGAN, WGANGP, ConditionalWGANGP
from aeot._rng import generator
from aeot.data import dataset, tensors, toy
from aeot.gan import losses

SMALL = {"latent_dim": 2, "hidden": 8, "batch_size": 10}


def started(model, data):
    """Fit no step, but leave the data as they are in the middle of training."""
    model.fit(data, steps=0)
    model._data = data
    return model


def test_every_500th_round_is_long(monkeypatch):
    steps = []

    def critic_step(self, real, rows, stream):
        steps.append(len(rows))
        return {}

    monkeypatch.setattr(WGAN, "_critic_step", critic_step)
    monkeypatch.setattr(WGAN, "_generator_step", lambda self, rows, stream: {"generator_loss": 0.0})
    WGAN(**SMALL, critic_steps=3, warm_up_steps=7).fit(toy("ring", 100), steps=502)
    # Rounds 0 to 24 and 500 are long, as in the authors' code.
    assert len(steps) == 25 * 7 + 475 * 3 + 7 + 3


def lengths(where):
    """Of the points penalised between rows at (2, 0) and fakes at (0.5, 0): slopes of |x|^2 / 2."""
    share = torch.rand((10, 1), generator=generator(0, "x"))[:, 0]
    return {"real": torch.full((10,), 2.0), "fake": torch.full((10,), 0.5)}.get(
        where, 0.5 + 1.5 * share
    )


@pytest.mark.parametrize("where", ["mixed", "real", "fake"])
@pytest.mark.parametrize("one_sided", [False, True])
@pytest.mark.parametrize("grouped", [False, True])
def test_penalty_is_taken_where_and_how_it_is_asked_for(where, one_sided, grouped):
    options = {"where": where, "one_sided": one_sided, "grouped": grouped}
    labels = torch.tensor([0] * 8 + [1] * 2)
    model = started(WGANGP(**SMALL, penalty=3.0, **options), tensors(torch.zeros(10, 2), labels))
    model.critic_ = lambda x: x.square().sum(1) / 2
    real, fake = torch.tensor([[2.0, 0.0]]).repeat(10, 1), torch.tensor([[0.5, 0.0]]).repeat(10, 1)
    penalty, facts = model._penalty(real, fake, torch.arange(10), generator(0, "x"))
    excess = lengths(where) - 1
    squares = (excess.clamp(min=0) if one_sided else excess) ** 2
    wanted = (squares[:8].mean() + squares[8:].mean()) / 2 if grouped else squares.mean()
    assert penalty.item() == pytest.approx(3 * wanted.item(), abs=1e-5)
    assert facts["gradient_norm"] == pytest.approx(lengths(where).mean().item(), rel=1e-5)
    assert ("gradient_norm_1" in facts) == grouped


@pytest.mark.parametrize("model", [GAN(**SMALL), WGANGP(**SMALL), ConditionalWGANGP(**SMALL)])
def test_spectral_normalisation_holds_every_layer_at_one(model):
    data = toy("ring", 100)
    norms = {}
    for spectral in (False, True):
        fitted = dataclasses.replace(model, spectral=spectral).fit(data, steps=3)
        layers = [m for m in fitted.critic_.modules() if isinstance(m, torch.nn.Linear)]
        norms[spectral] = [torch.linalg.matrix_norm(m.weight.detach(), 2).item() for m in layers]
    # A few power iterations leave the largest singular value a little above one.
    assert norms[True] == pytest.approx([1.0] * len(norms[True]), rel=0.05)
    assert max(abs(n - 1) for n in norms[False]) > 0.3


def test_spectral_normalisation_reaches_convolutions():
    images = torch.zeros(10, 1, 8, 8)
    model = WGANGP(latent_dim=2, batch_size=5, spectral=True).fit(images, steps=0)
    weight = model.critic_.trunk[0].weight.detach().flatten(1)
    assert torch.linalg.matrix_norm(weight, 2).item() == pytest.approx(1, rel=0.05)


def test_an_image_critic_steps_like_one_of_plain_adam():
    # Fused Adam reads a gradient in the order of memory. That of a convolution under a penalty may
    # lie there transposed, and would then move the wrong weights.
    data = tensors(torch.rand(12, 1, 8, 8, generator=generator(0, "images")) * 2 - 1)
    model = started(WGANGP(latent_dim=4, batch_size=6, learning_rate=1e-3), data)
    critic, rows, stream = copy.deepcopy(model.critic_), torch.arange(6), generator(0, "x")
    with torch.no_grad():
        fake = model._generate(6, stream)
    points = losses.interpolate(data[:6], fake, generator=stream)
    penalty, _ = losses.gradient_penalty(critic, points)
    (critic(fake).mean() - critic(data[:6]).mean() + penalty).backward()
    torch.optim.Adam(critic.parameters(), lr=1e-3, betas=(0.5, 0.9)).step()
    model._critic_step(data[:6], rows, generator(0, "x"))
    for mine, theirs in zip(model.critic_.parameters(), critic.parameters(), strict=True):
        # The first step is the sign of the slope: where that is rounding noise, it may differ.
        assert float(((mine - theirs).abs() > 1e-4).float().mean()) < 0.01


def test_segments_join_a_row_and_a_sample_of_the_same_label():
    # Rows and samples of label k both lie at place k: segments of one label are points.
    places = torch.randn(8, 2, generator=generator(0, "places"))
    labels = torch.arange(10) % 8
    model = started(ConditionalWGANGP(**SMALL), tensors(places[labels], labels=labels))
    model.generator_ = torch.nn.Linear(10, 2, bias=False)  # the noise is before the label's code
    with torch.no_grad():
        model.generator_.weight[:, 2:] = places.T
    model._latent = lambda n, stream: torch.zeros(n, 2)
    seen = []
    penalty_at = model._penalty_at
    model._penalty_at = lambda points, *rest: seen.append(points) or penalty_at(points, *rest)
    rows = torch.randperm(10, generator=generator(0, "rows"))
    model._critic_step(model._data[rows], rows, generator(0, "x"))
    torch.testing.assert_close(seen[0], places[labels[rows]])


@pytest.mark.parametrize("weight", [0.0, 2.0])
def test_penalty_in_the_label_is_its_mean_squared_slope(weight):
    # f(x, y) = <w, x> + <v, y> + <x, A y>: slope w + A y in the sample, v + A' x in the label.
    stream = generator(0, "critic")
    w, v, a = (torch.randn(*s, generator=stream) for s in ((2,), (3,), (2, 3)))
    labels = torch.tensor([0] * 6 + [1] * 2 + [2] * 2)
    data = tensors(torch.randn(10, 2, generator=stream), labels=labels)
    model = started(ConditionalWGANGP(**SMALL, penalty=5.0, condition_penalty=weight), data)
    model.critic_ = lambda x, y: x @ w + y @ v + (x @ a * y).sum(1)
    rows, fake = torch.arange(10), torch.randn(10, 2, generator=stream)
    beside = model._beside(rows)
    penalty, facts = model._penalty(data[:], fake, rows, generator(0, "x"), *beside)
    share = torch.rand((10, 1), generator=generator(0, "x"))
    points = fake + share * (data[:] - fake)
    inside = 5 * ((w + a.T).norm(dim=1) - 1).square().mean()  # every label counts alike
    across = (v + points @ a).square().sum(1)
    assert penalty.item() == pytest.approx((inside + weight * across.mean()).item(), rel=1e-4)
    assert ("condition_gradient_norm" in facts) == (weight > 0)
    if weight:
        wanted = across.sqrt().mean().item()
        assert facts["condition_gradient_norm"] == pytest.approx(wanted, rel=1e-4)


def test_penalty_in_the_label_flattens_the_critic_over_labels():
    data = toy("ring", 500)
    settings = {"latent_dim": 2, "hidden": 16, "batch_size": 50, "learning_rate": 1e-2}
    last = {}
    for weight in (1e-9, 10.0):
        model = ConditionalWGANGP(**settings, condition_penalty=weight).fit(data, steps=20)
        last[weight] = model.history_[-1]["condition_gradient_norm"]
    assert last[10.0] < 0.5 * last[1e-9]


@pytest.mark.slow
def test_saturated_generator_hardly_moves_to_the_lines_where_wgan_gp_travels():
    # Parallel lines, ten units away from where generators start. With fifty critic steps a round
    # the discriminator is near its best: the minimax loss is flat, the critic's slope is not.
    lines = toy("lines", 4000)
    data = tensors(lines.values + torch.tensor([10.0, 0.0]), labels=lines.labels)
    same = {"latent_dim": 2, "hidden": 32, "learning_rate": 1e-3, "betas": (0.5, 0.999)}
    same |= {"prior": "normal", "architecture": "mlp", "critic_steps": 50}
    left = {}
    for model in (GAN(**same, loss="minimax"), WGANGP(**same)):
        far = [
            wasserstein_distance(model.fit(data, steps=s).sample(1000)[:, 0], data.values[:, 0])
            for s in (0, 40)
        ]
        left[type(model)] = far[1] / far[0]
    assert left[GAN] > 0.75
    assert left[WGANGP] < 0.5


def line_of_conditions(n=64, seed=0):
    c = torch.rand(n, 1, generator=generator(seed, "c"))
    return torch.cat([c, 2 * c], 1), c


def test_conditions_are_seen_beside_their_own_rows():
    x, c = line_of_conditions()
    seen = []

    class Watched(ConditionalWGANGP):
        def _score(self, points, *beside):
            seen.append((points.detach().clone(), beside[0].detach().clone()))
            return super()._score(points, *beside)

    Watched(**SMALL).fit(tensors(x), conditions=c, steps=2)
    real = [(p, b) for p, b in seen if bool((p[:, 1] == 2 * p[:, 0]).all())]
    assert len(real) >= 2  # batches of data
    for points, beside in real:
        torch.testing.assert_close(points[:, :1], beside)


def test_the_penalty_of_a_critic_that_grows_with_its_condition():
    """Of s_y <w, x> it is the mean of weight (|s_y| |w| - 1)^2, conditions held fixed."""
    x, c = line_of_conditions(10)
    w = torch.tensor([0.6, 0.8])
    model = ConditionalWGANGP(**SMALL, penalty=3.0)
    model.critic_ = lambda x, c: (1 + c[:, 0]) * (x @ w)
    model._given = c
    penalty, _ = model._penalty(x, x + 1, torch.arange(10), generator(0, "x"), c)
    assert penalty.item() == pytest.approx(3 * float(c.square().mean()), rel=1e-5)


def test_between_two_trained_conditions_samples_interpolate():
    """Data lie at (cos a, sin a) for eight angles; between them samples are near the circle."""
    angles = torch.arange(8) * (2 * torch.pi / 8)
    c = torch.stack([angles.cos(), angles.sin()], 1).repeat(64, 1)
    noise = 0.05 * torch.randn(len(c), 2, generator=generator(0, "x"))
    model = ConditionalWGANGP(
        latent_dim=2, hidden=32, penalty=0.1, learning_rate=5e-3, batch_size=64, critic_steps=2
    )
    model.fit(tensors(c + noise), conditions=c, steps=100)
    between = angles + torch.pi / 8
    asked = torch.stack([between.cos(), between.sin()], 1).repeat(50, 1)
    off = (model.sample(400, conditions=asked) - asked).norm(dim=1).mean()
    chance = (model.sample(400) - asked).norm(dim=1).mean()  # drawn conditions
    assert float(off) < 0.5 < float(chance)


def test_images_are_conditions_once_they_are_flat():
    """Pictures of two halves, each of one brightness; a sample is to be these two numbers."""
    g = generator(0, "halves")
    bright = 2 * torch.rand(512, 2, generator=g) - 1
    pictures = bright.repeat_interleave(2, 1)[:, None, :].expand(-1, 4, -1).flatten(1)  # 4 x 4
    data = bright + 0.05 * torch.randn(bright.shape, generator=g)
    model = ConditionalWGANGP(
        latent_dim=2, hidden=32, penalty=0.1, learning_rate=5e-3, batch_size=64, critic_steps=2
    )
    model.fit(tensors(data), conditions=pictures, steps=100)
    off = (model.sample(512, conditions=pictures) - bright).norm(dim=1).mean()
    chance = (model.sample(512) - bright).norm(dim=1).mean()
    assert float(off) < 0.5 * float(chance)


def test_an_embedding_of_images_says_what_is_drawn():
    """Of noughts and ones: judged by the nearest of other images, which knows no embedding."""
    digits = dataset("digits", size=8)
    digits = digits.subset((digits.labels < 2).nonzero()[:, 0])
    train, test = digits.subset(range(200)), digits.subset(range(200, 280))
    x, other = train[:].flatten(1), test[:].flatten(1)
    # Two numbers: along the difference of the classes' means, and the first one across it.
    means = torch.stack([x[train.labels == k].mean(0) for k in (0, 1)])
    axes = torch.stack([means[1] - means[0], torch.linalg.svd(x - x.mean(0))[2][1]], 1)
    codes = (x - x.mean(0)) @ axes
    model = ConditionalWGANGP(
        latent_dim=4, hidden=64, batch_size=64, penalty=1.0, critic_steps=2, learning_rate=2e-3
    )
    model.fit(tensors(x), conditions=codes / codes.std(0), steps=150)
    asked = (other - x.mean(0)) @ axes / codes.std(0)
    made = model.sample(len(other), conditions=asked)
    called = train.labels[torch.cdist(made, x).argmin(1)]
    assert float((called == test.labels).double().mean()) > 0.9  # 0.5 if conditions were ignored


def test_a_model_of_conditions_is_stored_and_draws_from_them(tmp_path):
    x, c = line_of_conditions()
    model = ConditionalWGANGP(**SMALL).fit(tensors(x), conditions=c, steps=2)
    model.save(tmp_path / "m")
    loaded = ConditionalWGANGP.load(tmp_path / "m")
    torch.testing.assert_close(loaded.sample(5, seed=3), model.sample(5, seed=3))
    one = model.sample(5, conditions=c[0])
    torch.testing.assert_close(one, model.sample(5, conditions=c[:1].repeat(5, 1)))
    for options, told in [
        ({"labels": [0] * 5}, "labels must be left out"),
        ({"conditions": c[:4]}, "conditions must have shape"),
    ]:
        with pytest.raises(ValueError, match=told):
            model.sample(5, **options)


def test_conditions_that_do_not_fit_are_refused():
    x, c = line_of_conditions()
    with pytest.raises(ValueError, match="conditions must have 64 rows like data, got 63"):
        ConditionalWGANGP(**SMALL).fit(tensors(x), conditions=c[1:], steps=1)
    with pytest.raises(ValueError, match="conditions"):
        ConditionalWGANGP(**SMALL).fit(tensors(x), conditions=c / 0, steps=1)
    labelled = ConditionalWGANGP(**SMALL).fit(toy("ring", 64), steps=1)
    with pytest.raises(ValueError, match="conditions must be left out of a model of labels"):
        labelled.sample(2, conditions=[[0.0], [0.0]])
