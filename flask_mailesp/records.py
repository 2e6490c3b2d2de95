"""Frozen dataclasses that cost nothing to import.

`dataclasses.dataclass` compiles its methods when a module is imported, which takes 0.5 to
1 ms a class: the package's twenty would cost a fifth of ``import flask``. A record gets
methods that are there already, and a constructor of its own once many have been made. To
type checkers, and to `dataclasses.replace`, ``asdict`` and ``fields``, it is a frozen
dataclass.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import MISSING, Field, FrozenInstanceError, field, make_dataclass
from itertools import count
from typing import TYPE_CHECKING, Any, TypeVar

__all__ = ["field", "record", "replace"]

if TYPE_CHECKING:
    from dataclasses import dataclass as record
    from dataclasses import replace

else:

    def record(*, frozen: bool = True, init: bool = True, repr: bool = True):
        """Turn a class of annotated fields into a frozen record."""
        return lambda plain: _made(plain, init, repr)

    def replace(item, /, **changes):
        """Return a copy with some fields changed."""
        return type(item)(**vars(item) | changes)


T = TypeVar("T", bound=type)


def _made(plain: T, init: bool, repr: bool) -> T:
    fields = {name: _field_of(plain, name) for name in plain.__annotations__}
    if init and vars(plain).get("__init__") is None:
        _set(plain, "__init__", _init_of(plain, fields))
        _set(plain, "__signature__", _Signature(fields))  # for help() and documentation
    if repr:
        _set(plain, "__repr__", _repr_of([name for name, item in fields.items() if item.repr]))
    values = _values_of([name for name, item in fields.items() if item.compare])
    _set(plain, "__eq__", lambda self, other: _equal(values, self, other))
    _set(plain, "__hash__", lambda self: hash(values(self)))
    _set(plain, "__setattr__", _refuse)
    _set(plain, "__delattr__", _refuse)
    for name in ("__dataclass_fields__", "__dataclass_params__"):
        setattr(plain, name, _Late(name, fields))
    return plain


class _Late:
    """What the functions of `dataclasses` look for, made when one is first used."""

    def __init__(self, name: str, fields: dict[str, Field[Any]]) -> None:
        self._name = name
        self._fields = fields

    def __get__(self, instance: object, owner: Any) -> Any:
        described = [(name, Any, item) for name, item in self._fields.items()]
        twin = make_dataclass(owner.__name__, described, frozen=True)
        return vars(twin)[self._name]


class _Signature:
    """A class's signature, made when somebody asks what it takes."""

    def __init__(self, fields: dict[str, Field[Any]]) -> None:
        self._fields = fields

    def __get__(self, instance: object, owner: type) -> Any:
        from inspect import Parameter, Signature

        def parameter(name: str, item: Field[Any]) -> Parameter:
            default: Any = Parameter.empty if item.default is MISSING else item.default
            if item.default_factory is not MISSING:
                default = item.default_factory()
            kind = Parameter.POSITIONAL_OR_KEYWORD
            annotation = owner.__annotations__.get(name, Parameter.empty)
            return Parameter(name, kind, default=default, annotation=annotation)

        return Signature([parameter(name, item) for name, item in self._fields.items()])


def _set(plain: type, name: str, method: object) -> None:
    """Add a method unless the class has its own."""
    if name not in vars(plain) or vars(plain)[name] is None:
        setattr(plain, name, method)


def _field_of(plain: type, name: str) -> Field[Any]:
    default = vars(plain).get(name, MISSING)
    if not isinstance(default, Field):
        return field(default=default)  # type: ignore[no-any-return]
    if default.default is MISSING:
        delattr(plain, name)
    else:
        setattr(plain, name, default.default)
    return default


_OFTEN = 50  # records, from which on compiling pays: it costs 0.1 ms, and saves 1 µs a record
_WIDE = 12  # fields, of which most keep their defaults: filling in those given is faster then


def _init_of(plain: type, fields: dict[str, Field[Any]]) -> Callable[..., None]:
    """Return the constructor that a class has until many of its records have been made."""
    names = tuple(fields)
    known = frozenset(names)
    makers = {
        name: item.default_factory
        for name, item in fields.items()
        if item.default_factory is not MISSING
    }
    functions = {  # in the class they would become methods
        name: item.default for name, item in fields.items() if hasattr(item.default, "__get__")
    }
    needed = {name for name in names if fields[name].default is MISSING} - makers.keys()
    adopt = object.__setattr__
    made_so_far = count(1)
    many = _OFTEN if len(names) < _WIDE else 0

    def __init__(self: Any, *args: Any, **given: Any) -> None:
        if many and next(made_so_far) == many:
            plain.__init__ = _compiled_init(fields)  # type: ignore[misc]
        values = given
        if args:
            values = dict(zip(names, args))  # noqa: B905 - the rest is given by name
            if len(args) > len(names) or not values.keys().isdisjoint(given):
                raise TypeError(f"{type(self).__name__}() got too many values, or one twice")
            values |= given
        if not needed <= values.keys() <= known:
            raise TypeError(_misfit(type(self).__name__, names, needed, values))
        if functions:
            values = functions | values
        for name, make in makers.items():
            if name not in values:
                values[name] = make()
        adopt(self, "__dict__", values)  # the other defaults are in the class

    return __init__


def _compiled_init(fields: dict[str, Field[Any]]) -> Callable[..., None]:
    """Compile a constructor with a parameter for each field, as `dataclasses` does."""
    parts: dict[str, Any] = {"adopt": object.__setattr__, "ABSENT": object()}
    parameters, values = ["self"], []
    for name, item in fields.items():
        parameter = value = name
        if item.default is not MISSING:
            parts[f"default_{name}"] = item.default
            parameter = f"{name}=default_{name}"
        elif item.default_factory is not MISSING:
            parts[f"make_{name}"] = item.default_factory
            parameter = f"{name}=ABSENT"
            value = f"make_{name}() if {name} is ABSENT else {name}"
        parameters.append(parameter)
        values.append(f"{name!r}: {value}")
    head = f"def __init__({', '.join(parameters)}):"
    exec(f"{head} adopt(self, '__dict__', {{{', '.join(values)}}})", parts)  # noqa: S102
    return parts["__init__"]  # type: ignore[no-any-return]


def _misfit(title: str, names: tuple[str, ...], needed: set[str], values: dict[str, Any]) -> str:
    for name in values:
        if name not in names:
            return f"{title}() has no field {name!r}"
    missing = next(name for name in names if name in needed and name not in values)
    return f"{title}() needs {missing!r}"


def _values_of(names: list[str]) -> Callable[[Any], tuple[Any, ...]]:
    return lambda item: tuple(getattr(item, name) for name in names)


def _equal(values: Callable[[Any], tuple[Any, ...]], one: Any, other: Any) -> Any:
    return values(one) == values(other) if type(one) is type(other) else NotImplemented


def _repr_of(names: list[str]) -> Callable[[Any], str]:
    def __repr__(self: Any) -> str:
        shown = ", ".join(f"{name}={getattr(self, name)!r}" for name in names)
        return f"{type(self).__qualname__}({shown})"

    return __repr__


def _refuse(self: Any, name: str, *_: Any) -> None:
    raise FrozenInstanceError(f"{type(self).__name__}.{name} cannot be changed")
