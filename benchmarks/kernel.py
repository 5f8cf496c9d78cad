"""The kernel against a hand-written nested loop over the same records in memory."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable, Sequence
from typing import Any

from benchmarks import by_hand, data
from benchmarks.measure import pairs, summary, write_result
from funcpipe_prefect.examples import rag
from funcpipe_prefect.ir import Artifact, BatchMap, FlatMap, Function, Map
from funcpipe_prefect.kernel import Trace, decoded, run_chain

TARGET = 0.9
DOCUMENTS = 3_000
INTEGERS = 200_000
PAIRS = 9


def plus_one(value: int) -> int:
    return value + 1


def twice(value: int) -> list[int]:
    return [value, value]


def plus_ones(batch: list[int]) -> list[int]:
    return [value + 1 for value in batch]


def pass_on(batch: list[rag.Chunk]) -> list[rag.Chunk]:
    return batch


def rag_chain(embed: Function) -> list[Any]:
    """Give the operators of the example, with this embedding."""
    chunk = Function("chunk_doc", rag.chunk_doc, params=(("overlap", 64), ("size", 512)))
    return [
        Map("clean", Function("clean_doc", rag.clean_doc), error_policy="drop"),
        FlatMap("chunk", chunk),
        BatchMap("embed", embed, max_batch_size=by_hand.BATCH),
    ]


def trivial_chain() -> list[Any]:
    """Give operators whose functions cost nothing."""
    return [
        Map("add", Function("plus_one", plus_one)),
        FlatMap("twice", Function("twice", twice)),
        BatchMap("batch", Function("plus_ones", plus_ones), max_batch_size=by_hand.BATCH),
    ]


def by_kernel(operators: Sequence[Any], records: Iterable[tuple[int, Any]]) -> int:
    """Run a chain to its end; count what comes out."""
    letters: list[Any] = []
    trace = Trace("benchmark", str, lambda info, record: letters.append(info))
    count = 0
    for _ in run_chain(operators, decoded(records, trace), trace):
        count += 1
    return count


def rag_by_loop(records: Iterable[tuple[int, Any]], embed: Callable[..., Any]) -> int:
    """Do the same by the nested loop."""
    letters: by_hand.Letters = []
    count = 0
    for batch in by_hand.embedded(records, embed, letters):
        for _ in batch:
            count += 1
    return count


def trivial_by_loop(records: Iterable[tuple[int, int]]) -> int:
    """Do the trivial chain by a nested loop with the same care for each record."""
    letters: by_hand.Letters = []
    count = 0
    batch: list[int] = []
    positions: list[int] = []
    for position, value in records:
        try:
            more = plus_one(value)
        except Exception as error:
            letters.append((position, "add", error))
            continue
        try:
            values = twice(more)
        except Exception as error:
            letters.append((position, "twice", error))
            continue
        for one in values:
            batch.append(one)
            positions.append(position)
            if len(batch) == by_hand.BATCH:
                for _ in by_hand.one_batch(batch, positions, plus_ones, letters):
                    count += 1
                batch, positions = [], []
    for _ in by_hand.one_batch(batch, positions, plus_ones, letters):
        count += 1
    return count


def compared(
    operators: Sequence[Any], loop: Callable[[Iterable[Any]], int], records: list[Any], n: int
) -> dict[str, Any]:
    """Time both ways over the same records, and check that they give as many."""
    counts = {by_kernel(operators, records), loop(records)}
    assert len(counts) == 1, f"the two ways differ: {counts}"
    ours, theirs = pairs(lambda: by_kernel(operators, records), lambda: loop(records), n)
    ratios = [other / own for own, other in zip(ours, theirs, strict=True)]
    return {
        "records_in": len(records),
        "records_out": counts.pop(),
        "kernel_s": summary(ours),
        "loop_s": summary(theirs),
        "ratio": summary(ratios),
    }


def main() -> None:
    model = rag.hash_embedder()
    docs = list(
        enumerate(rag.RawDoc(d["doc_id"], d["title"], "", d["abstract"]) for d in data.head(DOCUMENTS))
    )
    artifact = Artifact("hash_embedder", rag.hash_embedder)
    hashing = rag_chain(Function("hash_batch", rag.hash_batch, artifacts=(artifact,)))
    by_hash = functools.partial(rag.hash_batch, hash_embedder=model)
    passing = rag_chain(Function("pass_on", pass_on))
    full = compared(hashing, lambda records: rag_by_loop(records, by_hash), docs, PAIRS)
    light = compared(passing, lambda records: rag_by_loop(records, pass_on), docs, PAIRS)
    trivial = compared(trivial_chain(), trivial_by_loop, list(enumerate(range(INTEGERS))), PAIRS)
    cost = (trivial["kernel_s"]["median"] - trivial["loop_s"]["median"]) / INTEGERS
    value = full["ratio"]["median"]
    write_result(
        "kernel",
        what="throughput of the kernel to that of a nested loop, clean → chunk → hash embedding",
        value=value,
        unit="×",
        target=f">= {TARGET}",
        met=value >= TARGET,
        data=data.origin(),
        rag=full,
        without_embedding=light,
        trivial_functions={**trivial, "extra_ns_per_record": round(cost * 1e9)},
    )
    print(f"  without the embedding {light['ratio']['median']:.3f} ×, functions that cost nothing "
          f"{trivial['ratio']['median']:.3f} × ({cost * 1e9:.0f} ns more for each record)")  # fmt: skip


if __name__ == "__main__":
    main()
