"""Learning metrics from teachers: a small network learns where a large one puts images, or how far apart.

Source: L. Yu, V. Oguz Yazici, X. Liu, J. van de Weijer, Y. Cheng, A. Ramisa. Learning Metrics from Teachers:
Compact Networks for Image Embedding, CVPR 2019. To be added, with a weight, to a loss of labels.

Deviations of the released code (yulu0724/EmbeddingDistillation): its relative loss is the Frobenius norm of
the difference of two matrices, which grows with the batch, so that its weight holds for one batch size; its
distances have 1e-6 added to each coordinate, so that a perfect student has a loss above 0; its embeddings are
scaled to length 1 first, which is the caller's business here.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from helpers.reading_list.checks import at_least_single, floats
from helpers.training.modes import without_autocast


class AbsoluteDistillation(nn.Module):
    """Mean Euclidean distance of the student's embeddings (B, D) to the teacher's (B, D); a scalar.

    0 exactly where they are equal, with gradient 0 there. It asks for the teacher's very coordinates, so a
    rotation of the teacher changes it. No gradient reaches the teacher.

    Raises TypeError for what is not floating point, ValueError for another shape.
    """

    def forward(self, student: Tensor, teacher: Tensor) -> Tensor:
        student, teacher = _checked(student, teacher)
        if student.shape != teacher.shape:
            raise ValueError(
                f"student has {student.shape[1]} dimensions, teacher {teacher.shape[1]}; expected the same: "
                "put an nn.Linear on the student, or take RelationalDistillation"
            )
        return torch.linalg.vector_norm(student - teacher, dim=1).mean()


class RelationalDistillation(nn.Module):
    """Mean, over all pairs of a batch, of how far the student's distance is from the teacher's; a scalar.

    Embeddings (B, D) and (B, T) may differ in size, B >= 2; rotations and shifts of either change nothing. No
    gradient reaches the teacher. A mean, so that its weight holds for every batch size.

    Raises TypeError for what is not floating point, ValueError for another shape.
    """

    def forward(self, student: Tensor, teacher: Tensor) -> Tensor:
        student, teacher = _checked(student, teacher)
        if len(student) < 2:
            raise ValueError("the batch has 1 image; expected 2 or more, since distances need pairs")
        with without_autocast(student.device):
            gaps = _distances(student) - _distances(teacher)
        return gaps.abs().sum() / (len(student) * (len(student) - 1))


def _distances(rows: Tensor) -> Tensor:
    """(B, B), without the shortcut by matrix products that is inexact for near rows."""
    return torch.cdist(rows, rows, compute_mode="donot_use_mm_for_euclid_dist")


def _checked(student: Tensor, teacher: Tensor) -> tuple[Tensor, Tensor]:
    student, teacher = (
        floats(name, rows, "(B, D)") for name, rows in (("student", student), ("teacher", teacher))
    )
    if len(student) != len(teacher):
        raise ValueError(
            f"student has {len(student)} rows, teacher {len(teacher)}; expected the same images in both"
        )
    student = at_least_single(student)
    return student, teacher.detach().to(student)
