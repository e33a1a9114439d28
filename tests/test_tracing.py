"""The tracer: what it cannot enter stays whole, and both parts of a cut make up the network."""

from __future__ import annotations

import copy

import pytest
import timm
import torch
from networks import DependsOnData, Net, seeded
from torch import nn
from torch.nn import functional as F
from torchvision import models

from helpers import tracing
from helpers.tracing import Cut, original, place, same_attributes, trace, uncompiled


def never(layer, name):
    return False


def images(count=2, pixels=8, seed=0):
    return torch.randn(count, 3, pixels, pixels, generator=seeded(seed))


def conv(inputs=3, outputs=3):
    torch.manual_seed(inputs)
    return nn.Conv2d(inputs, outputs, 3, padding=1)


def targets(graph):
    return [str(n.target) for n in graph.nodes if n.op == "call_module"]


# ------------------------------------------------------------------------------------------------ leaves


def test_only_the_innermost_layer_that_depends_on_data_stays_whole():
    inner = nn.Sequential(conv(), DependsOnData(nn.Sequential(conv(), nn.ReLU())), nn.ReLU())
    model = nn.Sequential(inner, nn.Flatten())
    assert targets(trace(model, never)) == ["0.0", "0.1", "0.2", "1"]


def test_many_layers_of_one_class_cost_one_more_trace(monkeypatch):
    traces, tracer = [], tracing._Tracer
    monkeypatch.setattr(tracing, "_Tracer", lambda whole: traces.append(1) or tracer(whole))
    trace(nn.Sequential(*(DependsOnData(conv()) for _ in range(9))), never)
    assert len(traces) == 2


def test_what_a_wanted_layer_lies_in_is_entered_or_refused():
    class Wrapped(DependsOnData):
        pass

    model = nn.Sequential(Wrapped(conv()), DependsOnData(conv()))
    assert targets(trace(model, never)) == ["0", "1"]
    with pytest.raises(torch.fx.proxy.TraceError):
        trace(model, never, around=["1"])
    with pytest.raises(torch.fx.proxy.TraceError):
        trace(DependsOnData(conv()), never)


def test_one_of_a_class_may_be_entered_while_another_stays_whole():
    class Sometimes(nn.Module):
        def __init__(self, decides):
            super().__init__()
            self.inner, self.decides = conv(), decides

        def forward(self, x):
            return self.inner(x) if not self.decides or x.sum() < 1e9 else x

    model = nn.Sequential(Sometimes(True), Sometimes(False), Sometimes(False))
    assert targets(trace(model, never, around=["1"])) == ["0", "1.inner", "2"]


def test_layers_with_hooks_stay_whole():
    model = nn.Sequential(nn.Sequential(conv(), nn.ReLU()), nn.Sequential(conv(), nn.ReLU()))
    model[1].register_forward_pre_hook(lambda *_: None)
    assert targets(trace(model, never)) == ["0.0", "0.1", "1"]
    assert targets(trace(model, lambda layer, name: name == "0")) == ["0", "1"]


def test_a_layer_outside_the_tree_is_left_to_the_layer_that_calls_it():
    hidden = [nn.Sequential(conv())]
    model = nn.Sequential(Net(lambda s, x: hidden[0](x)), nn.ReLU())
    assert targets(trace(model, never)) == ["0", "1"]


def test_the_network_stays_as_it_is_but_for_its_constants():
    def forward(self, x):
        self.last = x + torch.tensor([1.0, 2.0, 3.0])[:, None, None]
        return self.inner(self.last)

    model = Net(forward, inner=DependsOnData(conv()))
    before, random = set(vars(model)), torch.get_rng_state()
    trace(model, never)
    assert set(vars(model)) - before == {"_tensor_constant0"}
    assert torch.equal(torch.get_rng_state(), random)
    with same_attributes(model):
        model(images())
        assert "last" in vars(model)
    assert "last" not in vars(model)


def test_what_a_trace_puts_in_a_dictionary_of_a_layer_is_taken_out():
    def forward(self, x):
        if "bias" not in self.cache:
            self.cache["bias"] = self.inner.weight.sum() + x.mean()
        return self.inner(x) + self.cache["bias"]

    model = Net(forward, inner=conv())
    model.cache = {"kept": 1}
    trace(model, never)
    assert model.cache == {"kept": 1}


def test_the_place_of_a_node_names_its_layer():
    model = nn.Sequential(conv(), Net(lambda s, x: F.relu(s.inner(x)).mean(), inner=conv()))
    graph = trace(model, never)
    words = ["input_1", "0 (Conv2d)", "1.inner (Conv2d)", "relu of 1 (Net)", "mean of 1 (Net)", "output"]
    assert [place(node) for node in graph.nodes] == words


def test_timms_tensorflow_padding_stays_whole():
    model = timm.create_model("tf_efficientnet_lite0", pretrained=False).eval()
    found = set(targets(trace(model, never)))
    kept = {n for n, m in model.named_modules() if type(m).__name__ == "Conv2dSame"}
    assert kept
    assert kept <= found
    assert {"blocks.0.0.conv_dw", "conv_head", "classifier"} <= found


