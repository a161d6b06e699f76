"""A transport map on codes
===========================

This is the core of the package without any network: principal components take the place of the
autoencoder. The uniform measure on the unit cube is carried onto the codes of scikit-learn's
digits, the places where the map jumps are marked, and new codes are drawn from the extended map and
decoded.
"""

import sys
from pathlib import Path

import torch
from sklearn.decomposition import PCA

import aeot
from aeot.plotting import images as pictures
from aeot.search.nearest import nearest

OUT = Path("out")
OUT.mkdir(exist_ok=True)
quick = "--quick" in sys.argv  # fewer components, looser tolerance


# %%
data = aeot.dataset("digits")
pixels = data[:].flatten(1)
pca = PCA(8 if quick else 16, random_state=0).fit(pixels)
codes = torch.from_numpy(pca.transform(pixels)).float()

# The transport problem: how high must each code's plane be for its cell to hold 1/n?
source = aeot.UniformBox(dim=codes.shape[1])
solution = aeot.solve_semidiscrete(source, codes, tol=0.1 if quick else 0.05, seed=0)
print(f"mass error {solution.mass_error:.4f}, at most {solution.mass_error_upper:.4f}")
print(solution.message)

# The map jumps where two cells with distant codes meet; new codes never come from there.
brenier = solution.map()
singular = aeot.find_singularities(brenier, seed=0)
new = brenier.sample(100, singular=singular, generator=aeot.generator(1))
print(f"{len(singular.pairs)} singular facets")

# None of the new codes is one the map was built from.
apart, _ = nearest(new, codes)
print(f"nearest training code: {apart.min():.3f} to {apart.max():.3f} away")


def decode(z):
    restored = torch.from_numpy(pca.inverse_transform(z.double().numpy())).float()
    return restored.reshape(-1, *data.shape)


path = OUT / "01_transport_map.png"
shown = {
    "digits": data[:100],
    "their principal components": decode(codes[:100]),
    "new, from the transport map": decode(new),
}
pictures.side_by_side(shown, columns=10, path=path)
print(path)
