"""Attention maps of an ImageNet MobileNetV2 on birds with known boxes: L2-CAF against the others.

    python benchmarks/l2_caf_localisation.py --data FOLDER [--json PATH] [--markdown PATH]

FOLDER holds CUB_200_2011, photos and weights/mobilenet_v2_tfquant.pth (input scaled to [-1, 1]). The short
side of each photograph is resized to 224 px and the centre kept (--crop: less of it); boxes follow. All maps
are 7 x 7 at the last convolution, enlarged bilinearly, smallest value 0 and largest 1.
"""

from __future__ import annotations

import argparse
import json
import os
import textwrap
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from _timing import circumstances
from PIL import Image
from pytorch_grad_cam import GradCAM
from scipy import ndimage
from torch import Tensor, nn
from torch.nn.functional import cosine_similarity, interpolate
from torchvision.models import mobilenet_v2

from helpers.l2_caf import L2CAF
from helpers.tables import markdown_table
from helpers.training import pick_device

SIDE, BATCH, LAYER = 224, 32, "features.18"
WEIGHTS = "weights/mobilenet_v2_tfquant.pth"
THRESHOLDS = [round(0.05 * i, 2) for i in range(1, 20)]
CAM_THRESHOLD, OVERLAP = 0.2, 0.5
REFERENCE = {"pointing": 0.80, "IoU at 0.2": 0.75}
PHOTOS = {"dog_butterfly": (207, 323), "dog_ball": (242, 852)}


def load_network(data: Path, device: torch.device) -> nn.Module:
    model = mobilenet_v2()
    model.load_state_dict(torch.load(data / WEIGHTS, weights_only=True))
    return model.eval().to(device)


def pixels(image: Image.Image, box: tuple[float, float, float, float] | None = None) -> Tensor:
    """(3, SIDE, SIDE) in [-1, 1], of the whole image or of a box of it."""
    small = image.convert("RGB").resize((SIDE, SIDE), Image.Resampling.BILINEAR, box=box)
    return torch.from_numpy(np.array(small)).permute(2, 0, 1).float() / 127.5 - 1


def centre_square(path: Path, crop: float = 1.0) -> tuple[Tensor, tuple[float, float, float]]:
    """The centre, `crop` of the short side wide; its left and top edge; the factor to its pixels."""
    with Image.open(path) as image:
        short = crop * min(image.size)
        left, top = (image.width - short) / 2, (image.height - short) / 2
        return pixels(image, (left, top, left + short, top + short)), (left, top, SIDE / short)


def read_birds(data: Path) -> tuple[list[Path], np.ndarray]:
    """Photographs in the order of images.txt, and boxes x, y, width, height in pixels of the files."""
    folder = data / "CUB_200_2011"
    lines = [line.split() for line in (folder / "images.txt").read_text().splitlines()]
    sizes = [line.split() for line in (folder / "bounding_boxes.txt").read_text().splitlines()]
    boxes = {number: [float(v) for v in values] for number, *values in sizes}
    paths = [folder / "images" / name for _, name in lines]
    return paths, np.array([boxes[number] for number, _ in lines])


def clipped(box: np.ndarray, left: float, top: float, factor: float) -> np.ndarray:
    """The box as x1, y1, x2, y2 in pixels of the centre square."""
    x, y, width, height = box
    corners = np.array([x - left, y - top, x + width - left, y + height - top]) * factor
    return corners.clip(0, SIDE)


def shown(maps: Tensor) -> np.ndarray:
    """Maps (B, H, W) enlarged to (B, SIDE, SIDE), smallest value 0 and largest 1."""
    large = interpolate(maps[:, None], (SIDE, SIDE), mode="bilinear", align_corners=False)[:, 0]
    low, high = large.amin((1, 2), keepdim=True), large.amax((1, 2), keepdim=True)
    return ((large - low) / (high - low).clamp(min=1e-12)).cpu().numpy()


def centre_blob(count: int) -> np.ndarray:
    """A Gaussian in the middle, its deviation a quarter of the side."""
    axis = np.linspace(-2, 2, SIDE)
    blob = np.exp(-0.5 * (axis[:, None] ** 2 + axis**2))
    return np.repeat(blob[None], count, 0)


