"""An argument that there is not: one TypeError that names it, what came, and what was meant."""

import inspect
import re

import numpy as np
import pytest
import torch

import aeot

SITES = np.random.default_rng(0).normal(size=(8, 2))
BOX = aeot.UniformBox(dim=2)
MAP = aeot.BrenierMap(BOX, SITES, np.zeros(8))
CUT = aeot.find_singularities(MAP)


def public():
    for name in aeot.__all__:
        value = getattr(aeot, name)
        if callable(value) and not (isinstance(value, type) and issubclass(value, Exception)):
            yield name, value


def takes_anything(function):
    kinds = {p.kind for p in inspect.signature(function).parameters.values()}
    return inspect.Parameter.VAR_KEYWORD in kinds


@pytest.mark.parametrize(("name", "value"), list(public()), ids=[name for name, _ in public()])
def test_every_public_name_refuses_an_argument_that_it_does_not_have(name, value):
    # One of these is asked for every block, the other takes no argument at all.
    if takes_anything(value) or name in ("generator", "alone"):
        pytest.skip("hands on what it is given")
    with pytest.raises(TypeError) as caught:
        value(zzz_unknown=3)
    told = str(caught.value)
    assert told.startswith(f"{name} takes no argument 'zzz_unknown', got 3; it takes "), told
    assert "\n" not in told


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: aeot.solve_semidiscrete(BOX, SITES, tolerance=0.1), "'tolerance', got 0.1"),
        (lambda: aeot.solve_semidiscrete(BOX, SITES, max_sample=10), "did you mean 'max_samples'?"),
        (lambda: aeot.AEOT(latent_dims=3), "did you mean 'latent_dim'?"),
        (lambda: aeot.WGANGP(learning_rates=3), "WGANGP takes no argument 'learning_rates', got 3"),
        (lambda: aeot.Autoencoder(3), "takes its arguments by name, got 3; write latent_dim=3"),
        (lambda: MAP.draw(3, seeds=3), "BrenierMap.draw takes no argument 'seeds', got 3"),
        (lambda: aeot.VAE().fit(SITES, step=3), "did you mean 'steps'?"),
        (lambda: aeot.UniformBox(dims=3), "UniformBox takes no argument 'dims', got 3; did you"),
        (lambda: aeot.AEOT.load("x", devices="cpu"), "takes no argument 'devices', got 'cpu'"),
        (lambda: aeot.tensors(SITES, label=[1]), "did you mean 'labels'?"),
    ],
)
def test_what_was_meant_is_asked_for(call, words):
    with pytest.raises(TypeError) as caught:
        call()
    assert words in str(caught.value)


class Named(aeot.GAN):
    """A class of a caller's own."""


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (
            lambda: aeot.VAE().fit(SITES, 3),
            "VAE.fit takes no such argument without a name, got 3; w",
        ),
        (lambda: Named().fit(SITES, step=3), "Named.fit takes no argument 'step', got 3; did you"),
        (lambda: aeot.FlowMatching().fit(SITES, couplings=3), "mean 'coupling'?"),
        (lambda: aeot.ConditionalWGANGP().fit(SITES, condition=3), "mean 'conditions'?"),
        (
            lambda: aeot.ConditionalWGANGP().fit(SITES, stepz=3),
            "ConditionalWGANGP.fit takes no arg",
        ),
        (
            lambda: aeot.UniformBox(3),
            "UniformBox takes no such argument without a name, got 3; writ",
        ),
        (lambda: MAP.draw(3, CUT), "BrenierMap.draw takes no such argument without a name, got"),
        (lambda: MAP.potential(SITES, 3), "got 3; it takes points"),
        (lambda: aeot.find_singularities(MAP, None, 50, 0, 1.0), "got 1.0; write its name: level="),
        (lambda: aeot.tensors(SITES, None, ["a"]), "write its name: classes=, value_range=, name="),
    ],
)
def test_a_call_is_told_by_the_name_that_was_called(call, words):
    with pytest.raises(TypeError) as caught:
        call()
    assert words in str(caught.value)
    assert "\n" not in str(caught.value)


def test_signatures_are_those_of_the_arguments():
    assert "latent_dim" in inspect.signature(aeot.AEOT).parameters
    assert "tol" in inspect.signature(aeot.solve_semidiscrete).parameters
    copied = aeot.AEOT(**aeot.AEOT(latent_dim=7).arguments())
    assert copied.latent_dim == 7


@pytest.mark.parametrize(
    ("call", "way_out"),
    [
        (lambda: aeot.solve_semidiscrete(BOX, SITES, tol=True), "got True; write a number"),
        (lambda: aeot.solve_semidiscrete(BOX, SITES, tol=None), "leave it out for the default"),
        (lambda: aeot.solve_semidiscrete(BOX, SITES, tol="0.1"), "write 0.1 without quotes"),
        (lambda: aeot.solve_semidiscrete(BOX, SITES, seed=None), "leave it out for the default"),
        (lambda: aeot.solve_semidiscrete(BOX, SITES, seed=-1), "any number from 0 on"),
        (lambda: aeot.solve_semidiscrete(BOX, SITES, memory="1GB"), "write 1000000000, a number"),
        (lambda: aeot.solve_semidiscrete(BOX, SITES, memory="1 GiB"), "write 1073741824, a"),
        (lambda: aeot.solve_semidiscrete(BOX, SITES, threads=2.0), "got 2.0; write 2"),
        (lambda: aeot.solve_semidiscrete(BOX, SITES, threads=2.5), "got 2.5; round it"),
        (lambda: aeot.solve_semidiscrete(BOX, SITES, threads="2"), "write 2 without quotes"),
        (lambda: aeot.solve_semidiscrete(BOX, SITES, progress=0), "write False"),
        (lambda: aeot.VAE(latent_dim="many").fit(SITES), "got 'many'; write a number"),
        (lambda: aeot.VAE(seed=None).fit(SITES), "leave it out for the default"),
        (lambda: aeot.AEOT(conditional="yes").fit(SITES), "one of them without quotes"),
    ],
)
def test_what_is_no_number_has_a_way_out(call, way_out):
    with pytest.raises(ValueError, match=re.escape(way_out)) as caught:
        call()
    assert "\n" not in str(caught.value)


def test_settings_of_torch_still_hold_inside():
    with torch.autocast("cpu", torch.bfloat16):
        assert MAP.potential(torch.rand(3, 2)).dtype != torch.bfloat16
