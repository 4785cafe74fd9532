"""Steps captured once and replayed: ``ImageGenerator.compile``.

A *session* is what belongs to one kind of call (batch size, guided or not, sampler): static buffers
and the captures over them, one for each group of steps (groups.py). A call copies its context, its
random numbers and its scales of guidance into the buffers, in one go; then each step is one replay
of ``loop.advance``. Whatever differs between calls or between the steps of a group is in a buffer.
"""

import dataclasses
from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from arimage.ar.base import Known, Noise, State, Step
from arimage.ar.orders.base import Order
from arimage.sampling.cache import Opening
from arimage.sampling.capture import Buffers, Capture, CaptureError, Replay
from arimage.sampling.groups import Group, groups_of
from arimage.sampling.guidance import Guidance, scale_table
from arimage.sampling.loop import Branch, advance
from arimage.sampling.noise import PerImageNoise
from arimage.sampling.samplers.base import Sampler
from arimage.sampling.weights import Weights
from arimage.shapes import Float, Int

SESSIONS = 4  # batch sizes (and other kinds of call) whose captures are kept, the oldest go first
CHOSEN = ("ids", "canvas", "broken")  # what a step changes besides the cache


@dataclass(frozen=True)
class Dial(Guidance):
    """Guidance of a captured step: s is in a tensor; whether null rows are needed is fixed.

    values: s for each part of a token.
    """

    values: tuple[Any, ...] = ()
    guided: bool = False

    def part(self, index: int) -> "Dial":
        """As every guidance's."""
        return dataclasses.replace(self, values=self.values[index : index + 1])

    def at(self, index: Any, num_steps: int) -> Any:
        """The tensor."""
        return self.values[0]

    def guides(self, index: Any, num_steps: int) -> bool:
        """As it was when the step was captured."""
        return self.guided


class TableNoise(PerImageNoise):
    """Numbers that were drawn beforehand, (b, total), read from ``start`` on."""

    def __init__(self, numbers: Float[Tensor, "b n"], start: int | Int[Tensor, " 1"]) -> None:
        self.batch, self.device = len(numbers), numbers.device
        self.numbers, self.start, self.used = numbers, start, 0

    def uniform(self, count: int) -> Float[Tensor, "b n"]:
        """The next ``count`` of each image."""
        start = self.start + self.used
        self.used += count
        if isinstance(start, int):
            return self.numbers[:, start : start + count]
        return self.numbers.index_select(1, start + torch.arange(count, device=self.device))


