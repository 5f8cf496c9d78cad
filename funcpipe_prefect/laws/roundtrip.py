"""Every record type in use comes back from the store, and from another process, as what it was."""

from __future__ import annotations

from typing import Any

import cloudpickle

from funcpipe_prefect.laws.paste import paste, pasted_test
from funcpipe_prefect.laws.search import Effort, Values, search, settled
from funcpipe_prefect.laws.verdicts import Law, Verdict
from funcpipe_prefect.schema import canonical_encoder, difference, store_codec, type_name

__all__ = ["round_trip_law"]


def round_trip_law(record_type: Any, values: Values, effort: Effort) -> Law:
    """State that records of a type survive their encodings: stored, pickled, canonical.

    Args:
        record_type: The type, or `Any` for plain values.
        values: Its records.
        effort: How hard to look.
    """
    return Law("round trip", type_name(record_type), lambda: _verdict(record_type, values, effort))


def _changed(record_type: Any, record: Any) -> str:
    codec, encode = store_codec(record_type), canonical_encoder(record_type)
    try:
        back = codec.decode(codec.encode(record))
    except Exception as error:
        return f"the store refuses it: {type(error).__name__}: {error}"
    told = difference(record, back)
    if told:
        return f"from the store {told}"
    try:
        sent = cloudpickle.loads(cloudpickle.dumps(record))
    except Exception as error:
        return f"it cannot be sent to another process: {type(error).__name__}: {error}"
    if encode(sent) != encode(record):
        return f"in another process it is {sent!r}"
    return "" if encode(back) == encode(record) else "its digest is another one when it comes from the store"


def _verdict(record_type: Any, values: Values, effort: Effort) -> Verdict:
    name = type_name(record_type)
    found = search(values, lambda record: _changed(record_type, record), effort)
    verdict = settled("round trip", name, found)
    if verdict is not None:
        return verdict
    tp, record = paste(record_type), paste(found.example)
    test = pasted_test(
        f"{name} round trip", {"record_type": tp, "record": record},
        ["check_round_trip(record_type, [record])"],
        ["from funcpipe_prefect.laws import check_round_trip"],
    )  # fmt: skip
    mend = "declare the field's real type, and keep to types with one form: no tuple in a list, no NaN key"
    return Verdict("round trip", name, "broken", found.tried, record.expression, found.reason, mend, test)
