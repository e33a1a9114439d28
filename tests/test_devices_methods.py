"""Every method on every device: what it gives there is what it gives on the CPU."""

from __future__ import annotations

import copy

import pytest
import torch
from devices import waits
from networks import seeded
from pytorch_metric_learning.losses import ContrastiveLoss
from torch import nn
from torch.nn import functional as F
from torch.utils.data import TensorDataset
from torchvision.models import resnet18

from helpers import training
from helpers.knowledge_evolution import KnowledgeEvolution, evolve
from helpers.l2_caf import L2CAF
from helpers.reading_list import distillation, global_descriptors, group_loss
from helpers.reading_list.batch_dropblock import BatchDrop
from helpers.reading_list.divide_and_conquer import DivideAndConquer
from helpers.reading_list.horde import HordeLoss
from helpers.retrieval import nearest_neighbours, retrieval_metrics
from helpers.small_data.remedies import AdaCosLoss, Cosines, SelfDistillationLoss
from helpers.small_data.views import RandomViews
from helpers.svmax import collapse_diagnostics
from helpers.two_head import SemiHardTripletLoss, TwoHead, TwoHeadLoss

CLASSES, D = 6, 12
layouts = pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])


def rows(*shape, seed=0):
    return torch.randn(*shape, generator=seeded(seed))


def images(count=8, size=32):
    return torch.rand(count, 3, size, size, generator=seeded(3))


def labels(count=24):
    return torch.arange(count) % CLASSES


def classifier(seed=0):
    torch.manual_seed(seed)
    return resnet18(num_classes=CLASSES)


def learner(seed=0):
    torch.manual_seed(seed)
    layers = (
        nn.Conv2d(3, 8, 3, 2),
        nn.BatchNorm2d(8),
        nn.ReLU(),
        nn.Conv2d(8, 8, 3),
        nn.BatchNorm2d(8),
        nn.ReLU(),
    )
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, CLASSES))


def on(device, thing, layout=torch.preserve_format):
    """A copy of a network or tensor there."""
    return copy.deepcopy(thing).to(device, memory_format=layout)


def close(found, expected, tolerance=1e-3):
    """Up to a share of the largest number; whichever device they are on."""
    expected = expected.cpu().float()
    torch.testing.assert_close(
        found.cpu().float(), expected, rtol=tolerance, atol=tolerance * expected.abs().max().item()
    )


# ---------------------------------------------------------------------------------------- two heads


@layouts
def test_two_heads_give_the_same(device, layout):
    model, x, y = TwoHead(classifier(), CLASSES, D, image_size=32), images(12), labels(12)
    loss = TwoHeadLoss(SemiHardTripletLoss())
    there = on(device, model, layout)
    outputs, expected = there(on(device, x, layout)), model(x)
    for ours, theirs in zip(outputs[:3], expected[:3], strict=True):
        assert ours.device.type == device.type
        close(ours, theirs)
    loss(outputs, y.to(device)).backward()
    loss(expected, y).backward()
    for part in ("backbone.conv1", "backbone.fc", "embedding_head.2"):
        ours, theirs = (net.get_submodule(part).weight.grad.cpu() for net in (there, model))
        assert (ours - theirs).norm() <= 1e-2 * theirs.norm()
    for one, other in zip(there.buffers(), model.buffers(), strict=True):
        close(one, other)


@layouts
def test_two_heads_under_autocast_point_the_same_way(device, layout):
    model, x = TwoHead(classifier(), CLASSES, D, image_size=32).eval(), images()
    with torch.autocast(device.type, torch.bfloat16), torch.no_grad():
        found = on(device, model, layout)(on(device, x, layout))
    expected = model(x)
    assert F.cosine_similarity(found.embedding.cpu().float(), expected.embedding).min() > 0.995
    close(found.logits, expected.logits, 0.05)


