"""Four letters: what the tears are for
====================================

A rectangle is carried onto four letters. If the tears are left out, new points lie in the letters;
a continuous map through the same points has to draw bridges between them.
"""

import sys
from pathlib import Path

import aeot
from aeot.plotting import singular as plots

OUT = Path("out")
OUT.mkdir(exist_ok=True)
quick = "--quick" in sys.argv  # fewer points

# %%
letters = aeot.data.toy("letters", 1000 if quick else 4000).values
source = aeot.UniformBox(low=[0.0, 0.0], high=[5.3, 1.25])
brenier = aeot.solve_exact(source, letters, tol=1e-6).map()
singular = aeot.find_singularities(brenier)
print(f"{len(singular.pairs)} facets cut, {singular.n_components} pieces left")
path = OUT / "27_letters.png"
plots.tears(singular, path=path)

# %%
# How far the map jumps, across facets that are cut and others.
plots.jumps(singular, path=OUT / "27_jumps.png")
print(path)
