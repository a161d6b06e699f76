"""Hidden messages
==================

A cycle can be closed by cheating: the translation carries its input in detail that nobody sees.
The instruments that find out are calibrated on two pairs with known answers, one that hides
everything below the lowest bit and one that hides nothing. Given a saved CycleGAN
(`--model out/40_translate/model`) they are turned on it.
"""

import argparse
from pathlib import Path

import torch

import aeot
from aeot.data import filters
from aeot.gan_diagnostics import steganography
from aeot.plotting import translation as pictures

OUT = Path("out")
OUT.mkdir(exist_ok=True)
parser = argparse.ArgumentParser()
parser.add_argument("--quick", action="store_true")
parser.add_argument("--model", type=Path, help="a saved CycleGAN of Fashion-MNIST trousers")
options = parser.parse_args()


# %%
torch.manual_seed(0)
data = aeot.dataset("digits", size=32)
x = filters.low_pass(data[:40].double(), 0.125) * 0.8
identity, noise = torch.eye(32 * 32).double(), torch.randn(32 * 32, 32 * 32).double()
reports = {
    "cheating pair": steganography.examine(*steganography.cheating_pair(), x),
    "linear pair": steganography.examine(
        *steganography.linear_pair(0.8 * identity + 0.003 * noise), x
    ),
}
if options.model is not None:
    trained = aeot.CycleGAN.load(options.model)
    test = aeot.dataset("fashion-mnist", split="test", size=trained.shape_[1])
    test = test[(test.labels == 1).nonzero()[:200, 0]]
    reports["trained CycleGAN"] = steganography.examine(trained.to_b_, trained.to_a_, test)
for name, report in reports.items():
    drops = {kind: round(error, 4) for kind, error in report["drops"].items()}
    print(f"{name}: cycle error {drops}, leak {report['swap']['leak']:.3f}")

to_b, to_a = steganography.cheating_pair()
seen = to_b(x[:10])
rows = {
    "input": x[:10].float(),
    "translation": seen.float(),
    "and back": to_a(seen).float(),
    "saved in 8 bits, and back": to_a(filters.quantise(seen)).float(),
}
pictures.image_rows(rows, title="a pair that cheats", path=OUT / "42_cheating.png")
pictures.hiding(reports, path=OUT / "42_hidden_messages.png")
print(OUT / "42_hidden_messages.png")
