"""Exercises as empty stubs: unanswered they stop nothing, their folded solution passes, mistakes are told."""

from __future__ import annotations

import ast
import dis
import re
import textwrap
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from types import CodeType, SimpleNamespace
from typing import Any

import nbformat
import numpy as np
import pytest
from nbformat import NotebookNode
from nbformat.v4 import new_code_cell, new_notebook
from notebook_hygiene import RULES, committed_notebooks

from helpers.exercises import NOT_ANSWERED

SAME = """
    same = labels[:, None] == labels
    positive = same & ~torch.eye(len(labels), dtype=torch.bool)
    distances = torch.cdist(embeddings, embeddings).square()
    farthest = torch.where(positive, distances, -torch.inf).amax(1)
    nearest = torch.where(same, torch.inf, distances).amin(1)
"""
FARTHER = """
    negative = labels != labels[positive]
    far = negative & (distances > distances[positive])
"""
ALONE = "alone = torch.stack([values[1, 0, 0], values[0, 1, 0], values[0, 0, 1]]) - values[0, 0, 0]"
LEFT_OUT = "left_out = values[1, 1, 1] - torch.stack([values[0, 1, 1], values[1, 0, 1], values[1, 1, 0]])"

# (notebook, grade_id) -> mistake -> (code in place of the dots, what the check says)
WRONG: dict[tuple[str, str], dict[str, tuple[str, str]]] = {
    ("01_introduction", "ex-recall"): {
        "a row finds itself": (
            """
            nearest = torch.cdist(embeddings, embeddings).topk(k, largest=False).indices
            return (labels[nearest] == labels[:, None]).any(1).float().mean().item()
            """,
            r"case 1: expected 0\.\d+, you say 1\. No row finds itself",
        ),
        "the share of neighbours that are right": (
            """
            distances = torch.cdist(embeddings, embeddings).fill_diagonal_(torch.inf)
            nearest = distances.topk(k, largest=False).indices
            return (labels[nearest] == labels[:, None]).float().mean().item()
            """,
            r"case 2: expected 0\.\d+, you say 0\.\d+\. .*one right row of K is enough",
        ),
        "the farthest": (
            """
            nearest = torch.cdist(embeddings, embeddings).topk(k).indices
            return (labels[nearest] == labels[:, None]).any(1).float().mean().item()
            """,
            r"case \d: expected 0\.\d+, you say 0\.\d+\. No row finds itself",
        ),
        "cosine in the place of the distance": (
            """
            unit = F.normalize(embeddings)
            nearest = (unit @ unit.T).fill_diagonal_(-torch.inf).topk(k).indices
            return (labels[nearest] == labels[:, None]).any(1).float().mean().item()
            """,
            r"case \d: expected 0\.\d+, you say 0\.\d+\. No row finds itself",
        ),
    },
    ("01_introduction", "ex-active"): {
        "the share that is active": (
            """
            found = triplets(rows, labels, margin=margin)
            return (found > 0).float().mean().item()
            """,
            r"case 1: expected \d\.\d+, you say 0\.\d+\. Both means have the same sum",
        ),
        "nothing active": (
            """
            found = triplets(rows, labels, margin=margin)
            return len(found) / max((found > 0).sum().item(), 1)
            """,
            r"case \d: expected 1, you say \d+\. Both means have the same sum",
        ),
        "the semi-hard ones": (
            """
            found = triplets(rows, labels, "semi-hard", margin)
            active = (found > 0).sum().item()
            return len(found) / active if active else 1.0
            """,
            r"case \d: expected \d[.\d]*, you say \d[.\d]*\. Both means have the same sum",
        ),
    },
    ("01_introduction", "ex-control"): {
        "proxies": ("'a'", "Not 'a': it keeps the landmarks and changes the length"),
        "N-pair, clipped": ("'b'", "Not 'b': it takes the landmarks away"),
    },
    ("01_introduction", "ex-blank"): {
        "not trained": ("'a'", "Not 'a': it is blank for every network"),
        "parts that cancel": ("'c'", "Not 'c': sums that cancel leave a map"),
    },
    ("02_knowledge_evolution", "ex-share"): {
        "the square of the rate everywhere": (
            "return rate**2",
            r"case 1: expected 0\.28\d+, you say 0\.25\. All inputs of the first layer",
        ),
        "cuts the inputs of the first layer": (
            """
            kept = [*(math.ceil(rate * w) for w in widths[:-1]), widths[-1]]
            stays = sum(a * b for a, b in zip(kept, kept[1:]))
            return stays / sum(a * b for a, b in zip(widths, widths[1:]))
            """,
            r"case \d: expected [\d.]+, you say [\d.]+\. All inputs of the first layer",
        ),
        "cuts the classes": (
            """
            kept = [widths[0], *(math.ceil(rate * w) for w in widths[1:])]
            stays = sum(a * b for a, b in zip(kept, kept[1:]))
            return stays / sum(a * b for a, b in zip(widths, widths[1:]))
            """,
            r"case 1: expected [\d.]+, you say [\d.]+\. All inputs .* all classes stay",
        ),
        "rounds down": (
            """
            kept = [widths[0], *(int(rate * w) for w in widths[1:-1]), widths[-1]]
            stays = sum(a * b for a, b in zip(kept, kept[1:]))
            return stays / sum(a * b for a, b in zip(widths, widths[1:]))
            """,
            r"case 2: expected [\d.]+, you say [\d.]+\. .* round up",
        ),
    },
    ("02_knowledge_evolution", "ex-concat"): {
        "the first channels of the whole row": (
            "return torch.arange(sum(widths)) < math.ceil(rate * sum(widths))",
            r"(?s)case 1: expected tensor.*The first of each block",
        ),
        "rounds down": (
            "return torch.cat([torch.arange(w) < int(rate * w) for w in widths])",
            r"(?s)case 2: expected tensor.*The first of each block",
        ),
        "the last channels of each block": (
            "return torch.cat([torch.arange(w) >= w - math.ceil(rate * w) for w in widths])",
            r"(?s)case 1: expected tensor.*The first of each block",
        ),
        "positions instead of a mask": (
            "return torch.cat([torch.arange(math.ceil(rate * w)) for w in widths])",
            r"case 1: expected shape \(8,\), you return \(4,\)",
        ),
    },
    ("02_knowledge_evolution", "ex-control"): {
        "the long run": ("'a'", "Not 'a': it differs in the reset and in the schedule"),
        "slim from scratch": ("'c'", "Not 'c': it says whether generations are needed"),
    },
    ("02_knowledge_evolution", "ex-met"): {
        "the first time": (
            """
            near = [g for g, (d, s) in enumerate(zip(dense, slim), 1) if d - s <= margin]
            return near[0] if near else 0
            """,
            r"case 3: expected 4, you say 2\. All later generations count",
        ),
        "counts from 0": (
            """
            far = [g for g, (d, s) in enumerate(zip(dense, slim)) if d - s > margin]
            return max(far, default=-1) + 1
            """,
            r"case 1: expected 3, you say 2\. All later generations count",
        ),
        "better than dense counts as far": (
            """
            far = [g for g, (d, s) in enumerate(zip(dense, slim), 1) if abs(d - s) > margin]
            last = max(far, default=0)
            return last + 1 if last < len(dense) else 0
            """,
            r"case 2: expected 1, you say 0\. All later generations count",
        ),
        "never is one more": (
            """
            far = [g for g, (d, s) in enumerate(zip(dense, slim), 1) if d - s > margin]
            return max(far, default=0) + 1
            """,
            r"case 4: expected 0, you say 2\. All later generations count",
        ),
        "the margin itself counts as far": (
            """
            far = [g for g, (d, s) in enumerate(zip(dense, slim), 1) if d - s >= margin]
            last = max(far, default=0)
            return last + 1 if last < len(dense) else 0
            """,
            r"case 5: expected 1, you say 0\. All later generations count; margin itself is allowed",
        ),
    },
    ("03_svmax", "ex-piles"): {
        "the same spot": ("'a'", "Not 'a': all rows are equal"),
        "opposite": ("'b'", "Not 'b': opposite rows lie on one line"),
    },
    ("03_svmax", "ex-bounds"): {
        "divides by d everywhere, as the released code": (
            "r = min(b, d)\nreturn b**0.5 / d, (r * b) ** 0.5 / d",
            r"case 3, value 1: expected 0\.44\d+, you say 0\.05\d+\. The mean runs over",
        ),
        "max for min": (
            "r = max(b, d)\nreturn b**0.5 / r, (b / r) ** 0.5",
            r"case 1, value 1: expected 0\.09\d+, you say 0\.08\d+\. The mean runs over",
        ),
        "no square root in the ceiling": (
            "r = min(b, d)\nreturn b**0.5 / r, b / r",
            r"case 1, value 2: expected 1\.06\d+, you say 1\.125\. The mean runs over",
        ),
        "no square root in the floor": (
            "r = min(b, d)\nreturn b / r, (b / r) ** 0.5",
            r"case 1, value 1: expected 0\.09\d+, you say 1\.125\. The mean runs over",
        ),
    },
    ("03_svmax", "ex-rank"): {
        "squared singular values": (
            "s = torch.linalg.svdvals(svmax.unit_rows(embeddings)).square()\n"
            "return torch.special.entr(s / s.sum()).sum().exp().item()",
            r"case 3: expected [\d.]+, you say [\d.]+\. Unit rows; shares of the values",
        ),
        "rows as they are": (
            "s = torch.linalg.svdvals(embeddings)\nreturn torch.special.entr(s).sum().exp().item()",
            r"case 1: expected 4, you say [\d.e-]+\. Unit rows; shares of the values",
        ),
        "rows of any length": (
            "s = torch.linalg.svdvals(embeddings)\nreturn torch.special.entr(s / s.sum()).sum().exp().item()",
            r"case 4: expected [\d.]+, you say [\d.]+\. Unit rows; shares of the values",
        ),
        "counts the values above 0": (
            "return float((torch.linalg.svdvals(embeddings) > 1e-9).sum())",
            r"case 3: expected [\d.]+, you say 3\. Unit rows; shares of the values",
        ),
        "no number": (
            "s = torch.linalg.svdvals(svmax.unit_rows(embeddings))\n"
            "return torch.special.entr(s / s.sum()).sum().exp()",
            r"case 1: expected the type float, you return Tensor; \.item\(\)",
        ),
    },
    ("03_svmax", "ex-spread"): {
        "all pairs": (
            "rows = svmax.unit_rows(embeddings)\ndots = rows @ rows.T\n"
            "return dots.mean().square() + F.relu(dots.square().mean() - 1 / rows.shape[1])",
            r"case 1: expected [\d.e-]+, you say [\d.e-]+\. Unit rows; pairs of different classes",
        ),
        "rows as they are": (
            "dots = (embeddings @ embeddings.T)[labels[:, None] != labels]\n"
            "return dots.mean().square() + F.relu(dots.square().mean() - 1 / embeddings.shape[1])",
            r"case 1: expected [\d.e-]+, you say [\d.e-]+\. Unit rows; pairs of different classes",
        ),
        "below 1/D counts too": (
            "rows = svmax.unit_rows(embeddings)\ndots = (rows @ rows.T)[labels[:, None] != labels]\n"
            "return dots.mean().square() + dots.square().mean() - 1 / rows.shape[1]",
            r"case \d: expected [\d.e-]+, you say [\d.e-]+\. Unit rows; pairs of different classes",
        ),
        "nothing subtracted": (
            "rows = svmax.unit_rows(embeddings)\ndots = (rows @ rows.T)[labels[:, None] != labels]\n"
            "return dots.mean().square() + dots.square().mean()",
            r"case 1: expected [\d.e-]+, you say [\d.e-]+\. Unit rows; pairs of different classes",
        ),
    },
    ("04_l2_caf", "ex-centred"): {
        "the paper's loss": (
            "contrast = 2 * cams[asked] - cams.sum(0)\nreturn contrast / contrast.norm()",
            r"(?s)case 1: expected tensor.*Compare with the mean over the classes",
        ),
        "the CAM alone": (
            "return cams[asked] / cams[asked].norm()",
            r"(?s)case 1: expected tensor.*Compare with the mean over the classes",
        ),
        "the wrong sign": (
            "contrast = cams.mean(0) - cams[asked]\nreturn contrast / contrast.norm()",
            r"(?s)case 1: expected tensor.*Compare with the mean over the classes",
        ),
        "not of length 1": (
            "return cams[asked] - cams.mean(0)",
            r"(?s)case 1: expected tensor.*divide by the length",
        ),
    },
    ("04_l2_caf", "ex-forget"): {
        "each its own": ("'a'", "Not 'a': look at the left columns"),
        "the negative": ("'c'", "Not 'c': a sign would need"),
    },
    ("04_l2_caf", "ex-control"): {
        "the other twin": ("'a'", "Not 'a': it would tell: same pictures"),
        "a random twin": ("'b'", "Not 'b': it would tell: its head has no reason"),
    },
    ("04_l2_caf", "ex-pairs"): {
        "not divided": (
            "return (head @ one).T @ (head @ other)",
            r"(?s)case 1: expected tensor.*head @ one is \(D, P\)",
        ),
        "the other way round": (
            "return (head @ other / other.shape[1]).T @ (head @ one / one.shape[1])",
            r"case 1: expected shape \(4, 2\), you return \(2, 4\)",
        ),
        "the whole dot product": (
            "return (head @ one).mean(1) @ (head @ other).mean(1)",
            r"case 1: expected shape \(4, 2\), you return \(\)",
        ),
    },
    ("05_two_head", "ex-negative"): {
        "a hard negative": (
            "return torch.where(labels != labels[positive], distances, torch.inf).argmin().item()",
            r"case 2: expected 3, you say 2\. The nearest of those strictly farther",
        ),
        "always the farthest": (
            "return torch.where(labels != labels[positive], distances, -torch.inf).argmax().item()",
            r"case 1: expected 2, you say 5\. The nearest of those strictly farther",
        ),
        "any image that is farther": (
            "return torch.where(distances > distances[positive], distances, torch.inf).argmin().item()",
            r"case 7: expected 5, you say 4\. The nearest of those strictly farther",
        ),
        "as far counts as farther": (
            f"{FARTHER.replace('> d', '>= d')}    if far.any():\n"
            "        return torch.where(far, distances, torch.inf).argmin().item()\n"
            "    return torch.where(negative, distances, -torch.inf).argmax().item()",
            r"case \d: expected \d, you say \d\. The nearest of those strictly farther",
        ),
        "nothing where none is farther": (
            f"{FARTHER}    return torch.where(far, distances, torch.inf).argmin().item()",
            r"case 8: expected 5, you say 0\. The nearest of those strictly farther",
        ),
        "no number": (
            "return torch.where(labels != labels[positive], distances, torch.inf).argmin()",
            r"case 1: expected the type int, you return Tensor; \.item\(\)",
        ),
    },
    ("05_two_head", "ex-hard"): {
        "the nearest positive": (
            f"{SAME}    closest = torch.where(positive, distances, torch.inf).amin(1)\n"
            "    return F.softplus(closest - nearest)[positive.any(1)].mean()",
            r"case 1: expected [\d.]+, you say [\d.]+\. D is squared",
        ),
        "the farthest negative": (
            f"{SAME}    far = torch.where(same, -torch.inf, distances).amax(1)\n"
            "    return F.softplus(farthest - far)[positive.any(1)].mean()",
            r"case 1: expected [\d.]+, you say [\d.]+\. D is squared",
        ),
        "all anchors, with a positive or without": (
            f"{SAME}    return F.softplus(farthest - nearest).mean()",
            r"case 2: expected [\d.]+, you say [\d.]+\. D is squared",
        ),
        "distances not squared": (
            f"{SAME}    return F.softplus(farthest.sqrt() - nearest.sqrt())[positive.any(1)].mean()",
            r"case 1: expected [\d.]+, you say [\d.]+\. D is squared",
        ),
        "a number for each anchor": (
            f"{SAME}    return F.softplus(farthest - nearest)[positive.any(1)]",
            r"case 1: expected shape \(\), you return \(7,\)\. D is squared",
        ),
        "no gradient": (
            f"{SAME}    return F.softplus(farthest - nearest)[positive.any(1)].mean().detach()",
            r"case 1: the value is right, but no gradient flows\.",
        ),
        "the gradient of something else": (
            f"{SAME}    value = F.softplus(farthest - nearest)[positive.any(1)].mean()\n"
            "    return value.detach() + 0 * embeddings.sum()",
            r"case 1: the value is right, the gradient: expected tensor",
        ),
    },
    ("05_two_head", "ex-macro"): {
        "absent classes count as wrong": (
            """
            hits = (predicted == labels).double()
            right = torch.bincount(labels, weights=hits)
            return hits.mean().item(), (right / torch.bincount(labels).clamp(min=1)).mean().item()
            """,
            r"case 2, value 2: expected 0\.5, you say 0\.125\. Macro weighs all classes that occur",
        ),
        "shares of what was predicted": (
            """
            hits = (predicted == labels).double()
            count, right = torch.bincount(predicted), torch.bincount(predicted, weights=hits)
            return hits.mean().item(), (right / count)[count > 0].mean().item()
            """,
            r"case \d, value 2: expected [\d.]+, you say [\d.]+\. Macro",
        ),
        "macro first": (
            """
            hits = (predicted == labels).double()
            count, right = torch.bincount(labels), torch.bincount(labels, weights=hits)
            return (right / count)[count > 0].mean().item(), hits.mean().item()
            """,
            r"case \d, value 1: expected [\d.]+, you say [\d.]+\. Macro",
        ),
        "micro alone": (
            "return (predicted == labels).double().mean().item()",
            "case 1: expected the type tuple, you return float",
        ),
    },
    ("05_two_head", "ex-leak"): {
        "the pooled head": ("'a'", "Not 'a': if it does as well, the map is not needed"),
        "the copied map": ("'c'", "Not 'c': it removes the un-averaged map"),
    },
    ("04_losses", "ex-active"): {
        "the mean over all triplets": (
            """
            terms, triplets = triplet_terms(embeddings, labels)
            return terms[triplets].mean()
            """,
            r"case 1: expected [\d.]+, you say [\d.]+\. Triplets, above zero",
        ),
        "what is no triplet counts": (
            """
            terms, triplets = triplet_terms(embeddings, labels)
            return terms.sum() / (terms > 0).sum().clamp(min=1)
            """,
            r"case 1: expected [\d.]+, you say [\d.]+\. Triplets, above zero",
        ),
        "the mean of nothing": (
            """
            terms, triplets = triplet_terms(embeddings, labels)
            return terms[triplets & (terms > 0)].mean()
            """,
            r"case 3: expected 0, you say nan\. .* where there is none, 0",
        ),
    },
    ("04_losses", "ex-log"): {
        "converged": ("'a'", "Not 'a': noisy labels leave a few triplets active"),
        "too small": ("'c'", "Not 'c': distances that are merely bad scatter"),
    },
    ("04_losses", "ex-weights"): {
        "forgets the 1": (
            "return (beta * (similarities - base)).softmax(0)",
            r"(?s)case 1: expected tensor.*over the sum of all of them and 1",
        ),
        "each negative alone": (
            "return (beta * (similarities - base)).sigmoid()",
            r"(?s)case 1: expected tensor.*over the sum of all of them and 1",
        ),
        "forgets the base": (
            """
            exponents = torch.cat([beta * similarities, similarities.new_zeros(1)])
            return exponents.softmax(0)[:-1]
            """,
            r"(?s)case 1: expected tensor.*Each exponential",
        ),
        "the weight of the 1 as well": (
            """
            exponents = beta * (similarities - base)
            return torch.cat([exponents, exponents.new_zeros(1)]).softmax(0)
            """,
            r"case 1: expected shape \(4,\), you return \(5,\)",
        ),
    },
    ("03_feature_augmentation", "ex-order"): {
        "divides at every factor": (
            """
            result = torch.ones(len(x), matrices.shape[2])
            for matrix in matrices:
                result = result * (x @ matrix) / matrices.shape[2] ** 0.5
            return result
            """,
            r"(?s)case 2: expected tensor.*divided once by the root of F",
        ),
        "a power of one factor": (
            "return (x @ matrices[0]) ** len(matrices) / matrices.shape[2] ** 0.5",
            r"(?s)case 2: expected tensor.*k products in all",
        ),
        "no root": (
            "return torch.stack([x @ w for w in matrices]).prod(0) / matrices.shape[2]",
            r"(?s)case 1: expected tensor.*the root of F",
        ),
        "adds": (
            "return torch.stack([x @ w for w in matrices]).sum(0) / matrices.shape[2] ** 0.5",
            r"(?s)case 2: expected tensor.*k products in all",
        ),
    },
    ("03_feature_augmentation", "ex-gem"): {
        "forgets the root": (
            """
            if p == float("inf"):
                return maps.amax((2, 3))
            return maps.pow(p).mean((2, 3))
            """,
            r"(?s)case 2: expected tensor.*A mean of powers, then the root",
        ),
        "a sum": (
            """
            if p == float("inf"):
                return maps.amax((2, 3))
            return maps.pow(p).sum((2, 3)).pow(1 / p)
            """,
            r"(?s)case 1: expected tensor.*A mean of powers",
        ),
        "the limit by a power": (
            "return maps.pow(p).mean((2, 3)).pow(1 / p)",
            r"(?s)case 3: expected tensor.*A mean of powers",
        ),
        "over the channels": (
            "return maps.amax(1) if p == float('inf') else maps.pow(p).mean(1).pow(1 / p)",
            r"case 1: expected shape \(2, 3\), you return \(2, 4, 5\)",
        ),
    },
    ("03_feature_augmentation", "ex-match"): {
        "as released": ("return released(old, new, count)", r"(?s)case 2: expected tensor.*Rows are new"),
        "not at all": ("return new", r"(?s)case 1: expected tensor.*Rows are new clusters"),
        "cheats": ("return old * 0", r"(?s)case 1: expected tensor.*Rows are new clusters"),
        "nothing new": ("return old", r"(?s)case 4: expected tensor.*Rows are new clusters"),
        "one by one": (
            "shared = torch.bincount(new * count + old, minlength=count**2).view(count, count)\n"
            "return shared.argmax(1)[new]",
            r"(?s)case 5: expected tensor.*Rows are new clusters",
        ),
    },
    ("06_closing_the_gap", "ex-touch"): {
        "longer training": ("'a'", "Not 'a': both would still differ in the loss and in the map"),
        "as many weights": ("'b'", "Not 'b': weights are equal then"),
    },
    ("06_closing_the_gap", "ex-factorial"): {
        "main effects instead of each alone": (
            f"""
            alone = torch.stack([torch.diff(values, dim=i).mean((0, 1, 2)) for i in range(3)])
            {LEFT_OUT}
            return alone, left_out, values[1, 1, 1] - values[0, 0, 0] - alone.sum(0)
            """,
            r"(?s)case 1, value 1: expected tensor.*Alone: against none",
        ),
        "the sign of left out": (
            f"""
            {ALONE}
            {LEFT_OUT}
            return alone, -left_out, values[1, 1, 1] - values[0, 0, 0] - alone.sum(0)
            """,
            r"(?s)case 1, value 2: expected tensor.*all minus all but one",
        ),
        "the surplus forgets what there was without tools": (
            f"""
            {ALONE}
            {LEFT_OUT}
            return alone, left_out, values[1, 1, 1] - alone.sum(0)
            """,
            r"(?s)case 1, value 3: expected tensor.*Alone: against none",
        ),
        "means over seeds": (
            f"""
            {ALONE}
            {LEFT_OUT}
            surplus = values[1, 1, 1] - values[0, 0, 0] - alone.sum(0)
            return alone.mean(1), left_out.mean(1), surplus.mean()
            """,
            r"case 1, value 1: expected shape \(3, 3\), you return \(3,\)",
        ),
    },
    ("06_closing_the_gap", "ex-margin"): {
        "not significantly worse": (
            "span = claims.paired_interval(differences)\nreturn span.high > 0, span.high < -delta",
            r"case \d, value 1: expected \w+, you say \w+\. Compare both ends with minus delta",
        ),
        "the mean alone": (
            "mean = claims.paired_interval(differences).mean\nreturn mean > -delta, mean < -delta",
            r"case 4, value 1: expected 0, you say 1\. Compare both ends",
        ),
        "must be better than dense": (
            "span = claims.paired_interval(differences)\nreturn span.low > 0, span.high < 0",
            r"case \d, value \d: expected \w+, you say \w+\. Compare both ends",
        ),
        "never open": (
            "span = claims.paired_interval(differences)\nreturn span.low > -delta, not span.low > -delta",
            r"case 4, value 2: expected 0, you say 1\. Compare both ends",
        ),
        "the extremes": (
            "return min(differences) > -delta, max(differences) < -delta",
            r"case 6, value 1: expected 0, you say 1\. Compare both ends",
        ),
        "equal": (
            "span = claims.paired_interval(differences)\n"
            "return span.low > -delta and span.high < delta, span.high < -delta",
            r"case 5, value 1: expected 1, you say 0\. Compare both ends",
        ),
        "as if seeds were many": (
            "span = claims.paired_interval(differences)\nreach = 1.96 * span.se\n"
            "return span.mean - reach > -delta, span.mean + reach < -delta",
            r"case 6, value 1: expected 0, you say 1\. Compare both ends",
        ),
    },
    ("05_evaluation", "ex-r"): {
        "the first R - 1 places": (
            """
            R, place = hits.sum(1), torch.arange(1, hits.shape[1] + 1)
            return (hits & (place < R[:, None])).sum(1) / R
            """,
            r"(?s)case 1: expected tensor.*R differs from row to row",
        ),
        "ten places for every row": (
            "return hits[:, :10].float().mean(1)",
            r"(?s)case 2: expected tensor.*R differs from row to row",
        ),
        "the mean over all places": (
            "return hits.float().mean(1)",
            r"(?s)case 1: expected tensor.*R differs from row to row",
        ),
        "MAP@R": (
            "return map_at_r(hits)",
            r"(?s)case 1: expected tensor.*R differs from row to row",
        ),
    },
    ("05_evaluation", "ex-leak"): {
        "an honest margin": ("'a'", "Not 'a': an honest margin does not mend the epoch"),
        "the mean of five": ("'c'", "Not 'c': five gifts have a mean"),
        "fixed after a look": ("'d'", "Not 'd': a number read off the test curve"),
    },
    ("06_teachers_and_library", "ex-relative"): {
        "the diagonal counts": (
            "return (torch.cdist(student, student) - torch.cdist(teacher, teacher)).abs().mean()",
            r"case 1: expected [\d.]+, you say [\d.]+\. B \(B - 1\) pairs",
        ),
        "without the absolute value": (
            """
            gaps = torch.cdist(student, student) - torch.cdist(teacher, teacher)
            return gaps.sum() / (len(gaps) * (len(gaps) - 1))
            """,
            r"case 1: expected [\d.]+, you say -?[\d.]+\. B \(B - 1\) pairs",
        ),
        "the released norm": (
            "return (torch.cdist(student, student) - torch.cdist(teacher, teacher)).norm()",
            r"case 1: expected [\d.]+, you say [\d.]+\. B \(B - 1\) pairs",
        ),
        "squared gaps": (
            """
            gaps = torch.cdist(student, student) - torch.cdist(teacher, teacher)
            return gaps.square().sum() / (len(gaps) * (len(gaps) - 1))
            """,
            r"case 1: expected [\d.]+, you say [\d.]+\. B \(B - 1\) pairs",
        ),
    },
    ("06_teachers_and_library", "ex-part"): {
        "nothing": ("'a'", "Not 'a': PML's default distance scales every row"),
        "the loss alone": ("'b'", "Not 'b': the miner would go on"),
        "the reducer": ("'d'", "Not 'd': a reducer only sees terms"),
    },
    ("01_architectures", "ex-deep"): {
        "overfitting": ("'a'", "Not 'a': an overfitted network has few training errors"),
        "vanishing gradients": ("'c'", "Not 'c': batch norm keeps them from vanishing"),
    },
    ("01_architectures", "ex-separable"): {
        "the mixing forgotten": (
            "return 1 / out",
            r"case 1: expected 0\.\d+, you say 0\.\d+\. Depthwise has one filter a channel",
        ),
        "the input's channels": (
            "return 1 / channels + 1 / kernel**2",
            r"case 1: expected 0\.\d+, you say 0\.\d+\. .*the mixing has no k",
        ),
        "what is saved": (
            "return 1 - 1 / out - 1 / kernel**2",
            r"case 1: expected 0\.\d+, you say 0\.\d+\. Depthwise has one filter a channel",
        ),
    },
    ("01_architectures", "ex-compound"): {
        "width counted once": (
            "return 1.2**phi, 1.1**phi, 1.15**phi, (1.2 * 1.1 * 1.15**2) ** phi",
            r"case 1, value 4: expected 1\.92\d+, you say 1\.74\d+\. Width counts twice",
        ),
        "times instead of powers": (
            "d, w, r = 1.2 * phi, 1.1 * phi, 1.15 * phi\nreturn d, w, r, d * w**2 * r**2",
            r"case 2, value 1: expected 1\.44, you say 2\.4",
        ),
    },
    ("02_optimisation", "ex-decay"): {
        "decay in the gradient": (
            "return adam(theta, gradient + decay * theta, (0, 0, 0), rate)[0]",
            r"(?s)case 1: expected tensor.*the decay is no part of the gradient",
        ),
        "not scaled by the rate": (
            "return adam((1 - decay) * theta, gradient, (0, 0, 0), rate)[0]",
            r"(?s)case 1: expected tensor.*Shrink by the rate times the decay",
        ),
        "the memory too": (
            "return adam((1 - rate * decay) * theta, gradient, (0, 0, 0), rate)",
            "case 1: expected the type Tensor, you return tuple",
        ),
    },
    ("02_optimisation", "ex-cycles"): {
        "halves the low rate": (
            "return triangle(t, s, low, high) / 2 ** (math.floor(1 + t / (2 * s)) - 1)",
            r"case 3: expected [\d.]+, you say [\d.]+\. .*the low rate stays",
        ),
        "halves at once": (
            "return triangle(t, s, low, low + (high - low) / 2 ** math.floor(1 + t / (2 * s)))",
            r"case 1: expected [\d.]+, you say [\d.]+\. What lies above the low rate",
        ),
        "never halves": (
            "return triangle(t, s, low, high)",
            r"case 3: expected [\d.]+, you say [\d.]+\. What lies above the low rate",
        ),
    },
    ("02_optimisation", "ex-mean"): {
        "no mean works": ("'a'", "Not 'a': then no mean would work"),
        "valleys": ("'c'", "Not 'c': between valleys the loss is high"),
    },
}
RIGHT = {
    ("01_introduction", "ex-control"): "'c'",
    ("01_introduction", "ex-blank"): "'b'",
    ("02_knowledge_evolution", "ex-control"): "'b'",
    ("03_svmax", "ex-piles"): "'c'",
    ("04_l2_caf", "ex-forget"): "'b'",
    ("04_l2_caf", "ex-control"): "'c'",
    ("05_two_head", "ex-leak"): "'b'",
    ("04_losses", "ex-log"): "'b'",
    ("06_closing_the_gap", "ex-touch"): "'c'",
    ("05_evaluation", "ex-leak"): "'b'",
    ("06_teachers_and_library", "ex-part"): "'c'",
    ("01_architectures", "ex-deep"): "'b'",
    ("02_optimisation", "ex-mean"): "'b'",
}
SHARES = {"softmax": 0.6, "centre": 0.5, "semi-hard": 0.4, "batch-hard": 0.1, "triplet-centre": 0.2}
ARMS = {"SVMax": 0.4, "violating pairs": 0.3, "spread-out": 0.2, "nothing": 0.1}
UNSEEN = {"softmax": 0.2, "semi-hard": 0.5, "second softmax": 0.4, "pooled head": 0.3}
SPECIALISTS = {"softmax": 0.2, "softmax, un-pooled": 0.4, "triplet": 0.5, "triplet, pooled": 0.3}
LENGTHS = {"one generation": 0.1, "KE": 0.3, "restarts": 0.4, "long run": 0.5, "slim from scratch": 0.2}
STUDENTS = {"student alone": 0.2, "absolute": 0.5, "relative": 0.4, "untaught teacher": 0.3}
LOSSES = {"contrastive": 0.3, "softmax": 0.5, "Multi-Similarity": 0.4, "HORDE": 0.2}
NUMBERS = {
    "losses": LOSSES,
    "students": STUDENTS,
    "modes": SHARES, "arms": UNSEEN, "images": LENGTHS, "contrastive": ARMS, "gap": SPECIALISTS,
}  # fmt: skip