class Session:
    """Static buffers of one kind of call, and what was captured over them.

    Args:
        branches: without caches; the session makes those.
        order, sampler: as they will run.
        values: of the first call (``values_of``); later ones have the same shapes.
        capture: makes the replays.
    """

    def __init__(
        self,
        branches: Sequence[Branch],
        order: Order,
        sampler: Sampler,
        values: Buffers,
        capture: Capture,
    ) -> None:
        self.order, self.sampler, self.capture = order, sampler, capture
        self.models = [branch.model for branch in branches]
        self.context_types = [type(branch.context) for branch in branches]
        self.spans = [(branch.first, branch.last) for branch in branches]
        self.groups = groups_of(order, cuts=[first for first, _ in self.spans])
        self.offsets = offsets_of(order, sampler, branches[0].model.parts)
        self.moves = any(len(group.steps) > 1 for group in self.groups)
        caches = [branch.new_cache(order) for branch in branches]
        self.cache_types = [type(cache) for cache in caches]
        self.buffers = pytree.tree_map(lambda x: x if x is None else x.clone(), values)
        self.buffers["caches"] = [cache and fields_of(cache) for cache in caches]
        self.buffers["index"] = torch.zeros(1, dtype=torch.long, device=values["ids"].device)
        self.replays: dict[Any, Replay] = {}
        self.owner: object = None
        self.known: tuple[bool, ...] = ()

    def begin(self, owner: object, values: Buffers, opening: Sequence[Opening | None]) -> None:
        """Fills the buffers for a new call, which alone may make steps from now on.

        ``opening``: the first step of each branch, where it was made before.
        """
        self.owner, self.known = owner, tuple(made is not None for made in opening)
        for name, value in values.items():
            pairs = zip(leaves(self.buffers[name]), leaves(value), strict=True)
            for buffer, given in pairs:
                buffer.copy_(given)
        if self.moves:  # rows behind a step are read with weight 0, and 0 * NaN is NaN
            for memory in leaves(self.buffers["caches"]):
                memory.zero_()
        for i, made in enumerate(opening):
            if made is not None:
                made.fill(self._cache(self.buffers, i))

    @torch.no_grad()
    def step(self, owner: object, index: int, guided: tuple[bool, ...]) -> dict[str, Tensor]:
        """Ids, canvas and broken after step ``index``; they stay what they are.

        Raises:
            RuntimeError: another call began, or the buffers are gone.
        """
        if self.owner is not owner:
            raise RuntimeError(
                "the compiled buffers of this batch size were taken over by another call or freed; "
                "finish one generation before the next, or use compile('off')"
            )
        group = next(group for group in self.groups if index in group)
        self.buffers["index"].fill_(index)
        key = (group.first, guided, self.known if group.first == 0 else ())
        if key not in self.replays:
            self.replays[key] = self._captured(group, guided)
        self.replays[key](self.buffers)
        return {name: self.buffers[name].clone() for name in CHOSEN}

    def _captured(self, group: Group, guided: tuple[bool, ...]) -> Replay:
        def body(buffers: Buffers) -> None:
            self._advance(buffers, group, guided)

        if len(group.steps) == 1 and not self.capture.whole:
            return body
        before = {name: self.buffers[name].clone() for name in CHOSEN}
        replay = self.capture(body, self.buffers)
        for name, value in before.items():
            self.buffers[name].copy_(value)
        return replay

    def _advance(self, buffers: Buffers, group: Group, guided: tuple[bool, ...]) -> None:
        """One step of ``loop.advance`` over the buffers, in place."""
        known = buffers["known"] and Known(*buffers["known"])
        parts = (buffers[name] for name in ("ids", "canvas"))
        state = State(*parts, group.first, known, buffers["path"], buffers["broken"])
        index = buffers["index"]
        step = self.order.placed(group.step(index), state)
        start, count = self.offsets[group.first], self.draws(group.first)
        if len(group.steps) > 1:
            start = start + (index - group.first) * count
        noise = TableNoise(buffers["numbers"], start)
        branches = [self._branch(buffers, step, i, on) for i, on in enumerate(guided)]
        after = advance(branches, self.order, self.sampler, noise, state, step)
        if noise.used != count:
            raise CaptureError(
                f"step {group.first + 1} drew {noise.used} numbers per image where its sampler and "
                f"order said {count}; correct their draws()"
            )
        for name in CHOSEN:
            buffers[name].copy_(getattr(after, name))

    def _cache(self, buffers: Buffers, i: int) -> Any:
        cache = buffers["caches"][i]
        return cache and self.cache_types[i](**cache)

    def _branch(self, buffers: Buffers, step: Step, i: int, guided: bool) -> Branch:
        found = (part.index_select(0, buffers["index"]) for part in buffers["scales"][i])
        scales = (s.squeeze(0) for s in found)
        values = tuple(s[: step.predicts, None] if s.ndim else s for s in scales)
        context = self.context_types[i](**buffers["contexts"][i])
        parts = self.models[i], context, self._cache(buffers, i), Dial(values=values, guided=guided)
        first, last = self.spans[i]
        opening = Opening(buffers["opening"][i]) if self.known[i] else None
        more = {"first": first, "last": last, "weight": buffers["weights"][i], "opening": opening}
        return Branch(*parts, **more)

    def draws(self, index: int) -> int:
        """Numbers per image of step ``index``."""
        return self.offsets[index + 1] - self.offsets[index]

    @property
    def size(self) -> int:
        """Bytes of the buffers."""
        return sum(tensor.nbytes for tensor in leaves(self.buffers))

    def free(self) -> None:
        """Drops captures and buffers; a generation that is under way ends with an error."""
        self.owner = None
        self.replays.clear()
        self.buffers.clear()


