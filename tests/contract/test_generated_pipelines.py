"""Two hundred generated pipelines: what the local backend gives, every other backend gives.

A pipeline follows from its seed. What is compared is all that a user gets: counts, digest, answer,
the committed bytes of output and dead letters, or the text of the error. So that this takes
seconds, many pipelines share one Beam pipeline, each by the transform that the product launches.
"""

from __future__ import annotations

import functools
import itertools
import json
import pickle
import random
import re
import threading
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import apache_beam as beam
import cloudpickle
import pytest
import yaml
from apache_beam.options.pipeline_options import PipelineOptions

from funcpipe_prefect import Pipeline, RunReport, load_pipeline
from funcpipe_prefect.backends.beam.options import as_flags, options_for
from funcpipe_prefect.backends.beam.request import SplitWork
from funcpipe_prefect.backends.beam.splits import RunStage
from funcpipe_prefect.backends.beam.transform import to_ptransform
from funcpipe_prefect.backends.local import LocalEngine, run_local
from funcpipe_prefect.backends.protocol import Engine, Receipts, execute
from funcpipe_prefect.backends.work import Job, run_stage
from funcpipe_prefect.errors import BackendError
from funcpipe_prefect.fingerprint import key_of
from funcpipe_prefect.ir import SOURCE, BeamSettings, Combine, Resources, Sink, Undecodable
from funcpipe_prefect.monoid import digest_of, digest_text
from funcpipe_prefect.plan import Lane, Plan, StageReceipt
from funcpipe_prefect.schema import canonical_encoder
from funcpipe_prefect.store import Handover
from tests.conftest import BEAM_MODES, ROOT, beam_overrides

SEEDS = range(200)
FAILING = {seed for seed in SEEDS if seed % 40 == 3}
"""In these one operator meets a record that it fails on, under `fail_fast`."""

APART = 20
"""Each pipeline of a seed divisible by this is a transform of its own, as the product launches it; the others
share one, since Beam takes a tenth of a second for each."""

OPERATORS: Mapping[str, Sequence[tuple[str, str, str, tuple[str, ...]]]] = {
    "Item": [
        ("Map", "shout", "Item", ("refuse", "stumble")),
        ("Map", "weigh", "Item", ("stumble", "huge")),
        ("FlatMap", "split", "Token", ("refuse", "stumble")),
        ("FlatMap", "copies", "Item", ("stumble",)),
        ("BatchMap", "grade", "Item", ("refuse", "stumble")),
        ("Filter", "keep", "Item", ("refuse", "stumble")),
        ("Distinct", "item_key", "Item", ("refuse", "stumble")),
    ],
    "Token": [
        ("Map", "label", "Token", ("refuse", "stumble", "huge")),
        ("FlatMap", "letters", "Token", ("refuse",)),
        ("BatchMap", "score", "Token", ("stumble",)),
        ("Map", "restore", "Item", ("stumble",)),
        ("Distinct", "", "Token", ()),
        ("CombineByKey", "token_key", "Pair", ("refuse", "stumble")),
        ("CombineByKey", "token_time", "Timed", ()),
    ],
    "Pair": [("Map", "counted", "Item", ("refuse",))],
    "Timed": [("Map", "timed", "Item", ())],
}
LIFTS = {"sum": "number", "counter": "counts", "mean": "mean", "top_k": "top"}
WORDS = ["alpha", "Grüße", "世界", "e\u0301", "\u2028", "x" * 30, '"', "\\", "<b>", "0", "🦜", "word"]
UNDECODABLE = [
    b"{not json", b'{"id": "seven", "text": "", "weight": null, "tags": []}', b'{"id": 1}', b"\xff\xfe", b"[]",
    b'{"id": 1, "text": "\\ud800", "weight": null, "tags": []}', b"\x00",
]  # fmt: skip


