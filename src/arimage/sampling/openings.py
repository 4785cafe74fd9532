"""VAR's first token map, kept by class: one of ten passes over the weights that need not be made.

A next-scale model embeds the class alone in its first step, so the adaLN tables, the hidden states
and the keys and values of that step follow from the labels of the batch. When the same labels come
a second time, they are kept, and from then on the first step is the head and a draw. They are what
the plain step made of the same rows together, so not a bit of an image changes.
"""

from collections import OrderedDict
from collections.abc import Sequence
from functools import partial
from typing import Any

from arimage.ar.base import Backbone, Context
from arimage.ar.orders.base import Order
from arimage.sampling.cache import Opening, StaticCache
from arimage.sampling.compiled import fields_of, leaves
from arimage.sampling.guidance import Guidance
from arimage.sampling.loop import Branch, bound, pack
from arimage.sampling.weights import Weights

BYTES = 2**28  # of all that is kept; VAR-d30 in bfloat16 has 2.2 MB an image, with guidance
ASKED = 1024  # batches whose labels came once; as many are remembered


class Openings:
    """First steps by the labels of a batch; those used longest ago make room."""

    def __init__(self) -> None:
        self.kept: OrderedDict[Any, tuple[Context, Opening]] = OrderedDict()
        self.asked: OrderedDict[Any, bool] = OrderedDict()  # and whether a second time matters
        self.weights = Weights()

    def branch(
        self,
        labels: Sequence[int] | None,
        model: Backbone,
        order: Order,
        condition: Any,
        guidance: Guidance,
        kept_as: str | None,
        allocate: bool,
        *,
        first: int = 0,
        last: int | None = None,
    ) -> Branch:
        """``Branch.of``, its first step made where the labels came before.

        ``labels``: of the batch; None where they do not say all (text, annealed classes). The rest
        as ``Branch.of`` takes it.
        """
        make = partial(Branch.of, model, order, condition, guidance, kept_as)
        span = {"first": first, "last": last}
        if labels is None or not model.opening_width:
            return make(allocate, **span)
        by_steps, guided = bound(guidance, model, order)
        at_once = by_steps.guides(0, order.num_steps)  # not where nothing is kept and s is 1
        pack(model, order, len(labels) * (1 + guided))
        if self.weights.changed(model):
            self.free()
        sizes = type(order), order.num_steps, order.length, model.slots.grids
        key = (id(model), *sizes, kept_as, guided, at_once, *labels)
        if key in self.kept:
            self.kept.move_to_end(key)
        elif key not in self.asked:
            self.asked[key] = True
            if len(self.asked) > ASKED:
                self.asked.popitem(last=False)
        elif self.asked[key]:
            self._keep(key, begin(make(), order, len(labels)))
        return make(allocate, **span, made=self.kept.get(key))

    def _keep(self, key: Any, made: tuple[Context, Opening]) -> None:
        self.kept[key] = made
        while self.size > BYTES:
            left, _ = self.kept.popitem(last=False)
            self.asked[key] = left != key  # alone it is too large: not tried again

    @property
    def size(self) -> int:
        """Bytes of all that is kept."""
        records = (fields_of(record) for made in self.kept.values() for record in made)
        return sum(tensor.nbytes for record in records for tensor in leaves(record))

    def free(self) -> None:
        """Forgets everything."""
        self.kept.clear()
        self.asked.clear()


def begin(branch: Branch, order: Order, batch: int) -> tuple[Context, Opening]:
    """The context of a branch, and its first step."""
    step = order.step(0)
    hidden = branch.hidden(None, step, batch)
    assert branch.cache is None or isinstance(branch.cache, StaticCache)
    return branch.context, Opening.of(hidden, branch.cache, step.stop)
