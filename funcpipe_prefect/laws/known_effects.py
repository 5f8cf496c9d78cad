"""Which objects of Python and of libraries have an effect: the clock, randomness, the network, files and so on."""

from __future__ import annotations

import enum
import fnmatch
import functools
import random
import sys
import types
import typing
from collections.abc import Hashable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from funcpipe_prefect.registry import Effect

__all__ = [
    "EFFECTS",
    "METHODS_OF_PATHS",
    "Effect",
    "KnownEffects",
    "Sighting",
    "is_a",
    "is_path",
    "attribute_of",
    "told",
    "unseeded",
]

EFFECTS: tuple[Effect, ...] = typing.get_args(Effect)

_NAMES: Mapping[Effect, Mapping[str, str]] = {
    "clock": {
        "time": "time time_ns monotonic monotonic_ns perf_counter perf_counter_ns process_time process_time_ns"
        " localtime gmtime ctime",
        "datetime": "datetime.now datetime.utcnow datetime.today date.today",
    },
    "randomness": {
        "random": "* SystemRandom",
        "secrets": "*",
        "os": "urandom getrandom",
        "uuid": "uuid1 uuid4",
        "numpy.random": "*",
    },
    "file": {
        "builtins": "open",
        "io": "open_code",
        "codecs": "open",
        "os": "open listdir scandir walk fwalk stat lstat access remove unlink rename renames replace mkdir"
        " makedirs rmdir removedirs truncate link symlink readlink chmod chown utime",
        "os.path": "exists lexists isfile isdir islink ismount getsize getmtime getatime getctime samefile",
        "fsspec": "open open_files open_local filesystem url_to_fs get_mapper get_fs_token_paths",
        "sqlite3": "connect",
    },
    "environment": {
        "os": "environ environb getenv getenvb putenv unsetenv getpid getppid getcwd getcwdb chdir getlogin",
        "pathlib": "Path.cwd Path.home",
        "socket": "gethostname getfqdn",
        "platform": "node",
        "getpass": "getuser",
        "sys": "argv",
        "threading": "get_ident get_native_id",
    },
    "process": {
        "os": "system popen exec* spawn* posix_spawn* fork forkpty startfile kill killpg abort _exit",
        "asyncio": "create_subprocess_exec create_subprocess_shell",
        "concurrent.futures": "ProcessPoolExecutor",
        "multiprocessing": "Process Pool",
    },
}
"""By module the names that have an effect; `*` stands for any function, but for classes and `_PURE`."""

_MODULES: Mapping[Effect, str] = {
    "network": "socket ssl http.client http.server urllib.request urllib3 requests httpx aiohttp ftplib smtplib"
    " imaplib poplib telnetlib xmlrpc websockets websocket boto3 botocore grpc paramiko redis pymongo psycopg"
    " psycopg2 asyncpg",
    "file": "glob shutil tempfile",
    "process": "subprocess",
}
"""Modules of which each function and class has the effect, but for exceptions, enums and `_PURE`."""

_PURE: Mapping[str, str] = {
    "glob": "escape has_magic translate",
    "httpx": "Headers QueryParams URL",
    "secrets": "compare_digest",
    "shutil": "get_terminal_size",
    "socket": "htonl htons inet_aton inet_ntoa inet_ntop inet_pton ntohl ntohs",
    "subprocess": "CompletedProcess list2cmdline",
    "urllib3.util": "parse_url",
}
"""Names among those above that only compute."""

_UNSEEDED = frozenset({"random.Random", "numpy.random.RandomState", "numpy.random.default_rng"})
"""What takes its seed from the system when it is called without one."""

METHODS_OF_PATHS = frozenset(
    {
        *(
            "read_text",
            "write_text",
            "read_bytes",
            "write_bytes",
            "open",
            "touch",
            "unlink",
            "rename",
            "stat",
        ),
        *("exists", "is_file", "is_dir", "iterdir", "glob", "rglob", "mkdir", "rmdir"),
    }
)
"""Methods of `pathlib.Path` that look at the disk or change it."""

_IS_PURE = frozenset(f"{module}.{name}" for module, names in _PURE.items() for name in names.split())
_TOPS = frozenset(
    name.partition(".")[0]
    for names in (*_NAMES.values(), *(modules.split() for modules in _MODULES.values()))
    for name in names
)


