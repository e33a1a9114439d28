"""One plot style for every chapter: colour-blind safe, and alt text on every figure."""

from __future__ import annotations

import base64
import io

import matplotlib.pyplot as plt
import seaborn as sns
from IPython.display import display
from matplotlib.figure import Figure
from PIL import Image

PALETTE = {
    "blue": "#0072B2",
    "orange": "#D55E00",
    "green": "#009E73",
    "purple": "#8E2A7A",
    "yellow": "#E69F00",
    "sky": "#56B4E9",
    "grey": "#6E7781",
    "ink": "#1F2328",
}
"""Okabe and Ito's colour-blind safe hues, with a purple of our own, a grey for controls, an ink for text."""

CYCLE = [PALETTE[name] for name in ("blue", "orange", "green", "purple", "yellow", "sky", "grey")]
TEN_CLASSES = [
    *("#332288", "#88CCEE", "#44AA99", "#117733", "#999933"),
    *("#DDCC77", "#CC6677", "#882255", "#AA4499", "#1F2328"),
]
"""Nine hues of Paul Tol's muted scheme and an ink, for ten classes; label the classes as well."""
_SCREEN_DPI, _FILE_DPI, _LARGE = 80, 112, 150_000


def use_style() -> None:
    """Set the collection's matplotlib and seaborn style for this process."""
    sns.set_theme(
        context="notebook",
        style="ticks",
        palette=CYCLE,
        rc={
            "figure.figsize": (8, 3.6),
            "figure.dpi": _SCREEN_DPI,
            "figure.facecolor": "white",
            "axes.edgecolor": PALETTE["grey"],
            "axes.labelcolor": PALETTE["ink"],
            "axes.titlelocation": "left",
            "axes.titlesize": 12,
            "axes.titleweight": "bold",
            "axes.labelsize": 11,
            "axes.spines.top": False,
            "axes.spines.right": False,
            "axes.grid": True,
            "grid.color": "#E4E7EB",
            "grid.linewidth": 0.8,
            "axes.axisbelow": True,
            "image.interpolation": "nearest",
            "legend.frameon": False,
            "legend.fontsize": 10,
            "lines.linewidth": 2,
            "xtick.labelsize": 10,
            "ytick.labelsize": 10,
            "text.color": PALETTE["ink"],
        },
    )


def png_and_width(figure: Figure) -> tuple[bytes, int]:
    """The figure as a sharp PNG, and the width in pixels at which to show it.

    One that would take more than `_LARGE` bytes, because of photographs in it, has 128 colours and the
    resolution of the screen: a notebook that holds a dozen of them stays small.
    """
    png = _png(figure, _FILE_DPI)
    width = round(int.from_bytes(png[16:20], "big") * _SCREEN_DPI / _FILE_DPI)
    if len(png) > _LARGE:
        image = Image.open(io.BytesIO(_png(figure, _SCREEN_DPI))).convert("RGB")
        buffer = io.BytesIO()
        colours = image.quantize(128, method=Image.Quantize.MAXCOVERAGE)
        image.quantize(palette=colours).save(buffer, "png", optimize=True)  # dithered
        png = buffer.getvalue()
    return png, width


def _png(figure: Figure, dpi: int) -> bytes:
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=dpi, bbox_inches="tight", facecolor="white")
    return buffer.getvalue()


def titled(figure: Figure, finding: str, alt: str) -> tuple[Figure, str]:
    """The figure with its finding as title, and the alt text that begins with it; neither without one."""
    if not finding:
        return figure, alt
    figure.suptitle(finding, x=0.01, ha="left", weight="bold", size=12)
    return figure, f"{finding}{'' if finding.endswith('?') else '.'} {alt}"


def show(figure: Figure, alt: str) -> None:
    """Display a figure with its alt text and close it. Raises ValueError for an empty alt text."""
    if not alt.strip():
        raise ValueError("alt text is empty: say in one sentence what the figure shows")
    png, width = png_and_width(figure)
    plt.close(figure)
    display(
        {"image/png": base64.b64encode(png).decode(), "text/plain": alt},
        raw=True,
        metadata={"image/png": {"alt": alt, "width": width}},
    )