def kept(sweep: str) -> SimpleNamespace:
    """In place of a kept run: the numbers above, the same in both of two seeds."""
    numbers = NUMBERS.get(sweep, UNSEEN)
    arms = [SimpleNamespace(name=name) for name in numbers]
    found = SimpleNamespace(
        arms=arms, values=lambda arm, metric: np.full(2, numbers[getattr(arm, "name", arm)])
    )
    found.within = lambda arm, methods: found
    return found


@dataclass(frozen=True)
class Exercise:
    """A stub, its check, the folded solution where there is one, and the code cells before the check."""

    stub: str
    check: str
    solution: str | None
    earlier: list[str]

    def answered(self, answer: str) -> str:
        """The stub with an answer in place of its dots."""
        place = re.search(r"(?m)^( *)(\w+ = )?\.\.\..*$", self.stub)
        code = f"{place[2] or ''}{textwrap.dedent(answer).strip()}"
        return self.stub[: place.start()] + textwrap.indent(code, place[1]) + self.stub[place.end() :]

    def run(self, *cells: str) -> None:
        """Run cells, and before them just what they need of the earlier ones."""
        names: dict[str, Any] = {"__name__": "__main__", "kept": kept, "drawn": True, "widths": UNSEEN}
        names |= dict.fromkeys(("runs", "plumed"))
        source = "\n".join([*needed(self.earlier, "\n".join(cells), names), *cells])
        assert "experiments.sweep" not in source, (
            "give what the check reads of a sweep by hand, as `kept` does"
        )
        exec(compile(source, "exercise", "exec"), names)


