"""Modules that are imported when they are first used.

Arrow takes 40 MB. A process that touches no Arrow need not hold it, nor wait for it.
"""

from __future__ import annotations

import importlib
from types import ModuleType
from typing import Any

__all__ = ["imported_later"]


class _Later(ModuleType):
    def __getattr__(self, name: str) -> Any:
        found = getattr(importlib.import_module(self.__name__), name)
        self.__dict__[name] = found
        return found


def imported_later(name: str) -> ModuleType:
    """Stand for a module until an attribute of it is asked for.

    Where it cannot be imported, that is when `ImportError` comes.

    Example:
        >>> imported_later("json").dumps([1])
        '[1]'
    """
    return _Later(name)