@dataclass(frozen=True)
class Case:
    """A generated pipeline."""

    seed: int
    spec: Mapping[str, Any]
    lines: bytes

    @property
    def name(self) -> str:
        return str(self.spec["name"])

    def written(self, root: Path) -> None:
        folder = root / self.name
        folder.mkdir()
        (folder / "in.jsonl").write_bytes(self.lines)

    def loaded(self, root: Path, backend: str) -> Pipeline:
        """Build the pipeline with places of its own for what a backend writes."""
        folder = root / self.name
        own = folder / backend
        spec = {
            **self.spec,
            "source": {**self.spec["source"], "path": str(folder / "in.jsonl")},
            "operators": [
                {**one, "params": {"path": str(own / "out")}} if one["type"] == "Sink" else one
                for one in self.spec["operators"]
            ],
            "cache": {"storage": str(own / "store")},
            "errors": {"path": str(own / "letters")},
        }
        return load_pipeline(spec)

    def __str__(self) -> str:
        text = yaml.safe_dump(dict(self.spec), sort_keys=False, allow_unicode=True)
        lines = "".join(f"#   {line!r}\n" for line in self.lines.splitlines(keepends=True))
        return f"# seed {self.seed}\n{text}# in.jsonl:\n{lines}"


def generated(seed: int) -> Case:
    """Make the pipeline of a seed, and its input."""
    chance = random.Random(seed)
    fails = seed in FAILING
    count = (
        chance.randint(30, 60)
        if fails
        else chance.choice([chance.randint(0, 3), *(chance.randint(4, 60) for _ in range(5))])
    )
    operators, types = _chain(chance, chance.randint(1, 4), fails=fails)
    points = chance.sample([one["name"] for one in operators], min(chance.randint(0, 2), len(operators)))
    last = types[-1]
    spec = {
        "name": f"p{seed:03}",
        "imports": ["tests.registries.generated"],
        "source": {"type": "jsonl", "path": "in.jsonl", "splits": chance.randint(1, 5)},
        "operators": [*operators, *_terminal(chance, last, is_safe=fails)],
        "materialization_points": [one["name"] for one in operators if one["name"] in points],
        "serialization": {"default": chance.choice(["msgpack", "arrow"])},
        "retries": {"delay_seconds": 0},
    }
    return Case(seed, spec, _lines(chance, count))


def _chain(chance: random.Random, length: int, *, fails: bool) -> tuple[list[dict[str, Any]], list[str]]:
    operators: list[dict[str, Any]] = []
    types = ["Item"]
    for number in range(length + 1):
        if number == length and types[-1] not in ("Pair", "Timed"):
            break
        choice = [
            one for one in OPERATORS[types[-1]] if not fails or one[0] not in ("Distinct", "CombineByKey")
        ]
        kind, function, out_type, troubles = chance.choice(choice)
        if types[-1] == "Token" and out_type == "Item" and chance.random() < 0.5:
            kind, function, out_type, troubles = OPERATORS["Token"][0]
        params = {name: chance.randint(2, 9) for name in troubles if chance.random() < 0.5}
        if function == "copies":
            params["most"] = chance.randint(0, 4)
        if chance.random() < 0.25:
            params, policy = {name: params[name] for name in params if name == "most"}, "fail_fast"
        else:
            policy = chance.choice(["drop", "collect"])
        operator: dict[str, Any] = {
            "type": kind, "name": f"{function or 'same'}{number}", "func": function, "error_policy": policy, "params": params,
        }  # fmt: skip
        if kind == "BatchMap":
            operator["max_batch_size"] = chance.choice([1, 2, chance.randint(3, 50), 50])
        if kind in ("Distinct", "CombineByKey"):
            _group(chance, operator)
        operators.append(operator)
        types.append(out_type)
    if fails:
        _make_fail(operators, chance.randrange(min(2, length)))
    return operators, types


def _group(chance: random.Random, operator: dict[str, Any]) -> None:
    """Make a keyed operator of what a record operator would be."""
    function, params = operator.pop("func"), operator.pop("params")
    if chance.random() < 0.5:
        operator["partitions"] = chance.randint(1, 7)
    if operator["type"] == "Distinct":
        if function:
            operator |= {"key": function, "params": params}
        return
    operator |= {"key": "token_key", "key_params": params, "lift": "token_number", "monoid": "sum"}
    if function == "token_time":
        size = chance.choice([10, 45.5, 100])
        operator["window"] = {"time": function, "size": size}
        if chance.random() < 0.5:
            operator["window"]["period"] = chance.choice([size / 2, 2 * size])


def _make_fail(operators: Sequence[dict[str, Any]], index: int) -> None:
    """Have one operator fail on every second record, and enough records reach it."""
    for operator in operators:
        if operator["func"] == "copies":
            operator["params"]["most"] = 4
        operator["params"].pop("huge", None)
    failing = operators[index]
    failing["error_policy"] = "fail_fast"
    failing["params"] = {**failing["params"], "refuse" if failing["func"] == "letters" else "stumble": 2}


