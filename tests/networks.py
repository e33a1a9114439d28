"""What the tests of several rooms build their networks, numbers and devices from."""

from __future__ import annotations

import copy

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_leaves, tree_map


def compiled(model, how, part):
    """A copy of a network compiled as a "whole", "in place", or only its child called `part`."""
    model = copy.deepcopy(model)
    if how == "whole":
        return torch.compile(model, backend="eager")
    if how == "in place":
        model.compile(backend="eager")
    else:
        setattr(model, part, torch.compile(getattr(model, part), backend="eager"))
    return model


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


class Net(nn.Module):
    """The layers given by name, and a forward pass (network, images) written down in the test."""

    def __init__(self, forward, **layers):
        super().__init__()
        self.pass_through = forward
        for name, layer in layers.items():
            self.add_module(name, layer)

    def forward(self, images):
        return self.pass_through(self, images)


class DependsOnData(nn.Module):
    """A layer with a decision that depends on its input, so that torch.fx cannot enter it."""

    def __init__(self, inner):
        super().__init__()
        self.inner = inner

    def forward(self, images):
        return self.inner(images) if images.sum() < 1e9 else images


class WithoutFloat64(TorchFunctionMode):
    """Within it, tensors seem to lie on a device without float64 or NumPy, as Apple's MPS is one.

    On the CPU lie what ``.cpu()`` gave, what is made from such tensors alone, and what is made out of no
    tensor without naming the device.
    """

    def __torch_function__(self, function, types, args=(), kwargs=None):
        kwargs, name = kwargs or {}, getattr(function, "__name__", "")
        inputs = [t for t in tree_leaves((args, kwargs)) if isinstance(t, Tensor)]
        if function == Tensor.device.__get__:
            return torch.device("cpu" if hasattr(args[0], "on_cpu") else "mps")
        on_cpu = all(hasattr(t, "on_cpu") for t in inputs)
        named = [str(v) for v in tree_leaves((args[1:], kwargs)) if isinstance(v, torch.device | str)]
        if name == "cpu" or "cpu" in named or "mps" in named:
            on_cpu = "mps" not in named
        elif name.endswith("_") or (name == "to" and len(inputs) == 2):
            on_cpu = hasattr(inputs[name == "to"], "on_cpu")
        if name == "numpy" and not on_cpu:
            raise TypeError("can't convert mps:0 device type tensor to numpy")
        out = function(*tree_map(_on_cpu, args), **tree_map(_on_cpu, kwargs))

        def placed(value):
            if not isinstance(value, Tensor) or on_cpu == hasattr(value, "on_cpu"):
                return value
            value = value.view_as(value) if any(value is t for t in inputs) else value
            if on_cpu:
                value.on_cpu = True
            return value

        if not on_cpu and any(isinstance(t, Tensor) and t.dtype == torch.float64 for t in tree_leaves(out)):
            raise TypeError("the MPS framework doesn't support float64")
        return tree_map(placed, out)


def _on_cpu(value):
    is_place = isinstance(value, torch.device | str)
    return torch.device("cpu") if is_place and str(value) == "mps" else value
