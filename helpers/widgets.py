"""Widget callbacks as pure functions of their controls, and the one function that puts controls around them.

A callback returns a figure and its alt text, so that tests and static figures call it without any widget.
"""

from __future__ import annotations

import base64
import math
from collections.abc import Callable, Sequence
from html import escape

import ipywidgets as widgets
import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from helpers.plotting import PALETTE, png_and_width
from helpers.svmax import mean_singular_value, singular_value_bounds, unit_rows


def explorer(callback: Callable[..., tuple[Figure, str]], **controls: widgets.Widget) -> widgets.VBox:
    """Controls above the callback's picture (with its alt text), redrawn when a control changes.

    ``controls`` maps the callback's argument names to widgets with a ``value``. An error in the callback
    takes the picture's place and is raised as well. The picture is a plain HTML widget: an Output widget, as
    in ``ipywidgets.interact``, can block batch execution for ever (jupyter/nbclient issue 312).
    """
    picture = widgets.HTML()

    def redraw(change: object = None) -> None:
        try:
            figure, alt = callback(**{name: control.value for name, control in controls.items()})
        except Exception as error:
            picture.value = f"<pre>{escape(type(error).__name__)}: {escape(str(error))}</pre>"
            raise
        png, width = png_and_width(figure)
        data = base64.b64encode(png).decode()
        picture.value = f'<img src="data:image/png;base64,{data}" width="{width}" alt="{escape(alt)}">'

    for control in controls.values():
        control.observe(redraw, names="value")
    redraw()
    return widgets.VBox([*controls.values(), picture])


def slider(
    label: str, value: float, low: float, high: float, step: float | None = None, tooltip: str = ""
) -> widgets.Widget:
    """A labelled slider that acts on release: integer without ``step``, floating-point with it."""
    common = {
        "description": label,
        "value": value,
        "min": low,
        "max": high,
        "continuous_update": False,
        "style": {"description_width": "120px"},
        "layout": {"width": "440px"},
        "tooltip": tooltip or label,
    }
    return widgets.IntSlider(**common) if step is None else widgets.FloatSlider(**common, step=step)


def chooser(
    label: str, options: Sequence[str], value: str | None = None, tooltip: str = ""
) -> widgets.Widget:
    """A labelled dropdown in the style of `slider`, at its first option unless `value` names another."""
    return widgets.Dropdown(
        description=label,
        options=list(options),
        value=options[0] if value is None else value,
        style={"description_width": "120px"},
        layout={"width": "440px"},
        tooltip=tooltip or label,
    )


def concentrated_rows(
    batch_size: int, embedding_dim: int, concentration: float, seed: int = 0
) -> torch.Tensor:
    """Random unit rows (B, D) in float64, pulled towards one direction: 0 is uniform, large is collapsed."""
    if concentration < 0 or not math.isfinite(concentration):
        raise ValueError(f"concentration must be finite and not negative, got {concentration}")
    singular_value_bounds(batch_size, embedding_dim)
    generator = torch.Generator().manual_seed(seed)
    rows = torch.randn(batch_size, embedding_dim, generator=generator, dtype=torch.float64)
    rows[:, 0] += concentration * math.sqrt(embedding_dim)
    return unit_rows(rows)


def bounds_figure(
    batch_size: int, embedding_dim: int, concentration: float, seed: int = 0
) -> tuple[Figure, str]:
    """Spectrum of a concentrated batch, and where its mean singular value stands between the bounds."""
    rows = concentrated_rows(batch_size, embedding_dim, concentration, seed)
    spectrum = torch.linalg.svdvals(rows).numpy()
    lower, upper = singular_value_bounds(batch_size, embedding_dim)
    s_mu = float(spectrum.mean())
    figure = Figure(figsize=(9, 3.4), layout="constrained")
    left, right = figure.subplots(1, 2)
    _draw_spectrum(left, spectrum, s_mu)
    _draw_between_bounds(right, batch_size, embedding_dim, concentration, s_mu, seed)
    alt = (
        f"For a batch of {batch_size} unit rows in {embedding_dim} dimensions at concentration "
        f"{concentration:g}, the mean singular value is {s_mu:.3f}, between the lower bound {lower:.3f} "
        f"and the upper bound {upper:.3f}. Left: bars of the spectrum. Right: the mean against concentration."
    )
    return figure, alt


def _draw_spectrum(axes: Axes, spectrum: np.ndarray, s_mu: float) -> None:
    axes.bar(range(1, len(spectrum) + 1), spectrum, color=PALETTE["blue"], width=0.85)
    axes.axhline(
        s_mu, color=PALETTE["ink"], linewidth=1.5, linestyle="--", label=f"mean $s_\\mu$ = {s_mu:.3f}"
    )
    axes.set(xlabel="singular value, largest first", ylabel="size", title="Spectrum of the batch")
    axes.grid(axis="x", visible=False)
    axes.legend(loc="upper right")


def _draw_between_bounds(axes: Axes, b: int, d: int, concentration: float, s_mu: float, seed: int) -> None:
    lower, upper = singular_value_bounds(b, d)
    grid = np.linspace(0, max(4.0, concentration), 25)
    curve = [mean_singular_value(concentrated_rows(b, d, float(c), seed)).item() for c in grid]
    axes.axhspan(lower, upper, color=PALETTE["grey"], alpha=0.08, linewidth=0)
    for value, name in ((lower, "lower bound"), (upper, "upper bound")):
        axes.axhline(value, color=PALETTE["grey"], linewidth=1.5)
        axes.annotate(
            f"{name} {value:.3f}",
            (1, value),
            xycoords=("axes fraction", "data"),
            xytext=(-4, 4),
            textcoords="offset points",
            ha="right",
            color=PALETTE["grey"],
        )
    axes.plot(grid, curve, color=PALETTE["sky"])
    axes.plot([concentration], [s_mu], "o", color=PALETTE["orange"], markersize=10, label="this batch")
    axes.set(xlabel="concentration", ylabel="mean singular value", title="Between its bounds")
    margin = 0.14 * ((upper - lower) or 1)
    axes.set_ylim(lower - margin, upper + 1.4 * margin)
    axes.legend(loc="upper right", bbox_to_anchor=(1, 0.8), frameon=True, edgecolor="none")
