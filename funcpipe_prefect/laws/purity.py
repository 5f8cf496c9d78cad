"""Purity: the same input gives the same output anywhere, and nothing else happens.

Source: the first law of the design; what a distributed run relies on when it calls a function
again after a lost worker, on another machine, or not at all because the result is stored.
"""

from __future__ import annotations

import copy
import functools
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

from funcpipe_prefect.fingerprint import fingerprint
from funcpipe_prefect.fingerprint.origin import is_users
from funcpipe_prefect.fingerprint.reach import closed_over, globals_reached
from funcpipe_prefect.kernel import bind
from funcpipe_prefect.laws.effects import findings
from funcpipe_prefect.laws.elsewhere import elsewhere
from funcpipe_prefect.laws.paste import paste, pasted_test
from funcpipe_prefect.laws.same import same_records
from funcpipe_prefect.laws.search import Found, copied, search, settled
from funcpipe_prefect.laws.subjects import Subject
from funcpipe_prefect.laws.verdicts import Law, Verdict
from funcpipe_prefect.laws.watch import watched

__all__ = ["purity_laws"]

_MENDS = {
    "clock": "take the time from the record, or as a parameter of the run",
    "randomness": "seed a random.Random with something of the record, or use uuid5 of its content",
    "network": "fetch before the pipeline, or in its source",
    "file": "read it as an artifact (@registry.artifact), or as the source",
    "environment": "hand the value in as a parameter: params: {name: ${VARIABLE}}",
    "process": "do it before the pipeline",
    "global": "return the value; use functools.cache where it is a cache",
}


def purity_laws(subject: Subject, *, is_quick: bool = False) -> Iterator[Law]:
    """State the laws of purity for a function.

    Args:
        subject: The function and what it is called with.
        is_quick: Leave out what starts another process.
    """
    checks: dict[str, Callable[[Subject], Verdict]] = {
        "globals untouched": _globals_untouched,  # first: what is written once may be written no more
        "no effects": _no_effects,
        "repeatable": _repeatable,
        "process independent": _process_independent,
        "input untouched": _input_untouched,
    }
    if is_quick:
        del checks["process independent"]
    assert subject.pasted  # as it is now, before a call changes it
    for name, check in checks.items():
        yield Law(name, subject.name, functools.partial(_called, subject, name, check))


def _called(subject: Subject, name: str, check: Callable[[Subject], Verdict]) -> Verdict:
    danger = _danger(subject)
    if danger and check is not _no_effects:
        return Verdict(name, subject.name, "skipped", reason=danger)
    with _restored(subject.function.call):
        return check(subject)


@contextmanager
def _restored(call: Any) -> Iterator[None]:
    """Put lists, dicts and sets that a function reaches back as they were, so that no law sees another's traces."""
    before = [(value, copy.copy(value)) for _, value in _reached(call) if type(value) in (list, dict, set)]
    try:
        yield
    finally:
        for value, content in before:
            value.clear()
            value.extend(content) if isinstance(value, list) else value.update(content)


def _repeatable(subject: Subject) -> Verdict:
    errors: list[str] = []
    succeeded = 0

    def twice(value: Any) -> str:
        nonlocal succeeded
        first = subject.ending(copied(value))
        again = subject.ending(value)
        succeeded += not first.error
        errors.append(first.error)
        return "" if first.agrees(again) else f"first {first}, then {again}"

    found = search(subject.values, twice, subject.effort)
    if errors and not succeeded and not found.reason:
        found = Found(found.tried, obstacle=f"it failed on each example, first with: {errors[0]}")
    return _verdict(
        subject, "repeatable", found,
        "make the output depend on the input alone: no state, no clock, no chance",
    )  # fmt: skip


def _process_independent(subject: Subject) -> Verdict:
    def here_and_there(value: Any) -> str:
        here = subject.ending(copied(value))
        for other in elsewhere:
            try:
                there = other.call(subject.function, value)
            except Exception as error:
                return f"cannot be sent to another process: {type(error).__name__}: {error}"
            if not here.agrees(there):
                return f"here {here}, in a process with PYTHONHASHSEED={other.seed} {there}"
        return ""

    return _verdict(
        subject, "process independent", search(subject.values, here_and_there, subject.effort),
        "sort what comes out of a set; use hashlib in place of hash(); keep id() and addresses out",
    )  # fmt: skip