class Methods:
    """All maps of a batch of images, by name."""

    def __init__(self, model: nn.Module) -> None:
        self.model = model
        self.centred = L2CAF(model, LAYER)
        self.paper = L2CAF(model, LAYER, center_logits=False)
        if self.centred.solver != "exact":
            raise RuntimeError(f"the exact solver does not run: {self.centred.why_not_exact}")

    @torch.no_grad()
    def __call__(self, images: Tensor) -> tuple[dict[str, np.ndarray], Tensor]:
        """Maps (B, SIDE, SIDE) of each method, and the predicted classes (B,)."""
        features = self.centred.features(images)
        predicted = self.model.classifier(features.mean((2, 3))).argmax(1)
        size = tuple(images.shape[-2:])
        weights = self.model.classifier[-1].weight[predicted]
        cam = torch.einsum("bchw,bc->bhw", features, weights)
        oblivious = self.centred.from_features(features, image_size=size)
        paper = self.paper.from_features(features, predicted, image_size=size)
        centred = self.centred.from_features(features, predicted, image_size=size)
        maps = {
            "centre blob": centre_blob(len(images)),
            "mean activation": shown(features.mean(1)),
            "CAM": shown(cam),
            "CAM, positive part": shown(cam.clamp(0)),
            "Grad-CAM (package)": self._grad_cam(images),
            "L2-CAF class-oblivious, |f|": oblivious.heatmaps().cpu().numpy(),
            "L2-CAF class-specific, paper, |f|": paper.heatmaps().cpu().numpy(),
            "L2-CAF class-specific, paper, positive part": paper.heatmaps(sign="positive").cpu().numpy(),
            "L2-CAF class-specific, centred, |f|": centred.heatmaps().cpu().numpy(),
            "L2-CAF class-specific, centred, positive part": centred.heatmaps(sign="positive").cpu().numpy(),
        }
        return maps, predicted

    def _grad_cam(self, images: Tensor) -> np.ndarray:
        """The package's map of the predicted class, which is its default; its hooks go at the end."""
        with torch.enable_grad(), GradCAM(self.model, [self.model.get_submodule(LAYER)]) as cam:
            maps = cam(images, None)
        self.model.zero_grad()
        return maps


def box_of(heat: np.ndarray, threshold: float) -> np.ndarray:
    """x1, y1, x2, y2 around the largest connected part of a map above `threshold` of its maximum."""
    parts, count = ndimage.label(heat > threshold * heat.max())
    if not count:
        return np.zeros(4)
    largest = 1 + int(np.argmax(np.bincount(parts.ravel())[1:]))
    rows, columns = ndimage.find_objects(parts)[largest - 1]
    return np.array([columns.start, rows.start, columns.stop, rows.stop], dtype=float)


def overlap(one: np.ndarray, other: np.ndarray) -> float:
    """Intersection over union of two boxes."""
    sides = np.minimum(one[2:], other[2:]) - np.maximum(one[:2], other[:2])
    shared = float(np.prod(sides.clip(0)))
    union = float(np.prod(one[2:] - one[:2]) + np.prod(other[2:] - other[:2])) - shared
    return shared / union if union > 0 else 0.0


def score(heat: np.ndarray, box: np.ndarray) -> dict[str, Any]:
    """Pointing game, energy in the box, and whether the box at each threshold overlaps by more than half."""
    centre = np.arange(SIDE) + 0.5
    rows, columns = (centre > box[1]) & (centre < box[3]), (centre > box[0]) & (centre < box[2])
    inside = rows[:, None] & columns
    return {
        "pointing": bool(inside.ravel()[heat.argmax()]),
        "energy": float(heat[inside].sum() / max(heat.sum(), 1e-12)),
        "overlaps": [overlap(box_of(heat, t), box) > OVERLAP for t in THRESHOLDS],
    }


def summary(scores: Sequence[dict[str, Any]]) -> dict[str, float]:
    """Means over the images; the best threshold is chosen on even places and judged on odd ones."""
    overlaps = np.array([s["overlaps"] for s in scores], dtype=float)
    best = int(overlaps[::2].mean(0).argmax())
    return {
        "pointing": float(np.mean([s["pointing"] for s in scores])),
        "energy": float(np.mean([s["energy"] for s in scores])),
        "IoU at 0.2": float(overlaps[:, THRESHOLDS.index(CAM_THRESHOLD)].mean()),
        "IoU at 0.2, odd half": float(overlaps[1::2, THRESHOLDS.index(CAM_THRESHOLD)].mean()),
        "best threshold": THRESHOLDS[best],
        "IoU at best, odd half": float(overlaps[1::2, best].mean()),
    }


def measure_birds(
    methods: Methods, data: Path, device: torch.device, crop: float
) -> tuple[list[dict[str, Any]], int]:
    paths, boxes = read_birds(data)
    scores: dict[str, list[dict[str, Any]]] = {}
    for start in range(0, len(paths), BATCH):
        squares = [centre_square(path, crop) for path in paths[start : start + BATCH]]
        maps, _ = methods(torch.stack([image for image, _ in squares]).to(device))
        for i, (_, place) in enumerate(squares):
            box = clipped(boxes[start + i], *place)
            for name, heat in maps.items():
                scores.setdefault(name, []).append(score(heat[i], box))
        print(f"{min(start + BATCH, len(paths))} of {len(paths)} birds", flush=True)
    return [{"method": name} | summary(found) for name, found in scores.items()], len(paths)


