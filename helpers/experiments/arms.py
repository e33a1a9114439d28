"""An arm of an experiment: a name, a colour and the settings that make it differ from the others."""

from __future__ import annotations

from typing import Any


class Arm:
    """One method under comparison, as data: ``Arm("semi-hard", "blue", ranking=semi_hard_loss, margin=0.2)``.

    The settings read as attributes (``arm.margin``). Two arms are the same when their names are.

    Args:
        name: how figures and tables call it.
        color: name of a colour in `helpers.plotting.PALETTE`; None takes the next of the cycle.
        **settings: whatever the run function needs to know.
    """

    def __init__(self, name: str, color: str | None = None, **settings: Any) -> None:
        if "settings" in settings:
            raise TypeError(f"arm {name!r}: a setting cannot be called 'settings'")
        vars(self).update(name=name, color=color, settings=settings)

    def __getattr__(self, setting: str) -> Any:
        settings = vars(self).get("settings", {})
        if setting in settings:
            return settings[setting]
        there = ", ".join(settings) or "none"
        raise AttributeError(f"arm {vars(self).get('name')!r} has no setting {setting!r}; it has: {there}")

    def __setattr__(self, setting: str, value: Any) -> None:
        raise AttributeError(f"arm {self.name!r} is fixed: make another one to change {setting!r}")

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Arm) and self.name == other.name

    def __hash__(self) -> int:
        return hash(self.name)

    def __repr__(self) -> str:
        return f"Arm({', '.join([repr(self.name), *(f'{k}={v!r}' for k, v in self.settings.items())])})"