def needed(earlier: list[str], source: str, given: dict[str, Any]) -> list[str]:
    """The top-level statements of the earlier cells that bind what `source`, and then they, read."""
    chosen, wanted = [], used(source) - given.keys()
    for node in reversed([node for cell in earlier for node in ast.parse(cell).body]):
        text = ast.unparse(node)
        if bound(text) & wanted:
            chosen.insert(0, text)
            wanted |= used(text) - given.keys()
    return chosen


def used(source: str) -> set[str]:
    def names(code: CodeType) -> Iterator[str]:
        yield from code.co_names
        for constant in code.co_consts:
            if isinstance(constant, CodeType):
                yield from names(constant)

    return set(names(compile(source, "used", "exec")))


def bound(source: str) -> set[str]:
    instructions = dis.get_instructions(compile(source, "bound", "exec"))
    return {i.argval for i in instructions if i.opname == "STORE_NAME"}


def exercises() -> Iterator[tuple[tuple[str, str], Exercise]]:
    for path in committed_notebooks():
        cells = [c for c in nbformat.read(path, as_version=4).cells if c.cell_type == "code"]
        tagged = {
            tag: [c for c in cells if tag in c.metadata.get("tags", [])] for tag in ("solution", "exercise")
        }
        place = {c.metadata.get("nbgrader", {}).get("grade_id"): i for i, c in enumerate(cells)}
        for stub in tagged["exercise"] if tagged["solution"] else []:
            name = stub.metadata["nbgrader"]["grade_id"]
            at = place[f"{name}-check"]
            earlier = [c.source for c in cells[:at] if c not in tagged["solution"] and c is not stub]
            after = cells[at + 1]
            solution = after.source if after in tagged["solution"] else None
            yield (path.stem, name), Exercise(stub.source, cells[at].source, solution, earlier)


