"""A first map, in five lines
==========================

A square is carried onto points in several groups. Every point gets its own cell of the square, and
all cells have the same area. Where neighbouring cells belong to points of different groups, the map
tears.
"""

from pathlib import Path

import aeot
from aeot.plotting import singular as plots

OUT = Path("out")
OUT.mkdir(exist_ok=True)

# %%
sites = aeot.data.toy("ring", 300).values
solution = aeot.solve_semidiscrete(aeot.UniformBox(dim=2), sites)
brenier = solution.map()
singular = aeot.find_singularities(brenier)
new = brenier.sample(2000, singular=singular, method="linear", generator=aeot.generator(1))

# %%
# How well the cells hold their masses, and how many groups are left when the map is cut.
print(solution.message)
print(f"{singular.n_components} groups")
path = OUT / "00_first_map.png"
plots.modes(singular, codes=new, path=path)
print(path)
