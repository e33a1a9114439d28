"""Controls around a figure: sliders, choosers, and the explorer that redraws when one of them moves.

What an explorer calls are plain functions of their controls that return a figure and its alt text
(`helpers.figures`), so that tests and static figures call them without any widget.
"""

from __future__ import annotations

import base64
from collections.abc import Callable, Sequence
from html import escape
from threading import RLock

import ipywidgets as widgets
from matplotlib.figure import Figure

from helpers.plotting import png_and_width

NEEDS_A_KERNEL = "Run this cell to play: its controls need a running kernel."
_NOTE = f"""<style>
.ctg-explorer p {{ margin: 0; }}
.ctg-explorer .ctg-computing {{ visibility: hidden; }}
.ctg-explorer.ctg-busy .ctg-computing {{ visibility: visible; transition: visibility 0s 0.2s; }}
.ctg-explorer.ctg-busy img {{ opacity: 0.35; transition: opacity 0.2s 0.2s; }}
.ctg-explorer .ctg-offline,
.ctg-explorer.jupyter-widgets-disconnected .ctg-computing,
.ctg-explorer.jupyter-widgets-disconnected > :not(.widget-html) {{ display: none; }}
.ctg-explorer.jupyter-widgets-disconnected .ctg-offline {{ display: block; }}
</style>
<p class="ctg-computing" role="status">computing …</p>
<p class="ctg-offline"><em>{NEEDS_A_KERNEL}</em></p>"""
# The 0.2 s: an answer that comes at once does not flicker. ipywidgets sets jupyter-widgets-disconnected, on a
# stored widget and after the end of the kernel; a control that could only lie is then hidden.


class _Explorer(widgets.VBox):
    """A column of widgets that says what it needs where only text can be shown, as on a code host."""

    def _repr_mimebundle_(self, **kwargs: object) -> dict[str, object]:
        return super()._repr_mimebundle_(**kwargs) | {"text/plain": NEEDS_A_KERNEL}


def explorer(callback: Callable[..., tuple[Figure, str]], **controls: widgets.Widget) -> widgets.VBox:
    """Controls above the callback's picture (with its alt text), redrawn when a control changes.

    ``controls`` maps the callback's argument names to widgets with a ``value``. While the callback computes,
    the old picture is dimmed and a line says so. An error or an interrupt takes the picture's place and is
    raised as well, so no picture stays under values that are not its own. Without a kernel the controls give
    way to a sentence. The picture is a plain HTML widget: an Output widget, as in ``ipywidgets.interact``,
    can block batch execution for ever (jupyter/nbclient issue 312).
    """
    picture = widgets.HTML()
    box = _Explorer([*controls.values(), widgets.HTML(_NOTE), picture])
    box.add_class("ctg-explorer")
    lock = RLock()  # JupyterLab 4.6: the kernel's main thread answers the first move, a subshell's the others

    def redraw(change: object = None) -> None:
        with lock:
            box.add_class("ctg-busy")  # sent at once, before the callback starts
            try:
                figure, alt = callback(**{name: control.value for name, control in controls.items()})
                png, width = png_and_width(figure)
                source = f"data:image/png;base64,{base64.b64encode(png).decode()}"
                picture.value = f'<img src="{source}" width="{width}" alt="{escape(alt)}">'
            except BaseException as error:  # a KeyboardInterrupt too
                picture.value = f"<pre>{escape(type(error).__name__)}: {escape(str(error))}</pre>"
                raise
            finally:
                box.remove_class("ctg-busy")

    for control in controls.values():
        control.observe(redraw, names="value")
    redraw()
    return box


def slider(
    label: str, value: float, low: float, high: float, step: float | None = None, tooltip: str = ""
) -> widgets.Widget:
    """A labelled slider that acts on release: an integer without ``step``, else with its decimals."""
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
    if step is None:
        return widgets.IntSlider(**common)
    decimals = len(str(step).partition(".")[2])
    return widgets.FloatSlider(**common, step=step, readout_format=f".{decimals}f")


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