def _terminal(chance: random.Random, record_type: str, *, is_safe: bool) -> list[dict[str, Any]]:
    policy = chance.choice(["drop", "collect"])
    kind = chance.choice(["jsonl", "jsonl", "parquet", "parquet", "Combine", "Combine", ""])
    if kind == "Combine":
        monoid = chance.choice(list(LIFTS))
        params = {"stumble": chance.randint(2, 9)} if chance.random() < 0.4 and not is_safe else {}
        lift = f"{record_type.lower()}_{LIFTS[monoid]}"
        return [
            {"type": "Combine", "name": "total", "lift": lift, "monoid": monoid, "error_policy": policy, "params": params}
        ]  # fmt: skip
    if not kind:
        return []
    return [
        {"type": "Sink", "name": "write", "func": kind, "error_policy": policy, "contract": {"idempotent": True}, "params": {"path": "out"}}
    ]  # fmt: skip


def _lines(chance: random.Random, count: int) -> bytes:
    share = chance.choice([0, 0.05, 0.2])
    end = chance.choice([b"\n", b"\r\n"])
    lines = []
    for number in range(count):
        record = {
            "id": number,
            "text": " ".join(chance.choices(WORDS, k=chance.choice([0, 1, 3, 8]))),
            "weight": chance.choice([None, 0.1, -3.5, 1e300, number / 3]),
            "tags": chance.choices(WORDS, k=chance.randint(0, 2)),
        }
        line = json.dumps(record, ensure_ascii=chance.random() < 0.5).encode()
        lines.append(chance.choice(UNDECODABLE) if chance.random() < share else line)
        if chance.random() < 0.05:
            lines.append(b"  ")
    text = end.join(lines)
    return text if chance.random() < 0.3 else text + end * bool(lines)


@dataclass(frozen=True)
class Outcome:
    """All that a user gets from a run: numbers and answer with the committed bytes, or an error."""

    report: Mapping[str, Any] = field(default_factory=dict)
    files: Mapping[str, bytes] = field(default_factory=dict)
    error: str = ""


def outcome_of(case: Case, root: Path, backend: str, run: Callable[[Pipeline], RunReport]) -> Outcome:
    pipeline = case.loaded(root, backend)
    try:
        report = run(pipeline)
    except Exception as error:
        return Outcome({}, _committed(root / case.name / backend), f"{type(error).__name__}: {error}")
    numbers = {
        name: getattr(report, name)
        for name in (
            "status", "records_in", "records_out", "dropped", "errors", "splits", "tasks_run", "tasks_cached",
            "digest", "operators", "warnings",
        )
    }  # fmt: skip
    return Outcome({**numbers, "result": repr(report.result)}, _committed(root / case.name / backend))


def _committed(folder: Path) -> dict[str, bytes]:
    """Read what readers see: the manifests and what they name, and whatever else lies there."""
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for name in ("out", "letters")
        for path in sorted((folder / name).rglob("*"))
        if path.is_file() and "_staging" not in path.parts
    }


def differences(expected: Outcome, found: Outcome) -> Iterator[str]:
    """Say how a run differs from the reference."""
    if expected.error != found.error:
        yield f"error: {expected.error!r} became {found.error!r}"
    for name in expected.report.keys() | found.report.keys():
        one, other = expected.report.get(name), found.report.get(name)
        if one != other:
            yield f"{name}: {one!r} became {other!r}"
    for file in sorted(expected.files.keys() | found.files.keys()):
        data, others = expected.files.get(file), found.files.get(file)
        if data != others:
            yield f"{file}: {_start(data)} became {_start(others)}"


def _start(data: bytes | None) -> str:
    return "nothing" if data is None else f"{len(data)} bytes, {data[:200]!r}"


def complaint(backend: str, wrong: Mapping[int, Sequence[str]], cases: Sequence[Case]) -> str:
    """Describe the first pipelines that differ, each as YAML to paste."""
    worst_first = sorted(
        wrong.items(), key=lambda item: "FP501" in item[1][0]
    )  # the rest of a failed Beam pipeline
    told = [
        "\n".join([f"seed {seed} on {backend}:", *(f"  {line}" for line in lines), str(cases[seed])])
        for seed, lines in worst_first[:3]
    ]
    return f"{len(wrong)} of {len(cases)} pipelines differ: {sorted(wrong)}\n" + "\n".join(told)


