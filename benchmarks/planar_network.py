"""A small network, forward and backward by hand.

`bench_table2.py` trains some 10^7 updates of such networks, a hundred rows at a time. The
library's own classes do that correctly but spend more than half of it in autograd's bookkeeping.
Here the same arithmetic is written out: one matrix product per layer and direction, one compiled
pass for everything between two products, one flat array for all parameters of a network. The
tests train both side by side and ask for the same weights.
"""

import math

import numba
import numpy as np

PIECES = 5
BN_EPS, BN_DECAY = 1e-4, 0.05
# Sums may be reordered; NaN and infinity keep their meaning.
_ZERO = np.float32(0)  # a plain 0.0 would carry whole loops into float64
_compiled = numba.njit(cache=True, fastmath={"contract", "reassoc", "arcp", "nsz"})


# Everything between two matrix products, in one pass each. Rows r, units j.
@_compiled
def _maxout(pre, out, winner):
    rows, units = out.shape
    for r in range(rows):
        for j in range(units):
            out[r, j] = pre[r, j]
            winner[r, j] = 0
        for piece in range(1, PIECES):
            for j in range(units):
                value = pre[r, piece * units + j]
                if value > out[r, j]:
                    out[r, j] = value
                    winner[r, j] = piece


@_compiled
def _maxout_back(slope, winner, pre):
    """Put each unit's slope where its winning piece was."""
    rows, units = slope.shape
    for r in range(rows):
        for piece in range(PIECES):
            for j in range(units):
                pre[r, piece * units + j] = slope[r, j] if winner[r, j] == piece else _ZERO


@_compiled
def _maxout_along(pre, winner, out):
    """Pick the winning piece: the derivative of `_maxout` along a direction."""
    rows, units = out.shape
    for r in range(rows):
        for piece in range(PIECES):
            for j in range(units):
                if winner[r, j] == piece:
                    out[r, j] = pre[r, piece * units + j]


@_compiled
def _norm_relu(x, gamma, beta, mean, scale, out):
    """Batch-normalise, shift, rectify; leaves the normalised rows in `x`."""
    rows, units = x.shape
    mean[:] = 0.0
    scale[:] = 0.0
    for r in range(rows):
        for j in range(units):
            mean[j] += x[r, j]
    for j in range(units):
        mean[j] /= rows
    for r in range(rows):
        for j in range(units):
            d = x[r, j] - mean[j]
            scale[j] += d * d
    for j in range(units):
        scale[j] = 1.0 / math.sqrt(scale[j] / rows + BN_EPS)
    for r in range(rows):
        for j in range(units):
            x[r, j] = (x[r, j] - mean[j]) * scale[j]
            out[r, j] = max(x[r, j] * gamma[j] + beta[j], _ZERO)


@_compiled
def _norm_relu_back(slope, normed, out, gamma, scale, d_gamma, d_beta):
    """Turn slopes in the output into slopes in the input, in place."""
    rows, units = slope.shape
    d_gamma[:] = 0.0
    d_beta[:] = 0.0
    for r in range(rows):
        for j in range(units):
            if out[r, j] <= _ZERO:
                slope[r, j] = _ZERO
            d_beta[j] += slope[r, j]
            d_gamma[j] += slope[r, j] * normed[r, j]
    share = np.float32(1.0 / rows)
    for r in range(rows):
        for j in range(units):
            centred = slope[r, j] - (d_beta[j] + normed[r, j] * d_gamma[j]) * share
            slope[r, j] = centred * gamma[j] * scale[j]


@_compiled
def _relu_gate(values, out):
    rows, units = values.shape
    for r in range(rows):
        for j in range(units):
            if out[r, j] <= _ZERO:
                values[r, j] = _ZERO


@_compiled
def _adam(theta, grad, first, second, forget1, forget2, rate, inverse2):
    for i in range(theta.size):
        first[i] += forget1 * (grad[i] - first[i])
        second[i] += forget2 * (grad[i] * grad[i] - second[i])
        theta[i] -= rate * first[i] / (math.sqrt(second[i] * inverse2) + np.float32(1e-8))


@_compiled
def _rmsprop(theta, grad, second, rate):
    for i in range(theta.size):
        second[i] += np.float32(0.01) * (grad[i] * grad[i] - second[i])
        theta[i] -= rate * grad[i] / (math.sqrt(second[i]) + np.float32(1e-8))


@_compiled
def _closeness(rows, kernels, size, out):
    n = rows.shape[0]
    out[:] = 0.0
    for i in range(n):
        for j in range(i):
            for b in range(kernels):
                total = _ZERO
                for c in range(size):
                    total += abs(rows[i, b * size + c] - rows[j, b * size + c])
                near = math.exp(-total)
                out[i, b] += near
                out[j, b] += near