def measure_photos(methods: Methods, data: Path, device: torch.device) -> list[dict[str, Any]]:
    """How alike the maps of two objects are, 1 for the same: signed, absolute, positive part."""
    rows = []
    for name, classes in PHOTOS.items():
        with Image.open(data / "photos" / f"{name}.jpg") as photo:
            image = pixels(photo)[None].to(device)
        for objective, caf in (("paper", methods.paper), ("centred", methods.centred)):
            one, other = caf(image, torch.tensor([classes])).filters[0].flatten(1)
            alike = {
                "signed": cosine_similarity(one, other, dim=0),
                "|f|": cosine_similarity(one.abs(), other.abs(), dim=0),
                "positive part": cosine_similarity(one.clamp(0), other.clamp(0), dim=0),
            }
            figures = {key: float(value) for key, value in alike.items()}
            rows.append({"photo": name, "classes": list(classes), "objective": objective} | figures)
    return rows


def page(
    birds: list[dict[str, Any]],
    count: int,
    photos: list[dict[str, Any]],
    where: dict[str, str],
    options: str,
) -> str:
    """The Markdown page, but for what a reader should notice, which is written by hand."""
    columns = list(birds[0])[1:]
    cells = [[r["method"], *(f"{r[c]:.2f}" if "thr" in c else f"{r[c]:.3f}" for c in columns)] for r in birds]
    pairs = [[r["photo"], r["objective"], *(f"{r[c]:.3f}" for c in list(r)[3:])] for r in photos]
    head = ["photograph", "objective", *list(photos[0])[3:]]
    expected = ", ".join(f"{name} {value:.2f}" for name, value in REFERENCE.items())
    parts = [
        "# L2-CAF and other maps on birds with boxes",
        "ImageNet MobileNetV2, last convolution, the predicted class where a method needs one. Share of "
        "images whose largest value lies in the bird's box (pointing), share of the map in the box (energy), "
        "and share of images with an IoU above 0.5 between the bird's box and the box around the largest "
        "connected part above a threshold. The best threshold is chosen on the even images and judged on the "
        "odd ones.",
        f"```\npython benchmarks/l2_caf_localisation.py --data FOLDER{options} \\\n"
        "  --json reproduce/results/l2_caf_localisation_cub.json \\\n"
        "  --markdown reproduce/results/l2_caf_localisation_cub.md\n```",
        ", ".join(f"{name} {value}" for name, value in where.items()) + ".",
        f"## {count} birds of CUB-200-2011\n\nReference for CAM: {expected}. A share has a standard error of "
        f"about {0.45 / count**0.5:.3f}, on the odd half {0.45 / (count / 2) ** 0.5:.3f}.",
        markdown_table(["method", *columns], cells),
        "## Two objects in one photograph\n\nCosine between the two class-specific filters: signed, "
        "absolute |f|, and positive part. 1 means the same map. The whole photograph is resized.",
        markdown_table(head, pairs),
    ]
    prose = [p if p[0] in "#`|" else textwrap.fill(p, 110) for p in "\n\n".join(parts).split("\n\n")]
    return "\n\n".join(prose) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", type=Path, default=os.environ.get("CTG_DATA"), help="default: CTG_DATA")
    parser.add_argument("--device", default=None, help="cuda, mps or cpu; the best present one by default")
    parser.add_argument("--threads", type=int, help="CPU threads; PyTorch's choice by default")
    parser.add_argument("--crop", type=float, default=1.0, help="0.875 is Resize 256, CenterCrop 224")
    parser.add_argument("--json", type=Path, help="also write all figures here")
    parser.add_argument("--markdown", type=Path, help="also write the page here; it replaces what is there")
    arguments = parser.parse_args()
    if not arguments.data:
        parser.error("name the folder of the data with --data, or in CTG_DATA")
    if arguments.threads:
        torch.set_num_threads(arguments.threads)
    device = pick_device(arguments.device)
    methods = Methods(load_network(arguments.data, device))
    birds, count = measure_birds(methods, arguments.data, device, arguments.crop)
    photos = measure_photos(methods, arguments.data, device)
    where = circumstances(["torchvision", "grad-cam"], device)
    given = {name: getattr(arguments, name) for name in ("device", "threads", "crop")}
    options = "".join(f" --{name} {value}" for name, value in given.items() if value)
    text = page(birds, count, photos, where, options)
    print(text)
    report = where | {
        "crop": arguments.crop,
        "reference": REFERENCE,
        "images": count,
        "birds": birds,
        "photos": photos,
    }
    for path, content in ((arguments.json, json.dumps(report, indent=1) + "\n"), (arguments.markdown, text)):
        if path:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(content, encoding="utf-8")


if __name__ == "__main__":
    main()