EXERCISES = dict(exercises())
every_exercise = pytest.mark.parametrize("key", EXERCISES, ids="-".join)


@every_exercise
def test_an_unanswered_stub_stops_nothing(key: tuple[str, str], capsys: pytest.CaptureFixture[str]) -> None:
    EXERCISES[key].run(EXERCISES[key].stub, EXERCISES[key].check)
    assert capsys.readouterr().out == f"{NOT_ANSWERED}\n"


@every_exercise
def test_the_right_answer_passes(key: tuple[str, str], capsys: pytest.CaptureFixture[str]) -> None:
    exercise = EXERCISES[key]
    if exercise.solution:
        exercise.run(exercise.stub, exercise.check, exercise.solution)
        first, *said = capsys.readouterr().out.splitlines()
        assert first == NOT_ANSWERED
        assert len(said) == 1
        assert said[0].startswith("Correct")
    if key in RIGHT:
        exercise.run(exercise.answered(RIGHT[key]), exercise.check)
        assert capsys.readouterr().out.startswith("Correct: ")
    assert exercise.solution or key in RIGHT or "exercises.order" in exercise.check


@every_exercise
def test_mistakes_fail_and_the_check_says_why(key: tuple[str, str]) -> None:
    exercise = EXERCISES[key]
    if "exercises.order" in exercise.check:
        return  # a prediction is not a mistake: test_a_predicted_order_is_compared
    assert len(WRONG.get(key, {})) >= 2, f"write at least two plausible mistakes for {key} into WRONG"
    for code, message in WRONG[key].values():
        with pytest.raises(AssertionError, match=message):
            exercise.run(exercise.answered(code), exercise.check)


