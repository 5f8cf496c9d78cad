"""What happens outside while the user's code runs: files, the network, processes, as Python's audit events tell.

Source: PEP 578 and the "audit events table" of Python's documentation. Looking at a file without
opening it (`exists`, `stat`), the clock and randomness raise no event.
"""

from __future__ import annotations

import functools
import os
import sys
import sysconfig
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from types import FrameType
from typing import Any, NamedTuple

from funcpipe_prefect.fingerprint.origin import is_users
from funcpipe_prefect.laws.known_effects import Effect, Sighting

__all__ = ["Event", "watched"]

_EVENTS: Mapping[Effect, str] = {
    "file": "open os.chmod os.chown os.link os.listdir os.mkdir os.remove os.rename os.rmdir os.scandir os.symlink"
    " os.truncate os.utime glob.glob shutil.* sqlite3.connect tempfile.*",
    "network": "socket.bind socket.connect socket.getaddrinfo socket.gethostbyaddr socket.gethostbyname"
    " socket.getnameinfo socket.sendmsg socket.sendto ftplib.* http.client.connect imaplib.open poplib.connect"
    " smtplib.connect urllib.Request",
    "process": "os.exec os.fork os.forkpty os.posix_spawn os.spawn os.startfile os.system pty.spawn"
    " subprocess.Popen",
    "environment": "os.chdir os.putenv os.unsetenv socket.gethostname",
}
_EFFECTS = {name: effect for effect, names in _EVENTS.items() for name in names.split()}

_OF_NO_FILE = frozenset({os.devnull, "", ":memory:"})
_MACHINERY = frozenset({"_pytest", "hypothesis", "linecache", "pluggy", "pytest", "traceback", "weakref"})
_TELLING = (str, bytes, list, tuple, os.PathLike)
_PLAIN = (str, int, float, bool, type(None))
_LONGEST = 200


class Event(Sighting):
    """Something that happened outside; the place is the innermost code of the user's."""


class _Watch(NamedTuple):
    events: list[Event]
    users_only: bool
    outermost: FrameType | None


class _Here(threading.local):
    """What watches this thread; `is_asleep` while an event is being looked at, which may raise others."""

    watches: tuple[_Watch, ...] = ()
    is_asleep = False


_here = _Here()
_installing = threading.Lock()
_is_installed = False


@contextmanager
def watched(*, users_only: bool = True) -> Iterator[list[Event]]:
    """Watch what the code in the block does outside, in this thread.

    What an import reads of code is not told, but what a module of the user's does while it is imported is.

    Args:
        users_only: Leave out what no code of the user's inside the block, or holding it, led to.

    Yields:
        A list that the events are added to, in their order.

    Example:
        >>> with watched(users_only=False) as events:
        ...     _ = open(__file__).close()
        >>> [one.effect for one in events]
        ['file']
    """
    _install()
    watch = _Watch([], users_only, sys._getframe(2))  # beyond this function and contextlib's
    _here.watches = (*_here.watches, watch)
    try:
        yield watch.events
    finally:
        _here.watches = tuple(other for other in _here.watches if other is not watch)


def _install() -> None:
    global _is_installed
    with _installing:
        if not _is_installed:
            sys.addaudithook(_hear)
            _is_installed = True


def _hear(name: str, args: tuple[Any, ...]) -> None:
    """Take an audit event, in whatever thread and state the process is; it must never fail."""
    try:
        if not _here.watches or _here.is_asleep:
            return
        effect = _EFFECTS.get(name) or _EFFECTS.get(f"{name.rpartition('.')[0]}.*")
        if effect is None:
            return
        _here.is_asleep = True
        try:
            _tell(effect, name, args, sys._getframe(1))
        finally:
            _here.is_asleep = False
    except Exception:
        return


def _tell(effect: Effect, name: str, args: tuple[Any, ...], frame: FrameType) -> None:
    if name in ("open", "sqlite3.connect") and _is_no_file(args[0]):
        return
    said = args[1:] if name == "subprocess.Popen" else args  # the command says more than its program
    subject = next((arg for arg in said if isinstance(arg, _TELLING)), None)
    what = name if subject is None else f"{name} {_shown(subject)}"
    for watch in _here.watches:
        is_machinery, users = _found_in(frame, watch.outermost)
        if is_machinery or (users is None and watch.users_only):
            continue
        if users is None:
            watch.events.append(Event(effect, what, "", 0, ""))
        else:
            code = users.f_code
            function = getattr(code, "co_qualname", code.co_name)  # since Python 3.11
            watch.events.append(Event(effect, what, code.co_filename, users.f_lineno, function))


def _found_in(frame: FrameType | None, outermost: FrameType | None) -> tuple[bool, FrameType | None]:
    """Go outwards to the user's code, or to what reads code or runs tests: that comes first, it is its doing."""
    while frame is not None:
        name, code = frame.f_globals.get("__name__"), frame.f_code
        if _is_users(name, code.co_filename):
            return False, frame
        if code.co_name == "__del__" or _is_machinery(name, code.co_filename):
            return True, None
        if frame is outermost:
            break
        frame = frame.f_back
    return False, None


@functools.cache
def _is_users(module: Any, file: str) -> bool:
    """Tell whether a frame runs code of the user's; `__main__` may as well be a program of a library."""
    return not _is_machinery(module, file) and not file.startswith(_library_folders()) and is_users(module)


@functools.cache
def _is_machinery(module: Any, file: str) -> bool:
    is_import = file.startswith(("<frozen importlib", "<frozen zipimport"))
    return is_import or (isinstance(module, str) and module.partition(".")[0] in _MACHINERY)


@functools.cache
def _library_folders() -> tuple[str, ...]:
    paths = sysconfig.get_paths()
    names = ("stdlib", "platstdlib", "purelib", "platlib", "scripts")
    return tuple(os.path.join(paths[name], "") for name in names)  # noqa: PTH118 - with a separator behind it


def _is_no_file(subject: Any) -> bool:
    """Tell descriptors, `/dev/null`, and the name of code that is in no file: a SyntaxError looks for it."""
    path = _text(subject)
    return not isinstance(path, str) or path in _OF_NO_FILE or (path[:1] == "<" and path[-1:] == ">")


def _text(subject: Any) -> Any:
    path = os.fspath(subject) if isinstance(subject, os.PathLike) else subject
    return os.fsdecode(path) if isinstance(path, bytes) else path


def _shown(subject: Any) -> str:
    """Show what an event is about, without calling a `__repr__` of the user's."""
    parts = [_text(part) for part in (subject if type(subject) in (list, tuple) else [subject])]
    shown = ", ".join(repr(part) if type(part) in _PLAIN else type(part).__name__ for part in parts)
    return (shown if len(parts) == 1 else f"({shown})")[:_LONGEST]