class Captures:
    """All sessions of a generator, and its captured decoders; the oldest of ``SESSIONS`` goes.

    Args:
        capture: makes the replays.
    """

    def __init__(self, capture: Capture) -> None:
        self.capture = capture
        self.sessions: OrderedDict[Any, Session] = OrderedDict()
        self.decoders: OrderedDict[Any, Decoding] = OrderedDict()
        self.orders: dict[Any, Order] = {}
        self.weights = Weights()

    def run(self) -> "Run":
        """What makes the steps of one call."""
        return Run(self)

    def order(self, key: Any, make: Callable[[], Order]) -> Order:
        """An order made once for each key: making one takes as long as some steps."""
        if key not in self.orders:
            self.orders[key] = make()
        return self.orders[key]

    def session(
        self, branches: Sequence[Branch], order: Order, sampler: Sampler, values: Buffers
    ) -> Session:
        """The session of calls like this one; a new one where there is none."""
        self.check(*(branch.model for branch in branches))
        key = (
            order,
            sampler,
            shapes(values),
            tuple((type(b.context), b.kept_as, id(b.model), b.first, b.last) for b in branches),
        )
        return kept(
            self.sessions, key, lambda: Session(branches, order, sampler, values, self.capture)
        )

    def decode(self, decoder: nn.Module, decode: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
        """``decode(x)``, captured for the shape of ``x``."""
        self.check(decoder)
        key = (id(decoder), x.shape, x.dtype)
        return kept(self.decoders, key, lambda: Decoding(decode, x, self.capture))(x)

    def check(self, *models: nn.Module) -> None:
        """Drops everything captured over weights that are no longer there or were changed."""
        if self.weights.changed(*models):
            self.free()

    @property
    def size(self) -> int:
        """Bytes of all buffers; what graphs use while they run is in torch's own count."""
        return sum(session.size for session in self.sessions.values())

    def free(self) -> None:
        """Drops everything captured."""
        for session in self.sessions.values():
            session.free()
        self.sessions.clear()
        self.decoders.clear()
        self.orders.clear()


class Run:
    """Takes the place of ``loop.advance`` for the steps of one call."""

    def __init__(self, captures: Captures) -> None:
        self.captures = captures
        self.session: Session | None = None

    def __call__(
        self,
        branches: Sequence[Branch],
        order: Order,
        sampler: Sampler,
        noise: Noise,
        state: State,
        step: Step,
    ) -> State:
        """The state after one step."""
        if self.session is None:
            with torch.no_grad():
                values = values_of(branches, order, sampler, noise, state)
                self.session = self.captures.session(branches, order, sampler, values)
                self.session.begin(self, values, [branch.opening for branch in branches])
        index = int(step.index)
        guided = tuple(b.guidance.guides(index, step.num_steps) for b in branches)
        chosen = self.session.step(self, index, guided)
        return dataclasses.replace(state, **chosen, step=state.step + 1)


class Decoding:
    """A captured decoder for one shape."""

    def __init__(self, decode: Callable[[Tensor], Tensor], x: Tensor, capture: Capture) -> None:
        self.buffers = {"x": x.clone(), "out": torch.empty_like(decode(x))}

        def body(buffers: Buffers) -> None:
            buffers["out"].copy_(decode(buffers["x"]))

        self.replay = capture(body, self.buffers)

    @torch.no_grad()
    def __call__(self, x: Tensor) -> Tensor:
        """Decoded, in memory of its own."""
        self.buffers["x"].copy_(x)
        self.replay(self.buffers)
        return self.buffers["out"].clone()


def values_of(
    branches: Sequence[Branch], order: Order, sampler: Sampler, noise: Any, state: State
) -> Buffers:
    """What belongs to one call: its state, contexts, scales of guidance and random numbers."""
    device, steps = state.ids.device, order.num_steps
    parts = branches[0].model.parts
    scales = [scales_of(b.guidance, steps, len(parts)).to(device) for b in branches]
    weights = [b.weight if b.weight is None else torch.tensor(b.weight) for b in branches]
    total = offsets_of(order, sampler, parts)[-1]
    known = state.known
    return {
        "ids": state.ids,
        "canvas": state.canvas,
        "broken": torch.full((), steps, device=device),
        "known": None if known is None else [known.ids, known.mask],
        "path": state.path,
        "numbers": noise.uniform(total),
        "scales": scales,
        "weights": [w if w is None else w.to(device) for w in weights],
        "opening": [first_hidden(branch, order, len(state.ids)) for branch in branches],
        "contexts": [fields_of(b.model.settled(b.context)) for b in branches],
    }


def first_hidden(branch: Branch, order: Order, batch: int) -> Tensor | None:
    """Hidden states of the first step, or room for them; None where they are never known."""
    width = branch.model.opening_width
    if branch.opening is not None or not width:
        return branch.opening and branch.opening.hidden
    guided = branch.guidance.guides(0, order.num_steps)
    prefix = branch.context.prefix
    return prefix.new_zeros(len(prefix) if guided else batch, order.step(0).predicts, width)


def scales_of(guidance: Guidance, steps: int, parts: int) -> Tensor:
    """s of each part of a token and each step; see ``scale_table``."""
    return torch.stack([scale_table(guidance.part(i), steps) for i in range(parts)])


def offsets_of(order: Order, sampler: Sampler, parts: Sequence[int]) -> list[int]:
    """Where the numbers of each step begin; the last entry is how many there are."""
    offsets = [0]
    for step in (order.step(i) for i in range(order.num_steps)):
        drawn = sum(sampler.part(i).draws(step, size) for i, size in enumerate(parts))
        offsets.append(offsets[-1] + drawn + order.draws(step))
    return offsets


def fields_of(record: Any) -> dict[str, Any]:
    """The fields of a record, by name."""
    return {field.name: getattr(record, field.name) for field in dataclasses.fields(record)}


def leaves(tree: Buffers) -> list[Tensor]:
    """The tensors of a tree."""
    return [leaf for leaf in pytree.tree_leaves(tree) if leaf is not None]


def shapes(tree: Buffers) -> tuple[Any, ...]:
    """Shapes and dtypes of a tree; None where there is nothing."""
    found = pytree.tree_leaves(tree)
    return tuple(None if x is None else (*x.shape, x.dtype, x.device) for x in found)


def kept(table: OrderedDict[Any, Any], key: Any, make: Callable[[], Any]) -> Any:
    """``table[key]``, made where it is missing; the entry used longest ago makes room."""
    if key not in table:
        if len(table) >= SESSIONS:
            _, oldest = table.popitem(last=False)
            getattr(oldest, "free", lambda: None)()
        table[key] = make()
    table.move_to_end(key)
    return table[key]