def test_a_training_step_of_two_heads_does_not_wait(device):
    model = on(device, TwoHead(classifier(), CLASSES, D, image_size=32))
    loss, x, y = TwoHeadLoss(SemiHardTripletLoss()), images(12).to(device), labels(12).to(device)
    optimizer = torch.optim.SGD(model.parameters(), 0.01, momentum=0.9, foreach=True)

    def step():
        optimizer.zero_grad()
        loss(model(x), y).backward()
        optimizer.step()

    step()  # the first sets libraries up
    assert waits(step, device) == 0


# ------------------------------------------------------------------------------------- attention maps


@layouts
@pytest.mark.parametrize("solver", ["exact", "gradient"])
@pytest.mark.parametrize("targets", [None, [0, 2, 1, 4]])
def test_attention_is_the_same(solver, targets, layout, device):
    model, x = classifier().eval(), images(4, 64)
    options = {"solver": solver, "max_iterations": 8, "tolerance": 0.0}
    expected = L2CAF(model, "layer4", **options)(x, targets)
    there = on(device, model, layout)
    before = [value.clone() for value in there.state_dict().values()]
    found = L2CAF(there, "layer4", **options)(on(device, x, layout), targets)
    assert found.filters.device.type == device.type
    close(found.filters, expected.filters, 5e-3)
    close(found.heatmaps(), expected.heatmaps(), 2e-2)
    assert all(map(torch.equal, before, there.state_dict().values()))


def test_attention_of_a_network_in_half_precision_is_near(device):
    model, x = classifier().eval(), images(2, 64)
    expected = L2CAF(model, "layer4")(x, [1, 2]).filters
    with torch.autocast(device.type, torch.bfloat16):
        found = L2CAF(on(device, model), "layer4")(x.to(device), [1, 2]).filters
    assert F.cosine_similarity(found.flatten(1).cpu().float(), expected.flatten(1)).min() > 0.98


# -------------------------------------------------------------------------------- knowledge evolution


@layouts
@pytest.mark.parametrize("split", ["kels", "wels"])
def test_evolution_draws_the_same_on_every_device(split, layout, device):
    there = on(device, learner(), layout)
    nets = learner(), there
    for net in nets:
        evolution = KnowledgeEvolution(
            net, example_input=images(1), split=split, split_rate=0.5, generator=seeded(4)
        )
        evolve(evolution, lambda generation: None, 3)
    for ours, theirs in zip(there.parameters(), nets[0].parameters(), strict=True):
        assert ours.device.type == device.type
        assert torch.equal(ours.cpu(), theirs)


@layouts
def test_the_slim_network_is_the_dense_one_without_its_reset_half(layout, device):
    net = on(device, learner(), layout).eval()
    evolution = KnowledgeEvolution(net, example_input=images(1).to(device), split_rate=0.5)
    slim, x = evolution.slim(), on(device, images(), layout)
    assert next(slim.parameters()).device.type == device.type
    with torch.no_grad():
        close(slim(x), evolution.scaled(0.0)(x), 1e-4)
    fit, reset = evolution.mean_magnitudes()
    assert fit > 0 < reset


# -------------------------------------------------------------------------- measures and other methods


def test_measures_are_the_same(device):
    points, y = rows(120, D), labels(120)
    assert collapse_diagnostics(points.to(device)) == pytest.approx(collapse_diagnostics(points))
    everything = {"include": ("recall", "r_precision", "map@r", "nmi")}
    found = retrieval_metrics(points.to(device), y.to(device), **everything)
    assert found == pytest.approx(retrieval_metrics(points, y, **everything))
    (indices, distances), expected = nearest_neighbours(points.to(device), 5), nearest_neighbours(points, 5)
    assert torch.equal(indices.cpu(), expected[0])
    close(distances, expected[1], 1e-5)