@dataclass(frozen=True)
class Reference:
    """What the local backend gave."""

    root: Path
    cases: Sequence[Case]
    outcomes: Sequence[Outcome]

    def check(self, backend: str, found: Iterable[Outcome]) -> None:
        """Compare what the pipelines gave on a backend, in their order."""
        both = zip(self.outcomes, found, strict=True)
        wrong = {
            seed: lines for seed, (one, other) in enumerate(both) if (lines := list(differences(one, other)))
        }
        assert not wrong, complaint(backend, wrong, self.cases)


@pytest.fixture(scope="module")
def reference(tmp_path_factory: pytest.TempPathFactory) -> Reference:
    root = tmp_path_factory.mktemp("generated")
    cases = [generated(seed) for seed in SEEDS]
    for case in cases:
        case.written(root)
    return Reference(root, cases, [outcome_of(case, root, "local", run_local) for case in cases])


@dataclass
class _Request:
    """A stage of one pipeline, to be launched with those of others."""

    job: Job
    index: int
    work: Sequence[SplitWork]
    is_failing: bool
    answer: Future[Mapping[int, StageReceipt]] = field(default_factory=Future)

    @property
    def seed(self) -> int:
        return int(self.job.pipeline.name.removeprefix("p"))

    @property
    def name(self) -> str:
        return f"{self.job.pipeline.name}-{self.index}"

    @property
    def handover(self) -> Handover:
        return Handover(self.job.pipeline.storage, key_of("generated", self.name))


class _Rounds:
    """Waits until every pipeline that goes on wants a stage run; then runs those stages together.

    Args:
        options: Of the Beam runner.
        pipelines: How many there are.
    """

    def __init__(self, options: Sequence[str], pipelines: int) -> None:
        self._options = options
        self._changed = threading.Condition()
        self._live, self._waiting = pipelines, list[_Request]()

    def ask(self, request: _Request) -> Mapping[int, StageReceipt]:
        with self._changed:
            self._waiting.append(request)
            self._changed.notify()
        return request.answer.result()

    def end(self) -> None:
        """Count one pipeline less."""
        with self._changed:
            self._live -= 1
            self._changed.notify()

    def run(self) -> None:
        """Run until no pipeline goes on."""
        while True:
            with self._changed:
                self._changed.wait_for(lambda: len(self._waiting) == self._live)
                requests, self._waiting = self._waiting, []
            if not requests:
                return
            failing = [one for one in requests if one.is_failing]
            for group in [[one for one in requests if not one.is_failing], *([one] for one in failing)]:
                self._launch(group)

    def _launch(self, requests: Sequence[_Request]) -> None:
        pipeline = beam.Pipeline(options=PipelineOptions([*self._options, "--job_name=generated"]))
        together = []
        for one in requests:
            one.handover.begin("first")
            run = RunStage(cloudpickle.dumps(one.job), one.index, one.work, one.handover, "first")
            if one.is_failing or one.seed % APART == 0:
                _ = pipeline | one.name >> run
            else:
                together.append(run)
        if together:
            _ = pipeline | "together" >> _RunTogether(together)
        why = "it handed nothing over"
        try:
            pipeline.run().wait_until_finish()
        except Exception as error:
            why = f"{type(error).__name__}: {error}"
        for one in requests:
            _answer(one, why)


class _RunTogether(RunStage):
    """Runs stages of many pipelines as one: each element brings the step that would have run it."""

    def __init__(self, stages: Sequence[RunStage]) -> None:
        beam.PTransform.__init__(self)

        def run_each(element: bytes) -> Iterator[int]:  # within, so that no worker imports this module
            run, work = pickle.loads(element)
            yield from run.process(work)

        self._elements = [pickle.dumps((one._run, element)) for one in stages for element in one._elements]
        self._run: Any = run_each


def _answer(request: _Request, why: str) -> None:
    handover = request.handover
    receipts = {work.number: handover.receipt(work.number) for work in request.work}
    found = {number: receipt for number, receipt in receipts.items() if receipt is not None}
    failures = handover.failures()
    handover.clear()
    if len(found) == len(receipts):
        request.answer.set_result(found)
    else:
        request.answer.set_exception(failures[min(failures)] if failures else BackendError(why))


