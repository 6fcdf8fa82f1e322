"""Hyper-parameters with types and ranges: a method declares its own as a dataclass, conf/method holds their values.

A field is made by :func:`number`, :func:`choice` or :func:`given`, and has no default: the value is stated in one
place, the yaml file. OmegaConf's structured configs convert and check the types.
"""

from collections.abc import Mapping, Sequence
from dataclasses import field, fields
from difflib import get_close_matches
from typing import Any, TypeVar

from omegaconf import MISSING, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from dapbench.errors import UserError

Settings = TypeVar("Settings")
WORDS = {
    int: "a whole number",
    float: "a number",
    float | None: "null or a number",
    bool: "true or false",
    str: "a word",
}


def number(low: float, high: float) -> Any:
    """A field whose value, or each of whose values if it is a list, lies within [low, high]."""
    return field(default=MISSING, metadata={"range": (low, high)})


def choice(*valid: str) -> Any:
    """A field whose value is one of ``valid``."""
    return field(default=MISSING, metadata={"choices": valid})


def given() -> Any:
    """A field whose type says all about its values."""
    return field(default=MISSING)


def read_settings(kind: type[Settings], values: Mapping[str, Any], group: str) -> Settings:
    """``values`` as an instance of the dataclass ``kind``, every type and range checked.

    Args:
        kind: declares the settings.
        values: from conf/``group``, such as ``config["method"]``; Hydra's ``_target_`` is not a setting.
        group: where the values come from, for the messages.

    Raises:
        UserError: an unknown, misspelt or missing setting, or a value of the wrong type or out of its range.
    """
    declared = {f.name: f for f in fields(kind)}  # type: ignore[arg-type]
    values = {name: value for name, value in values.items() if name != "_target_"}
    for name in values.keys() - declared.keys():
        near = get_close_matches(name, declared, 1)
        hint = f"did you mean {near[0]}?" if near else f"choose from {', '.join(declared)}"
        raise UserError(f"{group}.{name} is not a setting of {kind.__name__}; {hint}")
    required = {name for name, setting in declared.items() if setting.default == MISSING}
    if lacking := sorted(required - values.keys()):
        raise UserError(f"{group}.{lacking[0]} is not set; {kind.__name__} needs it (see conf/{group})")
    typed = OmegaConf.structured(kind)
    OmegaConf.set_readonly(typed, False)  # a frozen dataclass makes a read-only configuration
    for name, value in values.items():
        setting = declared[name]
        try:
            typed[name] = value
        except (OmegaConfBaseException, ValueError, TypeError) as error:
            raise UserError(f"{group}.{name}={value} is not {_wanted(setting)}") from error
        if value is not None and not _fits(value, setting):
            raise UserError(f"{group}.{name}={value} is not {_wanted(setting)}")
    result: Settings = OmegaConf.to_object(typed)  # type: ignore[assignment]
    return result


def check_number(name: str, value: Any, low: float, high: float, integer: bool = False) -> None:
    """Raises a UserError unless ``value`` is a number within [low, high]."""
    wanted = "a whole number" if integer else "a number"
    is_number = isinstance(value, int) if integer else isinstance(value, int | float)
    if not is_number or isinstance(value, bool) or not low <= value <= high:
        raise UserError(f"{name}={value} is not {wanted} from {low:g} to {high:g}")


def check_choice(name: str, value: Any, valid: Sequence[str]) -> None:
    """Raises a UserError unless ``value`` is one of ``valid``."""
    if value not in valid:
        raise UserError(f"{name}={value} is not one of {', '.join(valid)}")


def check_divides(name: str, size: int, whole: int, what: str) -> None:
    """Refuses a ``size`` that does not divide ``whole``: a minibatch is never made larger or smaller than asked for.

    Raises:
        UserError: names the nearest sizes that do.
    """
    if whole % size:
        below = max(d for d in range(1, size) if whole % d == 0)
        near = [below, *(d for d in range(size, whole + 1) if whole % d == 0)][:2]
        raise UserError(
            f"{name}={size} does not divide {what} ({whole}); choose for instance {' or '.join(map(str, near))}"
        )


def check_at_most(name: str, value: int, most: int, what: str) -> None:
    """Raises a UserError if ``value`` is above ``most``, which is ``what`` says."""
    if value > most:
        raise UserError(f"{name}={value} is more than {what} ({most}); choose from 1 to {most}")


def _fits(value: Any, setting: Any) -> bool:
    """Whether a value that OmegaConf can convert also keeps to its range or choices."""
    limits = setting.metadata
    if "choices" in limits:
        return value in limits["choices"]
    if "range" not in limits:
        return setting.type is not bool or isinstance(value, bool)
    low, high = limits["range"]
    items = value if isinstance(value, list) else [value]
    return bool(items) and all(not isinstance(item, bool) and low <= float(item) <= high for item in items)


def _wanted(setting: Any) -> str:
    """What a setting's values are, in words."""
    limits = setting.metadata
    if "choices" in limits:
        return f"one of {', '.join(limits['choices'])}"
    words = WORDS.get(setting.type, "a list of whole numbers such as [64,64]")
    return f"{words} from {limits['range'][0]:g} to {limits['range'][1]:g}" if "range" in limits else words