@every_exercise
def test_what_is_no_answer_is_refused(key: tuple[str, str]) -> None:
    exercise = EXERCISES[key]
    if "exercises.check" not in exercise.check:
        for answer in ("'magnet'", "['softmax']"):
            with pytest.raises(ValueError, match=r"the answer is .*expected "):
                exercise.run(exercise.answered(answer), exercise.check)


@pytest.mark.parametrize(
    "key", [k for k in EXERCISES if "exercises.order" in EXERCISES[k].check], ids="-".join
)
def test_a_predicted_order_is_compared(key: tuple[str, str], capsys: pytest.CaptureFixture[str]) -> None:
    used_here = (n for sweep, n in NUMBERS.items() if f'"{sweep}"' in EXERCISES[key].check)
    numbers = next(used_here, UNSEEN)
    truth = sorted(numbers, key=numbers.get, reverse=True)
    swapped, turned = [truth[1], truth[0], *truth[2:]], truth[::-1]
    for answer, right in ((truth, len(truth)), (swapped, len(truth) - 2), (turned, len(truth) % 2)):
        EXERCISES[key].run(EXERCISES[key].answered(repr(answer)), EXERCISES[key].check)
        best = f"{truth[0]} {numbers[truth[0]]:.3f}, {truth[1]} {numbers[truth[1]]:.3f}"
        said = f"{right} of {len(truth)} in their place. Measured: {best}"
        assert capsys.readouterr().out.startswith(said)


