"""Controls around a figure: sliders, choosers, and the explorer that redraws when one of them moves.

What an explorer calls are plain functions of their controls that return a figure and its alt text
(`helpers.figures`), so that tests and static figures call them without any widget.
"""

from __future__ import annotations

import base64
from collections.abc import Callable, Sequence
from html import escape

import ipywidgets as widgets
from matplotlib.figure import Figure

from helpers.plotting import png_and_width


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
