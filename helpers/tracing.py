"""Networks as graphs of operations (torch.fx): one tracer for every room, and the cut of a graph in two.

A graph goes down to torch's own layers. What torch.fx cannot enter stays whole, as one node: a layer with
hooks, which would be left out, and a layer whose forward pass depends on the data it is given.
"""

from __future__ import annotations

import contextlib
import operator
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import torch
from torch import fx, nn
from torch.fx.node import map_arg

Whole = Callable[[nn.Module, str], bool]
"""Whether a layer with this name stays one node of the graph."""

_ARITHMETIC = ("add", "sub", "mul", "truediv", "floordiv", "mod", "neg", "eq", "ne", "lt", "gt", "getitem")
_PURE = {getattr, torch._assert, *(getattr(operator, name) for name in _ARITHMETIC)}


def original(model: Any) -> nn.Module:
    """The network itself, out of what `torch.compile` has put around it.

    Raises ValueError for a network that has been scripted, traced or exported, whose layers no longer run.
    """
    model = getattr(model, "_orig_mod", model)
    kind = type(model).__name__
    if isinstance(model, torch.jit.ScriptModule):
        raise ValueError(f"{kind} is scripted or traced, so its layers are out of reach; pass the original")
    nodes = model.graph.nodes if isinstance(model, fx.GraphModule) else ()
    if any(isinstance(n.target, torch._ops.OpOverload) for n in nodes) or not isinstance(model, nn.Module):
        raise ValueError(f"{kind} runs no layers (is it exported?); pass the nn.Module it was made from")
    return model


def has_hooks(layer: nn.Module) -> bool:
    """Whether hooks stand before or behind the forward pass of the layer itself."""
    return bool(layer._forward_hooks or layer._forward_pre_hooks)


@contextlib.contextmanager
def same_attributes(model: nn.Module) -> Iterator[None]:
    """Takes out what a forward pass, or its trace, writes into the attributes of layers, and into those that
    are dictionaries, as caches are."""
    layers = [vars(m) for m in model.modules() if not isinstance(m, torch.jit.ScriptModule)]
    tables = [value for attributes in layers for value in attributes.values() if isinstance(value, dict)]
    kept = [(table, dict(table)) for table in (*layers, *tables)]
    try:
        yield
    finally:
        for table, before in kept:
            table.clear()
            table.update(before)


@contextlib.contextmanager
def uncompiled(model: nn.Module) -> Iterator[None]:
    """Layers given to `torch.compile` run as they were written, so that hooks on their parts count."""
    compiled = any(hasattr(m, "_orig_mod") or m._compiled_call_impl is not None for m in model.modules())
    with torch.compiler.set_stance("force_eager") if compiled else contextlib.nullcontext():
        yield


class _Tracer(fx.Tracer):
    """Keeps `whole` layers as one node, and notes the innermost layer at which a trace has stopped."""

    def __init__(self, whole: Whole) -> None:
        super().__init__()
        self.whole = whole
        self.failed: tuple[nn.Module, str] | None = None
        self.error: Exception | None = None

    def is_leaf_module(self, module: nn.Module, name: str) -> bool:
        return super().is_leaf_module(module, name) or has_hooks(module) or self.whole(module, name)

    def call_module(self, module: nn.Module, forward: Callable, args: tuple, kwargs: dict) -> Any:
        if hasattr(module, "_orig_mod"):
            return module._orig_mod(*args, **kwargs)  # comes back here, as the layer given to torch.compile
        try:
            return super().call_module(module, forward, args, kwargs)
        except Exception as error:
            if error is not self.error:
                self.error, self.failed = error, (module, self.path_of_module(module))
            raise


