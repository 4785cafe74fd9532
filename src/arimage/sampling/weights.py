"""Whether weights are still those over which something was made: captures, first token maps."""

from torch import Tensor, nn

Places = list[tuple[int, ...]]


class Weights:
    """Remembers where the weights of models were and how often each was changed in place."""

    def __init__(self) -> None:
        self.known: dict[int, Places] = {}

    def changed(self, *models: nn.Module) -> bool:
        """Whether any model is not what it was; all are remembered as they are now.

        A model that is new here has not changed. What is written past torch's counting
        (``weight.data``) is seen where it moves or unpacks the weight, not otherwise.
        """
        found = {id(model): places(model) for model in models}
        changed = any(self.known.get(key, now) != now for key, now in found.items())
        self.known |= found
        return changed


def places(model: nn.Module) -> Places:
    """Where the weights are and how often each was changed in place, or packed anew."""
    found = []
    for module in model.modules():
        tensors = (*module._parameters.values(), *module._buffers.values())
        packing = 0 if getattr(module, "packed", None) is None else module.packing
        found += [(packing, *place(t)) for t in tensors if t is not None]
    return found


def place(tensor: Tensor) -> tuple[int, int]:
    """Address and version; tensors of inference mode have none, nor do they change."""
    return tensor.data_ptr(), 0 if tensor.is_inference() else tensor._version
