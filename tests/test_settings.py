"""Hyper-parameters: every type and range is checked, every method's file of conf/ fits its declaration."""

from dataclasses import dataclass
from typing import Any

import pytest

from dapbench.errors import UserError
from dapbench.settings import check_divides, choice, given, number, read_settings


@dataclass(frozen=True)
class Base:
    width: int = number(1, 10)
    rate: float = number(0, 1)
    hidden: list[int] = number(1, 100)
    quality: str | None = None


@dataclass(frozen=True)
class Derived(Base):
    form: str = choice("moments", "score")
    scale: bool = given()


GOOD: dict[str, Any] = {"width": 3, "rate": 1, "hidden": [64, 64], "form": "score", "scale": True}


def test_values_arrive_with_their_types() -> None:
    read = read_settings(Derived, GOOD | {"_target_": "any.Class"}, "method")
    assert read == Derived(width=3, rate=1.0, hidden=[64, 64], quality=None, form="score", scale=True)
    assert isinstance(read.rate, float)
    assert read_settings(Derived, GOOD | {"quality": "expert"}, "method").quality == "expert"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"width": 2.5}, "method.width=2.5 is not a whole number from 1 to 10"),
        ({"width": True}, "method.width=True is not a whole number from 1 to 10"),
        ({"width": 11}, "method.width=11 is not a whole number from 1 to 10"),
        ({"rate": "hot"}, "method.rate=hot is not a number from 0 to 1"),
        ({"rate": float("nan")}, "method.rate=nan is not a number from 0 to 1"),
        ({"rate": None}, "method.rate=None is not a number from 0 to 1"),
        ({"hidden": 64}, "method.hidden=64 is not a list of whole numbers such as [64,64] from 1 to 100"),
        ({"hidden": []}, "method.hidden=[] is not a list"),
        ({"hidden": [0]}, "method.hidden=[0] is not a list"),
        ({"form": "exact"}, "method.form=exact is not one of moments, score"),
        ({"scale": 3}, "method.scale=3 is not true or false"),
        ({"widht": 3}, "method.widht is not a setting of Derived; did you mean width?"),
        ({"q": 3}, "method.q is not a setting of Derived; choose from width, rate, hidden, quality, form, scale"),
    ],
)
def test_bad_values_are_one_line(change: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError) as error:
        read_settings(Derived, GOOD | change, "method")
    assert message in str(error.value)
    assert "\n" not in str(error.value)


def test_a_missing_value_is_named() -> None:
    with pytest.raises(UserError, match=r"method\.rate is not set; Derived needs it"):
        read_settings(Derived, {name: value for name, value in GOOD.items() if name != "rate"}, "method")


def test_sizes_divide_or_are_refused() -> None:
    check_divides("method.minibatch_size", 50, 1250, "the rollout's steps")
    with pytest.raises(
        UserError, match=r"minibatch_size=60 does not divide .* \(1250\); choose for instance 50 or 125"
    ):
        check_divides("method.minibatch_size", 60, 1250, "the rollout's steps")