# ------------------------------------------------------------------------------------------------- cuts


def unread_changes(self, x):
    """In place, without reading the result: before, beside and behind most cuts."""
    a = self.one(x)
    a.add_(1)
    b = self.two(a)
    a.view(-1).mul_(2)
    F.relu(b, inplace=True)
    return b.flatten(1) + a.flatten(1)


def several_results(self, x):
    a = self.one(x)
    scale = self.two.weight.abs().mean()  # of weights alone
    return {"a": (a * scale, [x.mean()]), "b": self.two(a) + x}


def constants(self, x):
    return self.two(self.one(x - torch.tensor([0.1, 0.2, 0.3])[:, None, None]).relu_())


NETWORKS = {
    "unread": lambda: Net(unread_changes, one=conv(), two=conv(3, 3)),
    "several": lambda: Net(several_results, one=conv(), two=conv(3, 3)),
    "constants": lambda: Net(constants, one=conv(), two=conv(3, 3)),
    "resnet": lambda: models.ResNet(models.resnet.BasicBlock, [1, 1, 1, 1], num_classes=3),
    "swin": lambda: models.SwinTransformer([4, 4], 8, [2], [2], [4, 4], num_classes=3),
    "googlenet": lambda: models.googlenet(num_classes=3, aux_logits=True, init_weights=False),
}


@pytest.mark.parametrize("name", NETWORKS)
def test_at_every_node_both_parts_make_up_the_network(name):
    torch.manual_seed(0)
    model = NETWORKS[name]().eval()
    x = images(2, 32)
    with torch.no_grad():
        expected = torch.utils._pytree.tree_leaves(model(x.clone()))
        graph = trace(model, never)
        (output,) = (n for n in graph.nodes if n.op == "output")
        cuts = [Cut(model, graph, node, output.args[0]) for node in graph.nodes if node.op != "output"]
        cuts = [cut for cut in cuts if output in cut.after and cut.node.op != "get_attr"]
        assert len(cuts) > 3
        for cut in cuts[:: max(1, len(cuts) // 12)]:
            value, passing = cut.first((cut.node, tuple(cut.passing)))(x.clone())
            found = torch.utils._pytree.tree_leaves(cut.second()(value, *passing))
            for a, b in zip(found, expected, strict=True):
                torch.testing.assert_close(a, b, msg=f"cut at {cut.node.name}")


def test_what_only_other_results_need_does_not_run():
    model = Net(lambda s, x: (s.two(s.one(x)), s.aside(x)), one=conv(), two=conv(3, 3), aside=conv(3, 4))
    graph = trace(model, never)
    node = next(n for n in graph.nodes if n.target == "one")
    cut = Cut(model, graph, node, next(n for n in graph.nodes if n.target == "two"))
    assert targets(cut.first((node,)).graph) == ["one"]
    assert targets(cut.second().graph) == ["two"]
    assert cut.passing == []


def test_a_size_that_nobody_reads_is_left_out():
    def forward(self, x):
        maps = self.one(x)
        _batch, channels = maps.shape[:2]
        torch._assert(maps.ndim == 4, "maps")
        _half = channels // 2
        return maps.mean((2, 3))

    model = Net(forward, one=conv())
    graph = trace(model, never)
    node = next(n for n in graph.nodes if n.target == "one")
    second = Cut(model, graph, node, next(n for n in graph.nodes if n.op == "output").args[0]).second()
    assert [n.name for n in second.graph.nodes] == ["one", "mean", "output"]


# ------------------------------------------------------------------------- compiled, scripted, exported


def test_the_original_of_a_compiled_network():
    model = nn.Sequential(conv(), nn.ReLU())
    assert original(model) is model
    assert original(torch.compile(model)) is model


@pytest.mark.filterwarnings("ignore:.*torch.jit:FutureWarning")
def test_networks_without_layers_have_no_original():
    model, x = nn.Sequential(conv(), nn.ReLU()).eval(), images()
    for frozen in (torch.jit.script(model), torch.jit.trace(model, x)):
        with pytest.raises(ValueError, match="scripted or traced, so its layers are out of reach"):
            original(frozen)
    exported = torch.export.export(model, (x,))
    for flat in (exported, exported.module(), None):
        with pytest.raises(ValueError, match=r"runs no layers \(is it exported\?\); pass the nn.Module"):
            original(flat)
    symbolic = torch.fx.symbolic_trace(model)
    assert original(symbolic) is symbolic


@pytest.mark.parametrize("how", ["part", "part in place", "whole in place"])
def test_compiled_parts_are_followed_and_their_hooks_count(how):
    model = nn.Sequential(nn.Sequential(conv(), nn.ReLU()), nn.Flatten())
    plain = copy.deepcopy(model)
    if how == "part":
        model[0] = torch.compile(model[0], backend="eager")
    else:
        (model[0] if how == "part in place" else model).compile(backend="eager")
    x, seen = images(), []
    model(x)
    inner = original(model[0])[0]
    inner.register_forward_hook(lambda *_: seen.append(1))
    with uncompiled(model):
        assert torch.equal(model(x), plain(x))
    assert seen == [1]
    assert len(targets(trace(model, never))) == 3