class _BeamEngine(LocalEngine):
    """Has its stages run together with those of other pipelines; merges and commits here."""

    def __init__(self, rounds: _Rounds, error: str) -> None:
        self._rounds = rounds
        found = re.search(r"FP401 (\w+)(\.store)?: ", error)
        self._failing = found[1] if found else ""

    def run_lane(
        self, job: Job, plan: Plan, lane: Lane, notify: Callable[[int, StageReceipt], None]
    ) -> Receipts:
        receipts: Receipts = {}
        for index in lane.stages:
            stage = job.stages[index]
            work = [
                SplitWork(
                    number,
                    task.split,
                    task.keys,
                    receipts.get((stage.upstream or 0, number)) if stage.upstream is not None else None,
                    task.feed,
                )
                for number, task in enumerate(lane.tasks)
                if (index, number) in plan.needed
            ]
            is_failing = self._failing in {operator.name for operator in stage.nodes}
            found = self._rounds.ask(_Request(job, index, work, is_failing)) if work else {}
            for number, receipt in found.items():
                receipts[index, number] = receipt
                notify(index, receipt)
        return receipts


def options_of(mode: str, request: pytest.FixtureRequest) -> list[str]:
    """Give the options with which the product would launch on a mode of the Beam backend."""
    given = beam_overrides(mode, request)
    settings = BeamSettings(given.get("beam.runner", "DirectRunner"), given.get("beam.options", {}))
    runner = "FnApiRunner" if settings.runner == "DirectRunner" else settings.runner
    return [f"--runner={runner}", *as_flags(options_for(settings, Resources(workers=2)))]


