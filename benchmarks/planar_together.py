"""The games of `planar` for several seeds at once, on a GPU: a seed is a slice of every tensor.

A hundred rows do not fill a GPU, and a Python call costs more than the products it starts. So the
seeds of a row share each product, a turn (both gradients, the penalty, the optimiser) is traced
once and compiled, and turns are replayed as a CUDA graph. What a game is stays in `planar`: the
numbers drawn, the parameters and their order are the same, so that a state may go on on either
side, and the tests train both side by side.
"""

import contextlib
import threading

import numpy as np
import planar
import torch
from planar_network import BN_DECAY, BN_EPS, PIECES
from torch.fx.experimental.proxy_tensor import make_fx
from torch.nn.functional import relu, softplus
from torch.utils._pytree import tree_leaves

STATE = ("values", "first", "second")
_setup = threading.Lock()
_compiled = {}  # turns of games alike, by their shapes


def forward(network, values, x, groups=1, population=None):
    """Map rows (seeds, rows, inputs); `groups` of rows have batch statistics of their own.

    Returns:
        The output, and mean and unbiased variance (seeds, groups, units) of each normalisation.
    """
    found, at = [], 0
    for layer, kind in enumerate(network.kinds):
        if network.kernels and layer == len(network.kinds) - 1:
            rows = torch.bmm(x, values[at]).unflatten(-1, (network.kernels, network.kernel_size))
            apart = (rows.unsqueeze(1) - rows.unsqueeze(2)).abs().sum(-1)
            near = torch.exp(-apart).sum(2) - 1  # a row is not its own neighbour
            x, at = torch.cat([x, near], -1), at + 1
        x = torch.bmm(x, values[at])
        if kind == "norm":
            gamma, beta = (v[:, None, None] for v in values[at + 1 : at + 3])
            x = x.unflatten(1, (groups, -1))
            if population is None:
                mean = x.mean(2, keepdim=True)
                variance = (x - mean).square().mean(2, keepdim=True)
                unbiased = variance * (x.shape[2] / (x.shape[2] - 1))
                found.append((mean.squeeze(2), unbiased.squeeze(2)))
            else:
                mean, variance = (s[:, None, None] for s in population[len(found)].unbind(1))
                found.append(None)
            x = relu((x - mean) * torch.rsqrt(variance + BN_EPS) * gamma + beta).flatten(1, 2)
            at += 3
            continue
        x = x + values[at + 1][:, None]
        if kind == "maxout":
            x = x.unflatten(-1, (PIECES, -1)).amax(-2)
        elif kind == "relu":
            x = relu(x)
        at += 2
    return x, found