def test_the_table_names_only_exercises_that_exist() -> None:
    folded = {notebook for notebook, _ in EXERCISES}
    assert {key for key in WRONG if key[0] in folded} <= EXERCISES.keys()


# ---- the format itself


def notebook() -> NotebookNode:
    cells = []
    for i in range(3):
        kind = {"schema_version": 3, "locked": False, "task": False}
        stub = {
            "tags": ["exercise"],
            "nbgrader": {**kind, "grade_id": f"e{i}", "solution": True, "grade": False},
        }
        check = {
            "nbgrader": {**kind, "grade_id": f"e{i}-check", "solution": False, "grade": True, "points": 1}
        }
        solution = {"tags": ["solution"], "jupyter": {"source_hidden": True}}
        cells += [
            new_code_cell(f"mine_{i} = ...", metadata=stub),
            new_code_cell(f"print(mine_{i})"),
            new_code_cell(f"check(mine_{i})", metadata=check),
            new_code_cell(f"### BEGIN SOLUTION\nmine_{i} = 1\n### END SOLUTION", metadata=solution),
        ]
    return new_notebook(cells=cells)


def test_the_rule_accepts_folded_solutions() -> None:
    assert list(RULES["exercises"](notebook())) == []


@pytest.mark.parametrize(
    ("spoil", "sentence"),
    [
        (lambda c: c[2].metadata.pop("nbgrader"), "cell 0: no check with the grade_id 'e0-check' below it"),
        (lambda c: c.insert(0, c.pop(2)), "cell 1: no check with the grade_id 'e0-check' below it"),
        (lambda c: c[0].metadata.pop("tags"), "those tagged 'exercise' must be the same"),
        (lambda c: c[0].metadata.pop("nbgrader"), r"checks without an exercise: \['e0-check'\]"),
        (lambda c: c[3].metadata.pop("tags"), "cell 3: solution markers belong in a cell with the tag"),
        (lambda c: c[3].metadata.pop("jupyter"), "cell 3: .* between its markers, in a cell that is folded"),
        (lambda c: c[3].update(source="mine_0 = 1"), "cell 3: a solution stands between its markers"),
        (lambda c: c[1].update(source=c[3].source), "cell 1: solution markers belong in a cell with the tag"),
        (lambda c: c.insert(3, new_code_cell("1")), "cell 4: the code cell above a solution must be"),
        (lambda c: c.__delitem__(slice(0, 4)), "2 exercises; at least 3 are wanted"),
        (lambda c: c[6].metadata.nbgrader.pop("points"), "cell 6: .* needs a number of points"),
    ],
)  # fmt: skip
def test_the_rule_names_what_is_wrong(spoil: Callable[[list], Any], sentence: str) -> None:
    nb = notebook()
    spoil(nb.cells)
    assert any(re.search(sentence, problem) for problem in RULES["exercises"](nb))
