"""Time L2-CAF against plain forward passes and against the package grad-cam, as ratios within one run.

    python benchmarks/l2_caf_speed.py [--device cpu] [--json reproduce/results/l2_caf_speed_cpu.json]

GoogLeNet and SqueezeNet 1.1, and in part (f) ten networks of torchvision and timm, with random weights,
224 px. What is compared runs in turn, round after round, and a ratio is the median of the rounds' ratios, so
that other work on the machine counts on both sides. On a CPU whose cores are shared, --threads 1 is the
quieter choice.
"""

from __future__ import annotations

import contextlib
import copy
import io
import statistics
from collections.abc import Callable

import torch
from _timing import Calls, Row, arguments_of, in_turn, ratio, row, started, table, write
from pytorch_grad_cam import GradCAM, GradCAMPlusPlus, ScoreCAM
from pytorch_grad_cam.utils.model_targets import ClassifierOutputTarget
from torch import Tensor, nn
from torchvision.models import googlenet, squeezenet1_1

from helpers.backbones import load_backbone
from helpers.l2_caf import L2CAF

SIDE, BATCH, ALONE, STEPS = 224, 32, 4, 100
TARGETS = {"class-oblivious": None, "class-specific": 3}
NETWORKS = {
    "resnet50": "layer4", "densenet121": "features.norm5", "mobilenet_v2": "features",
    "efficientnet_b0": "features", "regnet_y_400mf": "trunk_output", "shufflenet_v2_x1_0": "conv5",
    "timm/efficientnet_lite0": "bn2", "timm/resnet18": "layer4", "timm/regnety_002": "final_conv",
    "timm/convnext_atto": "stages",
}  # fmt: skip
"""Of part (f), each with its last map."""
PACKAGE = {"Grad-CAM": GradCAM, "Grad-CAM++": GradCAMPlusPlus, "Score-CAM": ScoreCAM}
QUICK = {
    "SIDE": 64, "BATCH": 2, "ALONE": 2, "STEPS": 2,
    "PACKAGE": {"Grad-CAM": GradCAM, "Grad-CAM++": GradCAMPlusPlus},
    "NETWORKS": {"resnet18": "layer4", "timm/convnext_atto": "stages"},
}  # fmt: skip
"""The same in a trial; without Score-CAM, whose hundreds of forward passes no size makes fast."""


@torch.no_grad()
def forward(model: nn.Module, images: Tensor) -> Tensor:
    return model(images)


def packaged(method: str, model: nn.Module, layer: str, images: Tensor) -> Callable[[], object]:
    """A call of the package on a copy of the network, because its hooks stay on."""
    own = copy.deepcopy(model)
    cam = PACKAGE[method](own, [own.get_submodule(layer)])
    targets = [ClassifierOutputTarget(TARGETS["class-specific"])] * len(images)

    def call() -> object:
        with contextlib.redirect_stderr(io.StringIO()):  # its progress bar
            return cam(images, targets)

    return call