@dataclass(frozen=True, order=True)
class Sighting:
    """An effect, and the place of the user's code that has it.

    Attributes:
        effect: Which kind.
        what: What it is, as a person knows it: `time.time`, `open 'docs.txt'`.
        file: The source file; empty where there is none.
        line: Counts from 1; 0 where there is none.
        function: The qualified name of the user's function.
    """

    effect: Effect
    what: str
    file: str
    line: int
    function: str

    def __str__(self) -> str:
        return told(self.effect, self.what, self.file, self.line, self.function)


class KnownEffects:
    """The objects with an effect, as far as their modules are loaded: code has hold of no others.

    They are told apart by identity, so that an alias counts and a namesake does not.
    """

    def __init__(self) -> None:
        self._objects: dict[Hashable, tuple[Effect, str]] = {}
        for effect, modules in _NAMES.items():
            for module, names in modules.items():
                for name in _matching(sys.modules.get(module), names):
                    value = functools.reduce(attribute_of, name.split("."), sys.modules[module])
                    label = name if module == "builtins" else f"{module}.{name}"
                    if value is not None and label not in _IS_PURE | _UNSEEDED:
                        self._objects.setdefault(next(_tokens(value)), (effect, label))

    @staticmethod
    def has_some_of(module: str) -> bool:
        """Tell whether a module, or a neighbour of it, has anything with an effect."""
        return module.partition(".")[0] in _TOPS

    def of(self, value: Any) -> tuple[Effect, str] | None:
        """Give the effect of having and using an object, and the name that people know it by."""
        for token in _tokens(value):
            if token in self._objects:
                return self._objects[token]
        if is_a(value, random.SystemRandom):
            return "randomness", "random.SystemRandom"
        if not callable(value) or (is_a(value, type) and issubclass(value, (BaseException, enum.Enum))):
            return None
        for part in value.__mro__ if is_a(value, type) else (value,):
            effect = _effect_of_module(str(attribute_of(part, "__module__")))
            if effect is not None and (name := _public_name(part)) not in _IS_PURE:
                return effect, name
        return None


def unseeded(value: Any) -> str:
    """Give the name of what would take its seed from the system, or nothing."""
    name = _public_name(value)
    return name if name in _UNSEEDED else ""


def told(effect: str, what: str, file: str, line: int, function: str) -> str:
    """Tell an effect and its place, such as `clock: time.time in stamp (records.py:12)`."""
    place = f" ({Path(file).name}:{line})" if file else ""
    return f"{effect}: {what}" + (f" in {function}" if function else "") + place


def is_a(value: Any, kinds: Any) -> bool:
    """Tell what an object is by its type: a proxy lies about its class, or fails when it is asked."""
    return issubclass(type(value), kinds)


def is_path(value: Any) -> bool:
    """Tell whether something is `pathlib.Path`, a class derived from it, or a path."""
    return is_a(value, Path) or (is_a(value, type) and issubclass(value, Path))


def attribute_of(value: Any, name: str) -> Any:
    """Give an attribute, or None where there is none: an object may do anything when it is asked."""
    try:
        return getattr(value, name, None)
    except Exception:
        return None


def _matching(module: types.ModuleType | None, patterns: str) -> Iterator[str]:
    for pattern in patterns.split() if module is not None else ():
        if "*" not in pattern:
            yield pattern
            continue
        for name in fnmatch.filter(vars(module), pattern):
            value = vars(module)[name]
            if callable(value) and not is_a(value, type) and not name.startswith("_"):
                yield name


def _tokens(value: Any) -> Iterator[Hashable]:
    """Say which object this is: a method of a class is made anew each time that it is asked for."""
    owner: Any = value.__self__ if is_a(value, (types.BuiltinMethodType, types.MethodType)) else None
    if is_a(owner, type):
        for base in owner.__mro__:
            yield id(base), value.__name__
    yield id(value)


@functools.cache
def _effect_of_module(module: str) -> Effect | None:
    name = module.lstrip("_")
    for effect, modules in _MODULES.items():
        if any(name == known or name.startswith(f"{known}.") for known in modules.split()):
            return effect
    return None


def _public_name(value: Any) -> str:
    """Give the shortest name under which a library has something, such as `requests.get`."""
    module = str(attribute_of(value, "__module__"))
    name = str(attribute_of(value, "__qualname__") or type(value).__qualname__)
    first = name.partition(".")[0]
    whole = vars(sys.modules[module]).get(first) if module in sys.modules else None
    steps = module.lstrip("_").split(".")
    for count in range(1, len(steps) + 1):
        home = ".".join(steps[:count])
        if whole is not None and home in sys.modules and vars(sys.modules[home]).get(first) is whole:
            return f"{home}.{name}"
    return f"{module}.{name}"