def trace(model: nn.Module, whole: Whole, around: Iterable[str] = ()) -> fx.Graph:
    """The graph of `model` in its present mode.

    The network stays as it is, but for the tensors that its forward pass makes out of no input: the graph
    finds them in attributes `_tensor_constant0`, ... of the network.

    Whole stay the layers that torch.fx cannot enter and those for which `whole` holds. Where a trace stops,
    the innermost layer it stopped in, and all others of its class, stay whole in the next. Layers named in
    `around` never do for this reason: the network itself and, say, what a wanted layer lies in.

    Raises what torch.fx raises where it cannot follow one of these.
    """
    entered, shut = {"", *around}, set()
    while True:
        tracer = _Tracer(lambda m, name: whole(m, name) or (type(m) in shut and name not in entered))
        try:
            with same_attributes(model), torch.random.fork_rng(devices=[]):
                for layer in model.modules():
                    if layer._compiled_call_impl is not None:
                        layer._compiled_call_impl = None
                graph = tracer.trace(model)
                constants = {n: v for n, v in vars(model).items() if n.startswith("_tensor_constant")}
            vars(model).update(constants)
            return graph
        except Exception:
            layer, name = tracer.failed or (model, "")
            if name in entered or type(layer) in shut:
                raise
            shut.add(type(layer))


def place(node: fx.Node) -> str:
    """A node in words: the layer that it is, or its name and the layer whose forward pass it is part of."""
    for name, kind in reversed(node.meta.get("nn_module_stack", {}).values()):
        layer = f"{name} ({kind.__name__})"
        return layer if node.op == "call_module" else f"{node.name} of {layer}"
    return node.name


class Cut:
    """A graph in two parts: what a node needs, and what follows from it.

    Attributes:
        after: the nodes that depend on the node.
        passing: nodes before the cut, made from the images, that the second part reads besides.
    """

    def __init__(self, model: nn.Module, graph: fx.Graph, node: fx.Node, results: Any) -> None:
        """`results` is what the second part gives: nodes, in any nest of tuples and dictionaries."""
        self.model, self.graph, self.node, self.results = model, graph, node, results
        self.after = _followers(graph, [node]) - {node}
        images = _followers(graph, [n for n in graph.nodes if n.op == "placeholder"])
        self.passing: list[fx.Node] = []
        beyond = self._needed(results, self.after, stop=(images - self.after) | {node})
        self.passing = [n for n in graph.nodes if n in beyond and n in images - self.after - {node}]

    def first(self, results: Any) -> fx.GraphModule:
        """Images to `results`, nodes in any nest; what only other results need does not run."""
        needed = self._needed(results, set(self.graph.nodes) - self.after, stop=set())
        return self._part({n for n in self.graph.nodes if n.op == "placeholder"} | needed, [], results)

    def second(self) -> fx.GraphModule:
        """The node's value, and those of `passing`, to the results."""
        starts = [self.node, *self.passing]
        return self._part(self._needed(self.results, self.after, stop=set(starts)), starts, self.results)

    def _needed(self, results: Any, region: set[fx.Node], stop: set[fx.Node]) -> set[fx.Node]:
        """What the results need, back to `stop`, and what may change a value of the region in place."""
        needed: set[fx.Node] = set()
        ahead = [n for n in region if not n.users and _may_write(n)]
        map_arg(results, ahead.append)
        while ahead:
            node = ahead.pop()
            if node not in needed:
                needed.add(node)
                ahead += [] if node in stop else node.all_input_nodes
        return needed

    def _part(self, nodes: set[fx.Node], starts: list[fx.Node], results: Any) -> fx.GraphModule:
        part, copies = fx.Graph(), {}
        for node in starts:
            copies[node] = part.placeholder(node.name)
        for node in self.graph.nodes:
            if node in nodes and node not in copies:
                copies[node] = part.node_copy(node, copies.__getitem__)
        part.output(map_arg(results, copies.__getitem__))
        return fx.GraphModule(self.model, part)


def _followers(graph: fx.Graph, starts: Iterable[fx.Node]) -> set[fx.Node]:
    """`starts` and all nodes that depend on them."""
    found = set(starts)
    for node in graph.nodes:
        if any(source in found for source in node.all_input_nodes):
            found.add(node)
    return found


def _may_write(node: fx.Node) -> bool:
    """Whether a node whose value nobody reads may count all the same, by what it changes in place."""
    if node.op == "call_method":
        return str(node.target).endswith("_")
    return node.op == "call_module" or (node.op == "call_function" and node.target not in _PURE)