@pytest.mark.slow
@pytest.mark.parametrize("mode", BEAM_MODES)
def test_a_pipeline_gives_on_a_beam_runner_what_it_gives_without(
    mode: str, reference: Reference, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    rounds = _Rounds(options_of(mode, request), len(reference.cases))

    def run(case: Case) -> Outcome:
        engine = _BeamEngine(rounds, reference.outcomes[case.seed].error)
        try:
            return outcome_of(case, reference.root, mode, functools.partial(executed, engine))
        finally:
            rounds.end()

    with ThreadPoolExecutor(len(reference.cases)) as threads:
        running = [threads.submit(run, case) for case in reference.cases]
        rounds.run()
    reference.check(mode, [one.result() for one in running])


def executed(engine: Engine, pipeline: Pipeline) -> RunReport:
    with ExitStack() as afterwards:
        return execute(pipeline, engine, afterwards=afterwards)


class _DaskEngine(LocalEngine):
    """Has its stages run on a Dask cluster; merges and commits here."""

    def __init__(self, client: Any) -> None:
        self._client = client

    def run_lane(
        self, job: Job, plan: Plan, lane: Lane, notify: Callable[[int, StageReceipt], None]
    ) -> Receipts:
        futures: dict[tuple[int, int], Any] = {}
        for number, task in enumerate(lane.tasks):
            for index in lane.stages:
                if (index, number) in plan.needed:
                    upstream = job.stages[index].upstream
                    before = None if upstream is None else futures[upstream, number]
                    futures[index, number] = self._client.submit(
                        run_stage, job, index, task.split, task.keys, before, task.feed, pure=False
                    )
        for future in futures.values():
            future.exception()  # waits: nothing goes on when the first failure is raised
        receipts = {place: future.result() for place, future in futures.items()}
        for (index, _), receipt in receipts.items():
            notify(index, receipt)
        return receipts


@pytest.mark.prefect
def test_a_pipeline_gives_on_a_dask_cluster_what_it_gives_without(
    reference: Reference, dask_address: str
) -> None:
    import distributed

    with distributed.Client(dask_address, set_as_default=False) as client, ThreadPoolExecutor(8) as threads:
        run = functools.partial(executed, _DaskEngine(client))
        found = threads.map(lambda case: outcome_of(case, reference.root, "dask", run), reference.cases)
        reference.check("dask", found)


class _Noted(beam.DoFn):
    """Writes down of each element what is compared: the hash of a result, the operator of a dead letter."""

    def __init__(self, path: Path, record_type: Any = None, *, is_letter: bool = False) -> None:
        self._path, self._type, self._is_letter = path, record_type, is_letter

    def setup(self) -> None:
        self._encode = canonical_encoder(self._type)

    def process(self, element: Any) -> None:
        noted = element["operator"] if self._is_letter else str(digest_of(self._encode(element))[1])
        with self._path.open("a") as file:
            file.write(f"{noted}\n")


def test_a_pipeline_gives_as_a_ptransform_what_it_gives_without(reference: Reference) -> None:
    chosen = [case for case in reference.cases if _has_a_counterpart(case, reference.outcomes[case.seed])]
    options = PipelineOptions([
        "--runner=FnApiRunner", "--direct_running_mode=in_memory", "--direct_num_workers=1",
    ])  # fmt: skip
    places = {}
    pipeline = beam.Pipeline(options=options)
    for case in chosen:
        places[case.seed] = _applied(pipeline, case, reference.root)
    pipeline.run().wait_until_finish()
    wrong = {}
    for seed, (results, letters) in places.items():
        report = reference.outcomes[seed].report
        hashes = list(map(int, results.read_text().split()))
        found = (digest_text((len(hashes), sum(hashes) % (1 << 256))), Counter(letters.read_text().split()))
        errors = {counts.name: counts.errors for counts in report["operators"] if counts.name != SOURCE}
        expected = (report["digest"], +Counter(errors))
        if found != expected:
            wrong[seed] = [f"{expected!r} became {found!r}"]
    assert not wrong, complaint("to_ptransform", wrong, reference.cases)
    assert len(chosen) > 20


def _has_a_counterpart(case: Case, outcome: Outcome) -> bool:
    """Choose a third, since Beam takes its time to build them; a transform knows no store and no sink that refuses."""
    if case.seed % 3 or outcome.error or any(one["type"] == "Distinct" for one in case.spec["operators"]):
        return False
    places = {"write", *(f"{one['name']}.store" for one in case.spec["operators"])}
    return not any(one.errors + one.dropped for one in outcome.report["operators"] if one.name in places)


def _applied(pipeline: beam.Pipeline, case: Case, root: Path) -> tuple[Path, Path]:
    """Apply a pipeline's transform to its records; give the files in which its outputs are noted."""
    compiled, folder = case.loaded(root, "ptransform"), root / case.name
    assert compiled.source is not None
    records = [
        record
        for split in compiled.source.list_splits()
        for _, record in compiled.source.read(split, compiled.record_type)
        if not isinstance(record, Undecodable)
    ]
    results, letters = folder / "results", folder / "dead_letters"
    results.touch()
    letters.touch()
    last = compiled.operators[-1]
    outputs = (
        pipeline
        | f"{case.name} records"
        >> beam.Create(records, reshuffle=False).with_output_types(compiled.record_type)
        | to_ptransform(compiled)
    )
    record_type = (
        Any if isinstance(last, Combine) else last.in_type if isinstance(last, Sink) else last.out_type
    )
    _ = outputs.results | f"{case.name} results" >> beam.ParDo(_Noted(results, record_type))
    _ = outputs.dead_letters | f"{case.name} letters" >> beam.ParDo(_Noted(letters, is_letter=True))
    return results, letters


def test_the_generated_pipelines_leave_out_no_operator_policy_end_or_failure(reference: Reference) -> None:
    chains = [
        [one for one in case.spec["operators"] if one["name"] not in ("write", "total")]
        for case in reference.cases
    ]
    met = {(one["type"], one["error_policy"]) for chain in chains for one in chain}
    kinds = ("Map", "FlatMap", "BatchMap", "Filter", "Distinct", "CombineByKey")
    assert met == set(itertools.product(kinds, ("drop", "collect", "fail_fast")))
    assert {len(chain) for chain in chains} == {1, 2, 3, 4, 5}
    assert {len(case.spec["materialization_points"]) for case in reference.cases} == {0, 1, 2}
    ends = [case.spec["operators"][-1] for case in reference.cases]
    assert {one.get("monoid") for one in ends} == {None, *LIFTS}
    assert {one["func"] for one in ends if one["type"] == "Sink"} == {"jsonl", "parquet"}
    reports = [one.report for one in reference.outcomes if not one.error]
    assert {report["splits"] for report in reports} >= {1, 2, 3, 4, 5}
    troubled = {
        re.sub(r"\d", "", counts.name)
        for report in reports
        for counts in report["operators"]
        if counts.dropped + counts.errors
    }
    names = {name for operators in OPERATORS.values() for _, name, _, troubles in operators if troubles}
    assert troubled >= names | {SOURCE, "write", "total"}
    assert any(name.endswith(".store") for name in troubled), troubled
    failed = {seed: one for seed, one in enumerate(reference.outcomes) if "FP401" in one.error}
    assert failed.keys() >= FAILING
    assert len(failed) < 10
    assert not any(one.files for one in reference.outcomes if one.error)
    assert sum(bool(report["records_out"]) for report in reports) > len(SEEDS) / 2