class Together:
    """Games of one kind, one for each seed, trained as one.

    Args:
        games: Of `planar`, alike but for their parameters; they are not changed before `store`.
        turns: Of an epoch; for WGAN and WGAN-GP a multiple of their critic steps.
        device: Where; on a CPU nothing is compiled.

    Raises:
        ValueError: If the last critic steps of an epoch would be followed by no generator step.
    """

    def __init__(self, games, turns, device="cuda"):
        self.games, self.game, self.device = games, games[0], torch.device(device)
        self.every = getattr(self.game, "critic_steps", 1)
        if turns % self.every:
            raise ValueError(f"turns must be a multiple of {self.every}, got {turns}")
        seeds, game = len(games), self.game
        cuda = self.device.type == "cuda"
        self.name = torch.cuda.get_device_name(self.device) if cuda else "CPU"
        make = {"device": self.device}
        self.state = {}
        for name in game.networks:
            networks = [g.networks[name] for g in games]
            parts = {"values": [n.values for n in networks]}
            parts |= {k: [n.split(getattr(n, k)) for n in networks] for k in ("first", "second")}
            parts["population"] = [n.population for n in networks]
            stacked = {
                key: [
                    torch.from_numpy(np.stack(same)).to(self.device)
                    for same in zip(*lists, strict=True)
                ]
                for key, lists in parts.items()
            }
            steps = torch.tensor(float(networks[0].steps), dtype=torch.float64, **make)
            self.state[name] = stacked | {"steps": steps}
        self.real = torch.zeros(turns, seeds, game.packing * game.batch, 2, **make)
        self.noise = torch.zeros(turns, seeds, game.noises * game.batch, 2, **make)
        self.share = torch.zeros(turns, seeds, game.batch, **make)
        self.now = torch.zeros(1, dtype=torch.int64, **make)
        self.alive = torch.ones(seeds, dtype=torch.bool, **make)
        self.fault = torch.zeros(seeds, dtype=torch.int64, **make)
        self.facts = {}
        self._replay, self._block = None, self.every
        self._beside = contextlib.nullcontext()
        if cuda:
            stream = torch.cuda.Stream(self.device)
            self._beside = torch.cuda.stream(stream)
            with _setup:
                self._capture(turns, stream)

    # One turn
    def _turns(self, state, real, noise, share, now, alive, fault):
        """Play `every` turns, changing the tensors given; return what the last says of itself."""
        self.state, self.alive, self.fault, self.now = state, alive, fault, now
        kind, facts = type(self.game), {}
        for turn in range(self.every):
            batch = [data.index_select(0, now)[0] for data in (real, noise, share)]
            if kind is planar.Wasserstein:
                facts = self._critic_turn(*batch)
                if turn + 1 == self.every:
                    self._generator_turn(batch[1])
            else:
                facts = self._game_turn(*batch)
            now += 1
        return facts

    def _leaves(self, name):
        return [v.detach().requires_grad_() for v in self.state[name]["values"]]

    def _game_turn(self, real, noise, share):
        game, n = self.game, self.game.batch
        ali = isinstance(game, planar.Inference)
        mine = self._leaves("critic")
        others = {name: self._leaves(name) for name in self.state if name != "critic"}
        latent = noise[:, :n] if ali else noise
        fake, found = forward(game.generator, others["generator"], latent, game.packing)
        statistics = {"generator": found}
        if ali:
            joined = torch.cat([real, noise[:, n:]], -1)
            code, statistics["encoder"] = forward(game.encoder, others["encoder"], joined)
            real, fake = torch.cat([real, code], -1), torch.cat([fake, latent], -1)
        packed = [
            rows.unflatten(1, (game.packing, n)).transpose(1, 2).flatten(2) for rows in (real, fake)
        ]
        if game.critic.kernels:  # rows of a batch are compared
            good, bad = (forward(game.critic, mine, rows)[0] for rows in packed)
        else:
            good, bad = forward(game.critic, mine, torch.cat(packed, 1))[0].split(n, 1)
        told = (softplus(-good) + softplus(bad)).mean((1, 2))
        fooled = (softplus(-bad) + (softplus(good) if ali else 0)).mean((1, 2))
        slopes = {"critic": torch.autograd.grad(told.sum(), mine, retain_graph=True)}
        flat = [v for values in others.values() for v in values]
        found = iter(torch.autograd.grad(fooled.sum(), flat))
        slopes |= {name: [next(found) for _ in values] for name, values in others.items()}
        self._check(told)
        for name, grads in slopes.items():
            self._adam(name, grads, game.rate, *game.beta)
            self._track(name, statistics.get(name, []))
        return {"critic_loss": told.detach()}

    def _critic_turn(self, real, noise, share):
        game = self.game
        if game.clip is not None:
            for v in self.state["critic"]["values"]:
                v.clamp_(-game.clip, game.clip)
        mine = self._leaves("critic")
        fake = forward(game.generator, self.state["generator"]["values"], noise[:, : game.batch])[0]
        scores = forward(game.critic, mine, torch.cat([real, fake], 1))[0]
        good, bad = scores.split(game.batch, 1)
        gap = (good - bad).mean((1, 2))
        loss, facts = -gap, {"gap": gap.detach()}
        if game.clip is None:
            points = (fake + share[:, :, None] * (real - fake)).requires_grad_()
            there = forward(game.critic, mine, points)[0]
            (slope,) = torch.autograd.grad(there.sum(), points, create_graph=True)
            norms = (slope.square().sum(-1) + 1e-12).sqrt()
            loss = loss + game.penalty * (norms - 1).square().mean(1)
            facts["gradient_norm"] = norms.mean(1).detach()
        grads = torch.autograd.grad(loss.sum(), mine)
        self._check(loss.detach())
        self._move("critic", grads)
        return facts

    def _generator_turn(self, noise):
        game = self.game
        mine = self._leaves("generator")
        fake = forward(game.generator, mine, noise[:, game.batch :])[0]
        scores = forward(game.critic, self.state["critic"]["values"], fake)[0]
        grads = torch.autograd.grad(-scores.mean((1, 2)).sum(), mine)
        self._check(scores.detach().mean((1, 2)))
        self._move("generator", grads)

    # What a turn changes: nothing in a seed whose numbers ceased to be finite
    def _check(self, loss):
        # A network with a NaN in it shows it in the next loss: no unit here passes over one.
        self.fault.copy_(torch.where(self.alive & ~loss.isfinite(), self.now + 1, self.fault))
        self.alive.logical_and_(loss.isfinite())

    def _put(self, old, new):
        new = new.detach()
        old.copy_(torch.where(self.alive.view(-1, *[1] * (old.ndim - 1)), new, old))

    def _track(self, name, statistics):
        for population, (mean, variance) in zip(
            self.state[name]["population"], statistics, strict=True
        ):
            moved = population
            for group in range(mean.shape[1]):
                fresh = torch.stack([mean[:, group], variance[:, group]], 1)
                moved = moved + BN_DECAY * (fresh - moved)
            self._put(population, moved)

    def _move(self, name, grads):
        if self.game.clip is None:
            self._adam(name, grads, self.game.rate, 0.5, 0.9)
        else:
            state = self.state[name]
            for value, second, grad in zip(state["values"], state["second"], grads, strict=True):
                new = second + 0.01 * (grad * grad - second)
                self._put(value, value - self.game.rate * grad / (new.sqrt() + 1e-8))
                self._put(second, new)

    def _adam(self, name, grads, rate, beta1, beta2):
        state = self.state[name]
        state["steps"] += 1
        rate = (rate / (1 - beta1 ** state["steps"])).float()
        inverse = (1 / (1 - beta2 ** state["steps"])).float()
        for value, first, second, grad in zip(*(state[k] for k in STATE), grads, strict=True):
            mean = first + (1 - beta1) * (grad - first)
            square = second + (1 - beta2) * (grad * grad - second)
            self._put(value, value - rate * mean / ((square * inverse).sqrt() + 1e-8))
            self._put(first, mean)
            self._put(second, square)

    # Many turns
    def _arguments(self):
        return self.state, self.real, self.noise, self.share, self.now, self.alive, self.fault

    def _step(self):
        """The compiled turns, which games of one kind and shape share."""
        everything, game = self._arguments(), self.game
        baked = (getattr(game, name, None) for name in ("clip", "penalty"))
        key = (type(game), game.packing, game.critic.kernels, *baked)
        key += (tuple(self.real.shape), self.device)
        if key not in _compiled:
            traced = make_fx(lambda *given: self._turns(*given))(*everything)
            self.state, _, _, _, self.now, self.alive, self.fault = everything  # not the traced
            _compiled[key] = torch.compile(traced, dynamic=False)
        return _compiled[key]

    def _capture(self, turns, stream):
        everything = self._arguments()
        kept = [t.clone() for t in tree_leaves(everything)]
        step = self._step()
        torch.cuda.synchronize(self.device)
        with self._beside:
            for _ in range(2):  # compiles, and lets libraries take their workspaces
                self.now.zero_()
                step(*everything)
        stream.synchronize()
        self._block = next(b for b in range(max(10, self.every), 0, -self.every) if turns % b == 0)
        self._replay = torch.cuda.CUDAGraph()
        self.now.zero_()
        with torch.cuda.graph(self._replay, stream=stream, capture_error_mode="thread_local"):
            for _ in range(self._block // self.every):
                self.facts = step(*everything)
        for now, before in zip(tree_leaves(everything), kept, strict=True):
            now.copy_(before)
        torch.cuda.synchronize(self.device)

    def play(self, real, noise, share):
        """Train on an epoch drawn beforehand, as `planar.play` does; seeds are the second axis.

        Returns:
            For each seed what the last turn said of itself, and for those that stopped, by number,
            what ceased to be finite.
        """
        drawn = zip((self.real, self.noise, self.share), (real, noise, share), strict=True)
        with self._beside:
            for mine, given in drawn:
                mine.copy_(torch.from_numpy(given))
            self.now.zero_()
            for _ in range(len(real) // self._block):
                if self._replay is not None:
                    self._replay.replay()
                else:
                    self.facts = self._turns(*self._arguments())
            found = {key: value.tolist() for key, value in self.facts.items()}
            faults = self.fault.tolist()
        facts = [dict(zip(found, told, strict=True)) for told in zip(*found.values(), strict=True)]
        return facts, {
            seed: f"step {step}: {self._culprit(seed)}" for seed, step in enumerate(faults) if step
        }

    def _culprit(self, seed):
        for name, state in self.state.items():
            if not all(v[seed].isfinite().all() for v in state["values"]):
                return f"weights of the {name} are no longer finite"
        return f"{'gap' if 'gap' in self.facts else 'critic_loss'} is no longer finite"

    def evaluate(self, latents):
        """Samples (seeds, n, 2) of latents (seeds, n, 2), with population statistics."""
        state = self.state["generator"]
        with torch.no_grad(), self._beside:
            latents = torch.from_numpy(latents).to(self.device)
            rows = forward(
                self.game.generator, state["values"], latents, population=state["population"]
            )[0]
            return rows.cpu().numpy()

    def store(self):
        """Put parameters, moments and statistics back into the games."""
        for name, state in self.state.items():
            parts = {key: [t.cpu().numpy() for t in state[key]] for key in (*STATE, "population")}
            for seed, game in enumerate(self.games):
                network = game.networks[name]
                network.steps = int(state["steps"])
                views = {"values": network.values, "population": network.population}
                views |= {k: network.split(getattr(network, k)) for k in ("first", "second")}
                for key, arrays in parts.items():
                    for mine, theirs in zip(views[key], arrays, strict=True):
                        mine[:] = theirs[seed]
