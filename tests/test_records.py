"""Records are frozen dataclasses in all but their import time."""

from __future__ import annotations

import copy
import dataclasses
import inspect
import pickle
from typing import Any

import pytest

from flask_mailesp.patterns import pattern
from flask_mailesp.records import field, record, replace


@record(frozen=True)
class Parcel:
    """A record with every kind of field that the package has."""

    weight: int
    stamps: list[str] = field(default_factory=list)
    secret: str = field(default="x", repr=False)
    note: str = field(default="", compare=False, repr=False)

    @property
    def heavy(self) -> bool:
        return self.weight > 10


def test_fields_are_given_by_place_or_by_name() -> None:
    assert Parcel(1, ["a"]) == Parcel(weight=1, stamps=["a"], secret="x")


def test_a_default_list_is_each_records_own() -> None:
    first, second = Parcel(1), Parcel(1)
    first.stamps.append("a")

    assert second.stamps == []


@pytest.mark.parametrize("count", [1, 200])
def test_it_makes_no_difference_how_many_there_are(count: int) -> None:
    """Though from some number on a class has a constructor of its own."""

    @record(frozen=True)
    class Tool:
        name: str
        use: Any = len
        parts: list[int] = field(default_factory=list)

    tools = [Tool("a") for _ in range(count)]

    assert tools[-1] == Tool("a", len, []) == Tool(name="a", parts=[]) != Tool("b")
    assert tools[-1].use("abc") == 3
    assert tools[-1].parts is not tools[0].parts or count == 1
    assert pickle.loads(pickle.dumps(Parcel(1))) == replace(Parcel(2), weight=1)
    with pytest.raises(TypeError, match="colour"):
        Tool("a", colour="red")  # type: ignore[call-arg]
    with pytest.raises(TypeError, match="name"):
        Tool()  # type: ignore[call-arg]


def test_help_shows_what_a_record_takes() -> None:
    found = inspect.signature(Parcel)

    assert list(found.parameters) == ["weight", "stamps", "secret", "note"]
    assert found.parameters["weight"].default is inspect.Parameter.empty
    assert found.parameters["weight"].annotation == "int"
    assert found.parameters["stamps"].default == []


def test_what_is_not_compared_or_shown_is_not() -> None:
    assert Parcel(1, note="a") == Parcel(1, note="b")
    assert Parcel(1, secret="a") != Parcel(1, secret="b")
    assert repr(Parcel(1, secret="hidden")) == "Parcel(weight=1, stamps=[])"
    assert Parcel(1) != (1, [], "x", "")  # type: ignore[comparison-overlap]


@pytest.mark.parametrize(
    ("args", "given", "says"),
    [
        ((), {}, "needs 'weight'"),
        ((1,), {"colour": "red"}, "has no field 'colour'"),
        ((1,), {"weight": 2}, "one twice"),
        ((1, [], "x", "", 5), {}, "too many values"),
    ],
)
def test_wrong_fields_are_a_type_error(args: Any, given: Any, says: str) -> None:
    with pytest.raises(TypeError, match=says):
        Parcel(*args, **given)


def test_a_record_cannot_be_changed() -> None:
    parcel: Any = Parcel(1)

    with pytest.raises(dataclasses.FrozenInstanceError):
        parcel.weight = 2
    with pytest.raises(dataclasses.FrozenInstanceError):
        del parcel.weight


def test_the_functions_of_dataclasses_work() -> None:
    parcel = Parcel(1, ["a"])

    assert [item.name for item in dataclasses.fields(parcel)] == [
        "weight",
        "stamps",
        "secret",
        "note",
    ]
    assert dataclasses.asdict(parcel)["stamps"] == ["a"]
    assert dataclasses.replace(parcel, weight=20) == replace(parcel, weight=20)
    assert dataclasses.replace(parcel, weight=20).heavy


def test_records_are_copied_and_pickled_by_value() -> None:
    parcel = Parcel(1, ["a"])

    assert pickle.loads(pickle.dumps(parcel)) == copy.deepcopy(parcel) == copy.copy(parcel)
    assert hash(Parcel(1, ())) == hash(Parcel(1, ()))  # type: ignore[arg-type]


def test_a_pattern_is_compiled_when_it_is_used() -> None:
    late = pattern(r"(?P<digits>\d+)")

    assert late.fullmatch("12") is not None
    assert late.sub("#", "a1b22") == "a#b#"
    with pytest.raises(AttributeError):
        late.nonsense  # type: ignore[attr-defined]  # noqa: B018