@_compiled
def _closeness_back(slope, rows, kernels, size, d_rows):
    n = rows.shape[0]
    d_rows[:] = 0.0
    for i in range(n):
        for j in range(i):
            for b in range(kernels):
                total = _ZERO
                for c in range(size):
                    total += abs(rows[i, b * size + c] - rows[j, b * size + c])
                pull = (slope[i, b] + slope[j, b]) * math.exp(-total)
                for c in range(size):
                    gap = rows[i, b * size + c] - rows[j, b * size + c]
                    push = pull if gap > 0 else -pull if gap < 0 else _ZERO
                    d_rows[i, b * size + c] -= push
                    d_rows[j, b * size + c] += push


class Network:
    """Linear layers with a kind of unit behind each: "maxout", "norm", "relu" or "none".

    Parameters, gradients and the optimiser's moments are one flat float32 array each; layers
    look into them. Weights are (inputs, outputs), the transpose of torch's.
    """

    def __init__(self, widths, kinds, *, kernels=0, kernel_size=5):
        self.kinds, self.kernels, self.kernel_size = kinds, kernels, kernel_size
        shapes = []
        for before, after, kind in zip(widths, widths[1:], kinds, strict=False):
            wide = after * PIECES if kind == "maxout" else after
            if kernels and before == widths[-2] and kind == "none":
                shapes.append((before, kernels * kernel_size))  # minibatch discrimination's T
                before += kernels
            shapes.append((before, wide))
            # batch normalisation has a scale and a shift where other layers have a bias
            shapes += [(wide,), (wide,)] if kind == "norm" else [(wide,)]
        sizes = [math.prod(shape) for shape in shapes]
        self.size = sum(sizes)
        self.theta, self.grad, self.first, self.second = np.zeros((4, self.size), np.float32)
        self.steps = 0
        self._shapes, self._cuts = shapes, np.cumsum([0, *sizes])
        self.values, self.slopes = self.split(self.theta), self.split(self.grad)
        units = [w for w, kind in zip(widths[1:], kinds, strict=True) if kind == "norm"]
        self.population = [np.zeros((2, w), np.float32) for w in units]
        for statistics in self.population:
            statistics[1] = 1
        self._scratch = {}

    def _buffer(self, name, *shape, dtype=np.float32):
        key = (name, *shape)
        if key not in self._scratch:
            self._scratch[key] = np.empty(shape, dtype)
        return self._scratch[key]

    def forward(self, x, call=0):
        """Map rows (r, inputs) to (r, outputs), and return what `backward` needs.

        `call` tells apart passes whose memories are needed at the same time.
        """
        memory, at, layer_norm = [], 0, 0
        for layer, kind in enumerate(self.kinds):
            rows, key = len(x), (call, layer)
            if self.kernels and layer == len(self.kinds) - 1:
                compared = np.matmul(x, self.values[at])
                near = self._buffer((*key, "near"), rows, self.kernels)
                _closeness(compared, self.kernels, self.kernel_size, near)
                memory.append((at, x, None, compared))
                x, at = np.concatenate([x, near], axis=1), at + 1
            weight = self.values[at]
            pre = self._buffer((*key, "pre"), rows, weight.shape[1])
            np.matmul(x, weight, out=pre)
            if kind == "norm":
                gamma, beta = self.values[at + 1 : at + 3]
                mean, scale = self._buffer((*key, "stat"), 2, len(gamma))
                out = self._buffer((*key, "out"), *pre.shape)
                _norm_relu(pre, gamma, beta, mean, scale, out)
                unbiased = (1 / scale**2 - BN_EPS) * (rows / (rows - 1))
                statistics = self.population[layer_norm]
                statistics += BN_DECAY * (np.stack([mean, unbiased]) - statistics)
                layer_norm += 1
                memory.append((at, x, out, (pre, scale)))
                x, at = out, at + 3
                continue
            pre += self.values[at + 1]
            if kind == "maxout":
                units = pre.shape[1] // PIECES
                out = self._buffer((*key, "out"), rows, units)
                winner = self._buffer((*key, "win"), rows, units, dtype=np.int32)
                _maxout(pre, out, winner)
                memory.append((at, x, out, winner))
                x = out
            else:
                if kind == "relu":
                    np.maximum(pre, 0, out=pre)
                memory.append((at, x, pre, None))
                x = pre
            at += 2
        return x, memory

    def evaluate(self, x):
        """Map rows with population statistics in batch normalisation."""
        at = layer_norm = 0
        for kind in self.kinds:
            x = x @ self.values[at]
            if kind == "norm":
                gamma, beta = self.values[at + 1 : at + 3]
                mean, variance = self.population[layer_norm]
                x = np.maximum((x - mean) / np.sqrt(variance + BN_EPS) * gamma + beta, 0)
                at, layer_norm = at + 3, layer_norm + 1
                continue
            x = x + self.values[at + 1]
            if kind == "relu":
                x = np.maximum(x, 0)
            at += 2
        return x

    def backward(
        self, memory, slope, weight=None, *, accumulate=False, inputs=True, parameters=True
    ):
        """Go back from slopes in the output to slopes in parameters and input.

        Rows of a network without batch statistics do not mix, so that one pass with slope 1 serves
        two losses: parameter slopes are summed with a `weight` per row, those in the input are
        returned unweighted, for the caller to weight in his own way.

        Returns:
            Slopes in the input (or None), and those before each layer's bias.
        """
        before = []
        for layer in range(len(memory) - 1, -1, -1):
            at, x, out, extra = memory[layer]
            if out is None:  # minibatch discrimination
                near, slope = slope[:, x.shape[1] :], slope[:, : x.shape[1]]
                pre = np.empty_like(extra)
                near = np.ascontiguousarray(near)
                _closeness_back(near, extra, self.kernels, self.kernel_size, pre)
                if parameters:
                    self._add(at, x, pre, weight, accumulate)
                slope = slope + pre @ self.values[at].T
                continue
            norm = isinstance(extra, tuple)
            if norm:
                assert weight is None  # its rows mix
                gamma = self.values[at + 1]
                d_gamma, d_beta = np.empty((2, len(gamma)), np.float32)
                _norm_relu_back(slope, extra[0], out, gamma, extra[1], d_gamma, d_beta)
                for mine, new in zip(self.slopes[at + 1 : at + 3], (d_gamma, d_beta), strict=True):
                    mine[:] = mine + new if accumulate else new
                pre = slope
            elif extra is not None:
                pre = self._buffer(("back", layer), len(x), out.shape[1] * PIECES)
                _maxout_back(slope, extra, pre)
            else:
                pre = slope
                if layer < len(memory) - 1:
                    _relu_gate(pre, out)
            before.append((at, pre))
            if parameters:
                self._add(at, x, pre, weight, accumulate)
            if parameters and not norm:
                bias = pre.sum(0) if weight is None else weight @ pre
                self.slopes[at + 1][:] = self.slopes[at + 1] + bias if accumulate else bias
            if layer or inputs:
                weights = self.values[at]
                slope = self._buffer(("slope", layer), len(pre), len(weights))
                np.matmul(pre, weights.T, out=slope)
        return (slope if inputs else None), before

    def _add(self, at, x, pre, weight, accumulate):
        x = x if weight is None else x * weight[:, None]
        if accumulate:
            self.slopes[at] += x.T @ pre
        else:
            np.matmul(x.T, pre, out=self.slopes[at])

    def slope_penalty(self, x, weight):
        """Add the slopes of ``weight * mean (|d out / d x| - 1)^2``; return the norms (r,).

        The gradient in x is linear in each layer's weights while the units keep their pieces: its
        derivative is one more pass forward, along the slopes wanted, through the same pieces.
        """
        norms, slope, memory, before = self._slopes(x)
        along = slope * (2 * weight / len(x) * (norms - 1) / norms)[:, None]
        for (at, _, out, extra), (_, pre) in zip(memory, before[::-1], strict=True):
            self.slopes[at] += along.T @ pre
            raw = along @ self.values[at]
            if extra is not None:
                along = np.empty_like(out)
                _maxout_along(raw, extra, along)
            else:
                _relu_gate(raw, out)
                along = raw
        return norms

    def slopes_at(self, x):
        """Norms (r,) of the slope in the input at rows x."""
        return self._slopes(x)[0]

    def _slopes(self, x):
        _, memory = self.forward(x, call="penalty")
        ones = np.ones((len(x), 1), np.float32)
        slope, before = self.backward(memory, ones, parameters=False)
        return np.sqrt((slope**2).sum(1) + 1e-12), slope, memory, before

    def adam(self, rate, beta1, beta2):
        self.steps += 1
        # Both bias corrections are worked into the rate and the root.
        rate = rate / (1 - beta1**self.steps)
        numbers = np.array([1 - beta1, 1 - beta2, rate, 1 / (1 - beta2**self.steps)], np.float32)
        _adam(self.theta, self.grad, self.first, self.second, *numbers)

    def rmsprop(self, rate):
        _rmsprop(self.theta, self.grad, self.second, np.float32(rate))

    # Exchange with torch and files.
    def split(self, flat):
        """Views of a flat array, one for each parameter."""
        ends = zip(self._cuts, self._cuts[1:], self._shapes, strict=False)
        return [flat[a:b].reshape(shape) for a, b, shape in ends]

    def state(self):
        return {
            "theta": self.theta,
            "first": self.first,
            "second": self.second,
            "steps": np.array(self.steps),
            **{f"population{i}": p for i, p in enumerate(self.population)},
        }

    def load(self, state):
        for name in ("theta", "first", "second"):
            getattr(self, name)[:] = state[name]
        self.steps = int(state["steps"])
        for i, p in enumerate(self.population):
            p[:] = state[f"population{i}"]

    def take(self, module):
        """Copy the parameters of the library's network of the same shape."""
        for mine, theirs in zip(self.values, module.parameters(), strict=True):
            theirs = theirs.detach().numpy()
            mine[:] = theirs.T if theirs.ndim == 2 else theirs
        return self

    def flat(self, module):
        """The parameters of a library network in the order of `theta`."""
        parts = [p.detach().numpy() for p in module.parameters()]
        return np.concatenate([(p.T if p.ndim == 2 else p).ravel() for p in parts])
