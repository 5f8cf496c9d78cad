"""Keys and windows against Beam's own: the same answers from Beam's windowing, and from our transform."""

from __future__ import annotations

import json
import random
from collections import Counter
from pathlib import Path
from typing import Any

import apache_beam as beam
import pytest
from apache_beam.options.pipeline_options import PipelineOptions
from apache_beam.testing.util import assert_that, equal_to
from apache_beam.transforms import window
from apache_beam.transforms.window import TimestampedValue

from funcpipe_prefect import BackendError, load_pipeline, run_local, to_ptransform
from tests.registries.shapes import Event, time_of

IN_MEMORY = ["--runner=FnApiRunner", "--direct_running_mode=in_memory", "--direct_num_workers=1"]


def events(count: int = 400) -> list[Event]:
    chance = random.Random(11)
    return [
        Event(n, chance.choice("abc"), chance.randint(1, 12), round(chance.uniform(-200, 200), 3))
        for n in range(count)
    ]


def spec(folder: Path, window: Any, **changes: Any) -> dict[str, Any]:
    keyed = {"type": "CombineByKey", "name": "totals", "key": "user_of", "lift": "amount_of", "monoid": "sum"}
    sink = {
        "type": "Sink", "name": "write", "func": "jsonl", "contract": {"idempotent": True},
        "params": {"path": str(folder / "out")},
    }  # fmt: skip
    return {
        "imports": ["tests.registries.shapes"],
        "operators": [{**keyed, **({"window": window} if window else {}), **changes}, sink],
        "cache": {"storage": str(folder / "store")},
        "errors": {"path": str(folder / "letters")},
    }


@pytest.mark.parametrize(
    ("ours", "theirs"),
    [
        ({"size": "30m"}, window.FixedWindows(1800)),
        ({"size": 1000, "offset": 90}, window.FixedWindows(1000, 90)),
        ({"size": "1h", "period": "20m"}, window.SlidingWindows(3600, 1200)),
        ({"size": 600, "period": 1000, "offset": 250}, window.SlidingWindows(600, 1000, 250)),
    ],
)
def test_windows_give_what_beams_own_windowing_gives(tmp_path: Path, ours: Any, theirs: Any) -> None:
    made = events()
    pipeline = load_pipeline(spec(tmp_path, {"time": "time_of", **ours}))
    run_local(pipeline, made)
    rows = [line for part in (tmp_path / "out").glob("part-*") for line in part.read_text().splitlines()]
    found = sorted((row["key"], row["start"], row["end"], row["value"]) for row in map(json.loads, rows))

    class Told(beam.DoFn):
        def process(self, element: Any, window: Any = beam.DoFn.WindowParam) -> Any:
            start, end = (moment.to_utc_datetime().isoformat() + "Z" for moment in (window.start, window.end))
            yield element[0], start, end, element[1]

    with beam.Pipeline(options=PipelineOptions(IN_MEMORY)) as p:
        sums = (
            p
            | beam.Create(made, reshuffle=False)
            | beam.Map(lambda event: TimestampedValue((event.user, event.amount), time_of(event).timestamp()))
            | beam.WindowInto(theirs)
            | beam.CombinePerKey(sum)
            | beam.ParDo(Told())
        )
        assert_that(sums, equal_to(found))
    assert len(found) > 20


def test_the_transform_combines_per_key_and_keeps_dead_letters_apart(tmp_path: Path) -> None:
    made = [*events(60), Event(99, "nobody", 1, 0), Event(98, "a", 13, 0)]
    expected: Counter[str] = Counter()
    for event in events(60):
        expected[event.user] += event.amount
    with beam.Pipeline(options=PipelineOptions(IN_MEMORY)) as p:
        out = p | beam.Create(made, reshuffle=False) | to_ptransform(load_pipeline(spec(tmp_path, None)))
        assert_that(
            out.results | beam.Map(lambda pair: (pair.key, pair.value)), equal_to([*expected.items()])
        )
        failed = out.dead_letters | beam.Map(lambda letter: letter["record"]["id"])
        assert_that(failed, equal_to([99, 98]), label="letters")


def test_the_transform_of_a_graph_names_its_ends(tmp_path: Path) -> None:
    mapping = spec(tmp_path, None)
    mapping["operators"] += [
        {"type": "Distinct", "name": "unique", "key": "user_of", "input": "source"},
        {"type": "Combine", "name": "count", "lift": "one", "monoid": "count"},
    ]
    with beam.Pipeline(options=PipelineOptions(IN_MEMORY)) as p:
        out = p | beam.Create(events(60), reshuffle=False) | to_ptransform(load_pipeline(mapping))
        assert set(out.ends) == {"write", "count"}
        assert_that(out.ends["count"], equal_to([3]))


def test_what_depends_on_places_is_refused_where_records_have_none(tmp_path: Path) -> None:
    mapping = spec(tmp_path, None, monoid="reservoir_sample")
    p = beam.Pipeline(options=PipelineOptions(IN_MEMORY))
    with pytest.raises(BackendError, match="'totals' depends on the places of records"):
        p | beam.Create(events(2), reshuffle=False) | to_ptransform(load_pipeline(mapping))