def _input_untouched(subject: Subject) -> Verdict:
    def unchanged(value: Any) -> str:
        before = copied(value)
        subject.ending(value)
        return "" if same_records(before, value) else f"the input became {value!r}"

    return _verdict(
        subject, "input untouched", search(subject.values, unchanged, subject.effort),
        "make a new record (dataclasses.replace), and copy a list before changing it",
    )  # fmt: skip


def _globals_untouched(subject: Subject) -> Verdict:
    call = subject.function.call
    state = _state(call)
    before = fingerprint(call)

    def unwritten(value: Any) -> str:
        nonlocal before, state
        subject.ending(value)
        earlier, before = before, fingerprint(call)
        if before == earlier:
            return ""
        known, state = state, _state(call)
        changed = [name for name, now in state.items() if known.get(name) != now]
        return f"it wrote {', '.join(changed) or 'something that it reaches'}"

    return _verdict(
        subject, "globals untouched", search(subject.values, unwritten, subject.effort),
        "return the value in place of keeping it; functools.cache is a cache that the laws allow",
    )  # fmt: skip


def _state(call: Any) -> Mapping[str, str]:
    """Fingerprint, by name, the data that a function and its helpers reach."""
    return {name: fingerprint(value) for name, value in _reached(call)}


def _reached(call: Any) -> Iterator[tuple[str, Any]]:
    """Give the data that a function and its helpers reach: globals, closures, defaults, attributes."""
    waiting, seen = [call], set()
    for item in waiting:
        function: Any = item.func if isinstance(item, functools.partial) else getattr(item, "__func__", item)
        code = getattr(function, "__code__", None)
        if code is None or code in seen or not is_users(function.__module__):
            continue
        seen.add(code)
        name = function.__qualname__
        defaults = [*(function.__defaults__ or ()), *(function.__kwdefaults__ or {}).values()]
        yield from ((f"a default of {name}", value) for value in defaults)
        yield from ((f"{name}.{key}", value) for key, value in vars(function).items() if key[:2] != "__")
        for path, value in (*globals_reached(function), *closed_over(function)):
            if callable(value) and not _has_state(value):
                waiting.append(value)
            else:
                yield path, value


def _has_state(value: Any) -> bool:
    return not hasattr(value, "__code__") and not isinstance(value, type)


def _no_effects(subject: Subject) -> Verdict:
    """Read the bytecode, then watch what happens while some of the examples run."""
    vouched = subject.function.uses
    read = [one for one in findings(subject.function.call) if one.effect not in vouched]
    if read:
        reason, found = "; ".join(map(str, read)), Found(0)
    elif _danger(subject):
        return Verdict("no effects", subject.name)
    else:

        def quiet(value: Any) -> str:
            with watched() as events:
                subject.ending(value)
            return "; ".join(dict.fromkeys(str(one) for one in events if one.effect not in vouched))

        bind(subject.function)  # artifacts may read files, once
        found = search(
            subject.values, quiet, replace(subject.effort, examples=subject.effort.examples // 4 + 1)
        )
        reason = found.reason
    effect = reason.partition(":")[0]
    return _verdict(
        subject, "no effects", replace(found, reason=reason),
        f"{_MENDS.get(effect, '')}; or vouch for it: @registry.func(uses=({effect!r},))",
        has_example=not read,
    )  # fmt: skip


def _danger(subject: Subject) -> str:
    """Say why a function is not called by the laws, with made-up records: what it does goes outside."""
    uses = [*subject.function.uses, *(one.effect for one in findings(subject.function.call))]
    return next(
        (f"not called with examples: it uses the {one}" for one in uses if one == "network"), ""
    ) or next(("not called with examples: it starts processes" for one in uses if one == "process"), "")


def _verdict(subject: Subject, law: str, found: Found, mend: str, *, has_example: bool = True) -> Verdict:
    verdict = settled(law, subject.name, found)
    if verdict is not None:
        return verdict
    call = subject.pasted
    record = paste(found.example) if has_example else None
    parts = {"function": call, **({"record": record} if record else {})}
    tried = "[record]" if record else "None"
    test = pasted_test(
        f"{subject.name} {law}", parts, [f"check_pure(function, {tried})"],
        ["from funcpipe_prefect.laws import check_pure"],
    )  # fmt: skip
    shown = f"{subject.name}({record.expression})" if record else ""
    return Verdict(law, subject.name, "broken", found.tried, shown, found.reason, mend, test)