def exact_solver(model: nn.Module, images: Tensor, repeats: int, device: torch.device) -> list[Row]:
    """Parts (a), (b) and (c), and the package on the same single image."""
    caf, rows = L2CAF(model, "inception5b"), []
    if caf.solver != "exact":
        raise RuntimeError(f"the exact solver does not run: {caf.why_not_exact}")
    features = caf.features(images[:1])
    cached = {n: lambda t=t: caf.from_features(features, t) for n, t in TARGETS.items()}
    times = in_turn(cached, 4 * repeats, device)
    for name in TARGETS:
        milliseconds, least = 1e3 * statistics.median(times[name]), 1e3 * min(times[name])
        what = f"(a) one image, features cached, {name}"
        rows.append(row(what, "ms", milliseconds, "<= 10", least_ms=least))
    for part, count, limit in (("b", 1, "<= 1.2"), ("c", BATCH, "<= 1.1")):
        some = images[:count]
        calls: Calls = {"plain": lambda x=some: forward(model, x)}
        calls |= {n: lambda t=t, x=some: caf(x, t) for n, t in TARGETS.items()}
        if count == 1:
            calls |= {n: packaged(n, model, "inception5b", some) for n in ("Grad-CAM", "Grad-CAM++")}
        times = in_turn(calls, repeats if count == 1 else max(3, repeats // 3), device)
        plain = 1e3 * statistics.median(times["plain"])
        for name in list(calls)[1:]:
            ours = name in TARGETS
            what = f"({part if ours else 'e'}) whole call, batch {count}, {'L2-CAF ' if ours else ''}{name}"
            figure = ratio(times, name, "plain")
            rows.append(row(what, "x plain forward", figure, limit if ours else "", plain_ms=plain))
    return rows


def gradient_solver(model: nn.Module, images: Tensor, repeats: int, device: torch.device) -> list[Row]:
    """Part (d): a batch against one image at a time, per image."""
    caf = L2CAF(model, "inception5b", "gradient", max_iterations=STEPS, tolerance=0.0)
    features, rows = caf.features(images), []
    for name, target in TARGETS.items():
        calls: Calls = {
            "together": lambda t=target: caf.from_features(features, t),
            "alone": lambda t=target: [caf.from_features(f[None], t) for f in features[:ALONE]],
        }
        times = in_turn(calls, max(3, repeats // 3), device, warm_up=1)
        what = f"(d) gradient solver, {STEPS} iterations, batch {BATCH} against one at a time, {name}"
        each = {n: 1e3 * statistics.median(times[n]) / c for n, c in (("together", BATCH), ("alone", ALONE))}
        faster = ratio(times, "alone", "together", BATCH / ALONE)
        more = {"together_ms": each["together"], "alone_ms": each["alone"]}
        rows.append(row(what, "x faster per image", faster, ">= 5", **more))
    return [*rows, one_search(model, features[:1], repeats, device)]


def one_search(model: nn.Module, features: Tensor, repeats: int, device: torch.device) -> Row:
    """Part (g): the search to its end for one image and one class, which took the thesis 0.3 s on a GPU."""
    caf = L2CAF(model, "inception5b", "gradient", max_iterations=10 * STEPS)
    iterations = int(caf.from_features(features, TARGETS["class-specific"]).iterations[0])
    call = {"search": lambda: caf.from_features(features, TARGETS["class-specific"])}
    times = in_turn(call, max(3, repeats // 3), device, warm_up=1)["search"]
    what = "(g) one image, gradient solver to its end, features cached, class-specific"
    target = "<= 300" if device.type == "cuda" else ""
    return row(what, "ms", 1e3 * statistics.median(times), target, iterations=iterations)


def small_network(image: Tensor, repeats: int, device: torch.device) -> list[Row]:
    """Part (e) on SqueezeNet, whose ReLU before the pooling leaves L2-CAF only the gradient solver."""
    model = squeezenet1_1(weights=None).eval().to(device)
    caf = L2CAF(model, "features.12")
    calls: Calls = {"plain": lambda: forward(model, image)}
    calls |= {f"L2-CAF {n} ({caf.solver})": lambda t=t: caf(image, t) for n, t in TARGETS.items()}
    calls |= {n: packaged(n, model, "features.12", image) for n in PACKAGE}
    steps = {f"L2-CAF {n} ({caf.solver})": int(caf(image, t).iterations[0]) for n, t in TARGETS.items()}
    times = in_turn(calls, max(2, repeats // 5), device, warm_up=1)
    plain = 1e3 * statistics.median(times["plain"])
    rows = []
    for name in list(calls)[1:]:
        more = {"plain_ms": plain} | ({"iterations": steps[name]} if name in steps else {})
        rows.append(
            row(f"(e) SqueezeNet 1.1, {name}", "x plain forward", ratio(times, name, "plain"), **more)
        )
    return rows


def ten_networks(repeats: int, device: torch.device) -> list[Row]:
    """Part (f): the whole call on a batch, against a plain forward pass and against Grad-CAM."""
    rows = []
    for name, layer in NETWORKS.items():
        model = load_backbone(name, weights=None).network.to(device)
        caf = L2CAF(model, layer)
        exact = caf.solver == "exact"
        count = BATCH if exact else 1  # one map is enough to see what a search costs
        images = torch.randn(count, 3, SIDE, SIDE).to(device)
        ours = TARGETS if exact else {"search": TARGETS["class-specific"]}
        calls: Calls = {"plain": lambda m=model, x=images: forward(m, x)}
        calls |= {n: lambda c=caf, t=t, x=images: c(x, t) for n, t in ours.items()}
        calls["Grad-CAM"] = packaged("Grad-CAM", model, layer, images)
        times = in_turn(calls, max(2, repeats // 5), device, warm_up=1)
        limit, why = ("<= 1.2", {}) if exact else ("", {"why_not_exact": caf.why_not_exact})
        for call in ours:
            more = {"of_grad_cam": ratio(times, call, "Grad-CAM")} | why
            what = f"(f) {name}, batch {count}, {call}"
            rows.append(row(what, "x plain forward", ratio(times, call, "plain"), limit, **more))
        grad_cam = ratio(times, "Grad-CAM", "plain")
        rows.append(row(f"(f) {name}, batch {count}, Grad-CAM", "x plain forward", grad_cam))
    return rows


def main() -> None:
    arguments, device = started(arguments_of(__doc__, repeats=15))
    if arguments.quick:
        globals().update(QUICK)
        arguments.repeats = 1
    model = googlenet(weights=None, init_weights=False, aux_logits=False).eval().to(device)
    images = torch.randn(BATCH, 3, SIDE, SIDE).to(device)
    rows = exact_solver(model, images, arguments.repeats, device)
    rows += gradient_solver(model, images, arguments.repeats, device)
    rows += small_network(images[:1], arguments.repeats, device)
    rows += ten_networks(arguments.repeats, device)
    print(table(rows))
    if arguments.json:
        head = {
            "what": "L2-CAF: medians of milliseconds, and of ratios between calls that ran in turn",
            "networks": f"googlenet (inception5b), squeezenet1_1 (features.12), {len(NETWORKS)} more in (f)",
        }
        packages = ["torchvision", "timm", "grad-cam"]
        write(
            arguments.json,
            head,
            packages,
            device,
            repeats=arguments.repeats,
            quick=arguments.quick,
            rows=rows,
        )


if __name__ == "__main__":
    main()