POINTS, LOGITS, MAPS = rows(24, D), rows(24, CLASSES), rows(4, 4, 6, 6)
METHODS = {
    "absolute distillation": (distillation.AbsoluteDistillation, POINTS, rows(24, D, seed=1)),
    "relational distillation": (distillation.RelationalDistillation, POINTS, rows(24, 5, seed=1)),
    "group loss": (lambda: group_loss.GroupLoss(CLASSES, D, 0, 2), POINTS, labels()),
    "divide and conquer": (lambda: DivideAndConquer(ContrastiveLoss(), D, 2), POINTS, labels(), 1),
    "horde": (lambda: HordeLoss(ContrastiveLoss(), 4, D, features=16), rows(24, 4, 3, 3), labels()),
    "batch drop": (lambda: BatchDrop(0.5, 0.5), MAPS),
    "GeM": (global_descriptors.GeM, MAPS.abs()),
    "global descriptors": (lambda: global_descriptors.CombinedGlobalDescriptors(4, 8), MAPS.abs()),
    "AdaCos": (lambda: AdaCosLoss(CLASSES), LOGITS.tanh(), labels()),
    "cosines": (lambda: Cosines(nn.Linear(D, CLASSES)), POINTS),
    "self-distillation": (SelfDistillationLoss, LOGITS, labels().sort().values),
    "random views": (lambda: RandomViews(2, mirror=True), MAPS),
}  # the method, and what it is given


@pytest.mark.parametrize("name", METHODS)
def test_other_methods_give_the_same(name, device):
    """Value, and gradient of what comes first."""
    make, *given = METHODS[name]
    torch.manual_seed(0)
    method, results = make().train(), []
    for place in ("cpu", device):
        first, *more = (copy.deepcopy(v).to(place) if isinstance(v, torch.Tensor) else v for v in given)
        torch.manual_seed(1)
        value = on(place, method)(first.requires_grad_(), *more)
        assert value.device.type == torch.device(place).type
        results.append((value.detach(), torch.autograd.grad(value.square().sum(), first)[0]))
    for theirs, ours in zip(*results, strict=True):
        assert theirs.abs().max() > 0
        close(ours, theirs)


# --------------------------------------------------------------------------------------------- training


def part(count=48):
    kept = TensorDataset(images(count, 12), labels(count))
    kept.labels = kept.tensors[1]
    return kept


def trained(device, epochs, file=None, batch_size=8, amp=False):
    model = learner()
    optimizer = torch.optim.SGD(model.parameters(), 0.1, momentum=0.9)
    batches = training.loader(part(), batch_size, seed=1)
    history = training.fit(
        model, F.cross_entropy, optimizer, batches, epochs=epochs, device=device, amp=amp,
        checkpoint=file, progress=False,
    )  # fmt: skip
    return model, history


@pytest.mark.parametrize("way", ["there", "back"])
def test_a_run_goes_on_on_another_device(way, device, tmp_path):
    """From the CPU to the device, or from the device to the CPU, and ends where the whole run does."""
    first, second = ("cpu", device) if way == "there" else (device, "cpu")
    trained(first, 2, tmp_path / "run.pt")
    model, history = trained(second, 4, tmp_path / "run.pt")
    whole, expected = trained("cpu", 4)
    assert len(history.rows) == 4
    assert next(model.parameters()).device.type == torch.device(second).type
    losses = [torch.tensor([row["loss"] for row in found.rows]) for found in (history, expected)]
    close(*losses, 5e-3)
    assert losses[1][-1] < losses[1][0]
    for ours, theirs in zip(model.parameters(), whole.parameters(), strict=True):
        close(ours, theirs, 2e-2)


def test_training_in_bfloat16_learns_as_much(device):
    half, full = trained(device, 3, amp=True)[1].rows, trained("cpu", 3)[1].rows
    assert half[-1]["loss"] == pytest.approx(full[-1]["loss"], rel=0.05)
    assert full[-1]["loss"] < full[0]["loss"]


def test_on_a_gpu_more_steps_make_no_more_waits(device):
    """`fit` looks at its losses once in 100 steps there; on a CPU before every step."""
    few, many = (waits(lambda size=size: trained(device, 1, batch_size=size), device) for size in (24, 4))
    assert many - few == (48 // 4 - 48 // 24 if device.type == "cpu" else 0)
