"""Registries: a name means one thing."""

from __future__ import annotations

import functools
from typing import Any

import pytest

from funcpipe_prefect.monoid import Sum
from funcpipe_prefect.registry import Registry


def test_a_name_cannot_mean_two_things() -> None:
    registry = Registry()

    @registry.func
    def clean(x: int) -> int:
        return x

    registry.func(clean)
    with pytest.raises(ValueError, match="func 'clean' is registered already"):
        registry.func(lambda x: x, name="clean")
    registry.lift(clean)
    assert registry.names("func") == registry.names("lift") == ("clean",)


def test_a_reloaded_module_registers_its_functions_again() -> None:
    registry = Registry()
    source = "def clean(x): return x"
    for _ in range(2):
        scope: dict[str, Any] = {"__name__": "reloaded"}
        exec(source, scope)
        registry.func(scope["clean"])
    assert registry.names("func") == ("clean",)


@pytest.mark.parametrize("kind", ["func", "lift", "artifact", "sink", "source"])
def test_what_has_no_name_of_its_own_needs_one(kind: str) -> None:
    registry = Registry()
    target = functools.partial(int, base=2)
    with pytest.raises(ValueError, match="give name="):
        getattr(registry, kind)(target)
    getattr(registry, kind)(name="parse")(target)
    assert registry.names(kind) == ("parse",)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"takes a function or a class, not int"):
        getattr(registry, kind)(3)


def test_a_monoid_is_registered_as_class_or_object() -> None:
    registry = Registry()
    registry.monoid("a", Sum)
    registry.monoid("b", Sum())
    assert registry.get("monoid", "a") == registry.get("monoid", "b") == Sum()
    assert registry.get("monoid", "c") is None


def test_a_decorated_function_stays_usable() -> None:
    registry = Registry()

    @registry.func(name="other", version="3")
    def double(x: int) -> int:
        return 2 * x

    assert double(2) == 4
    assert registry.get("func", "other").version == "3"
