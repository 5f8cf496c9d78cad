"""Record functions with a planted fault, each followed by a twin that does the same job purely.

What belongs to a pair, such as the cache that its faulty half fills, stands above it.
"""

from __future__ import annotations

import collections
import functools
import itertools
import math
import os
import random
import secrets
import shutil
import socket
import subprocess
import time
import urllib.request
import uuid
import zlib
from collections.abc import Iterator
from dataclasses import dataclass, replace
from datetime import date, datetime, timezone
from pathlib import Path


@dataclass
class Doc:
    id: int
    text: str
    tags: list[str]


@dataclass(frozen=True)
class Visit:
    page: str
    second: int


@dataclass
class Profile:
    id: int
    settings: dict[str, dict[str, int]]


def appends_to_its_tags(doc: Doc) -> Doc:
    doc.tags.append("en")
    return doc


def makes_longer_tags(doc: Doc) -> Doc:
    return replace(doc, tags=[*doc.tags, "en"])


def overwrites_its_text(doc: Doc) -> Doc:
    doc.text = doc.text.title()
    return doc


def replaces_its_text(doc: Doc) -> Doc:
    return replace(doc, text=doc.text.title())


def sorts_its_tags_in_place(doc: Doc) -> list[str]:
    doc.tags.sort()
    return doc.tags[:2]


def sorts_a_copy_of_its_tags(doc: Doc) -> list[str]:
    return sorted(doc.tags)[:2]


def drains_its_tags(doc: Doc) -> Iterator[str]:
    while doc.tags:
        yield doc.tags.pop()


def goes_back_through_its_tags(doc: Doc) -> Iterator[str]:
    yield from reversed(doc.tags)


def pops_the_id(record: dict[str, int]) -> tuple[int, dict[str, int]]:
    return record.pop("id"), record


def splits_off_the_id(record: dict[str, int]) -> tuple[int, dict[str, int]]:
    return record["id"], {name: value for name, value in record.items() if name != "id"}


def caps_through_a_shallow_copy(profile: Profile) -> Profile:
    settings = dict(profile.settings)
    for limits in settings.values():
        limits["megabytes"] = min(limits.get("megabytes", 100), 100)
    return replace(profile, settings=settings)


def caps_in_new_dicts(profile: Profile) -> Profile:
    settings = {
        name: {**limits, "megabytes": min(limits.get("megabytes", 100), 100)}
        for name, limits in profile.settings.items()
    }
    return replace(profile, settings=settings)


def shuffles_its_tags(doc: Doc) -> Doc:
    random.shuffle(doc.tags)
    return doc


def shuffles_by_its_id(doc: Doc) -> Doc:
    return replace(doc, tags=random.Random(doc.id).sample(doc.tags, len(doc.tags)))


_tidied: dict[str, str] = {}


def tidies_through_a_global_cache(text: str) -> str:
    if text not in _tidied:
        _tidied[text] = " ".join(text.split()).lower()
    return _tidied[text]


@functools.lru_cache(maxsize=1024)
def _tidy(text: str) -> str:
    return " ".join(text.split()).lower()


def tidies_through_lru_cache(text: str) -> str:
    return _tidy(text)


_numbered = 0


def numbers_by_a_global(doc: Doc) -> tuple[int, str]:
    global _numbered
    _numbered += 1
    return (_numbered, doc.text)


def numbers_by_its_id(doc: Doc) -> tuple[int, str]:
    return (doc.id, doc.text)


def counts_its_calls(doc: Doc) -> int:
    counts_its_calls.calls += 1  # type: ignore[attr-defined]
    return len(doc.text.split())


counts_its_calls.calls = 0  # type: ignore[attr-defined]


def counts_words(doc: Doc) -> int:
    return len(doc.text.split())


class _Seen:
    longest = 0


def shares_the_longest_by_a_class(text: str) -> float:
    _Seen.longest = max(_Seen.longest, len(text), 1)
    return len(text) / _Seen.longest


def shares_of_a_fixed_longest(text: str) -> float:
    return len(text) / 280


def drops_words_seen_by_default(doc: Doc, seen: set[str] = set()) -> list[str]:  # noqa: B006
    fresh = [word for word in doc.text.split() if word not in seen]
    seen.update(fresh)
    return fresh


def drops_words_seen_in_it(doc: Doc) -> list[str]:
    return list(dict.fromkeys(doc.text.split()))


_serial = itertools.count(1)


def takes_the_next_number(doc: Doc) -> str:
    return f"invoice-{next(_serial):06d}"


def takes_its_own_number(doc: Doc) -> str:
    return f"invoice-{doc.id:06d}"


def _two_groups() -> Iterator[str]:
    while True:
        yield "control"
        yield "treatment"


_groups = _two_groups()


def assigns_groups_in_turn(doc: Doc) -> str:
    return next(_groups)


def assigns_groups_by_id(doc: Doc) -> str:
    return ("control", "treatment")[doc.id % 2]


class TellsRepeats:
    """Remembers what it was called with."""

    def __init__(self) -> None:
        self.seen: set[str] = set()

    def __call__(self, text: str) -> tuple[str, bool]:
        is_repeat = text in self.seen
        self.seen.add(text)
        return (text, is_repeat)


class TellsListed:
    """Knows what it was made with, and learns nothing."""

    def __init__(self, listed: frozenset[str]) -> None:
        self.listed = listed

    def __call__(self, text: str) -> tuple[str, bool]:
        return (text, text in self.listed)


def stamps_the_time(doc: Doc) -> tuple[int, float]:
    return (doc.id, time.time())


def stamps_its_own_time(doc: Doc) -> tuple[int, float]:
    return (doc.id, doc.id / 1000)


def dates_by_now(visit: Visit) -> str:
    return f"{visit.page} at {datetime.now(timezone.utc).isoformat()}"


def dates_by_its_second(visit: Visit) -> str:
    return f"{visit.page} at {datetime.fromtimestamp(visit.second, timezone.utc).isoformat()}"


def ages_by_today(visit: Visit) -> int:
    return date.today().toordinal() - visit.second // 86_400


_REPORT_DAY = date(2025, 6, 30)


def ages_by_the_report_day(visit: Visit) -> int:
    return _REPORT_DAY.toordinal() - visit.second // 86_400


@functools.cache
def _started_ns() -> int:
    return time.perf_counter_ns()


def names_the_workers_start(doc: Doc) -> str:
    return f"{_started_ns()}-{doc.id}"


_RELEASED_NS = 1_750_000_000


def names_the_release(doc: Doc) -> str:
    return f"{_RELEASED_NS}-{doc.id}"


_RUN = uuid.uuid4().hex


def keys_by_an_id_made_at_import(doc: Doc) -> str:
    return f"{_RUN}/{doc.id}"


def keys_by_a_fixed_namespace(doc: Doc) -> str:
    return f"documents/{doc.id}"


def keys_by_uuid4(doc: Doc) -> tuple[str, str]:
    return (str(uuid.uuid4()), doc.text)


def keys_by_uuid5(doc: Doc) -> tuple[str, str]:
    return (str(uuid.uuid5(uuid.NAMESPACE_URL, doc.text)), doc.text)


def samples_by_random(doc: Doc) -> bool:
    return random.random() < 0.5


def samples_by_a_generator_of_its_id(doc: Doc) -> bool:
    return random.Random(doc.id).random() < 0.5


def seeds_the_shared_generator(doc: Doc) -> list[float]:
    random.seed(doc.id)
    return [random.gauss(0.0, 1.0) for _ in range(2)]


def seeds_a_generator_of_its_own(doc: Doc) -> list[float]:
    generator = random.Random(doc.id)
    return [generator.gauss(0.0, 1.0) for _ in range(2)]


def masks_by_a_random_salt(doc: Doc) -> str:
    return f"{zlib.crc32((secrets.token_hex(8) + doc.text).encode()):08x}"


def masks_by_a_fixed_salt(doc: Doc) -> str:
    return f"{zlib.crc32(('d41d8cd98f00b204' + doc.text).encode()):08x}"


def joins_a_set_of_words(doc: Doc) -> str:
    return ", ".join(set(doc.text.split()))


def joins_a_sorted_set_of_words(doc: Doc) -> str:
    return ", ".join(sorted(set(doc.text.split())))


def picks_any_word(doc: Doc) -> str:
    return next(iter(set(doc.text.split())), "")


def picks_the_least_word(doc: Doc) -> str:
    return min(doc.text.split(), default="")


def finds_the_commonest_of_a_set(doc: Doc) -> str:
    """Ties go to whichever word the set gives first."""
    words = doc.text.split()
    counts = {word: words.count(word) for word in set(words)}
    return max(counts, key=counts.__getitem__, default="")


def finds_the_commonest_by_place(doc: Doc) -> str:
    counts = collections.Counter(doc.text.split())
    return max(counts, key=counts.__getitem__, default="")


def weighs_a_set_of_words(doc: Doc) -> float:
    weight = 0.0
    for word in set(doc.text.split()):
        weight += 1 / (2 + zlib.crc32(word.encode()) % 97)
    return weight


def weighs_words_exactly(doc: Doc) -> float:
    return math.fsum(1 / (2 + zlib.crc32(word.encode()) % 97) for word in set(doc.text.split()))


_LABELS = {name: label for label, name in enumerate({"arts", "law", "news", "science", "sport", "travel"})}


def labels_by_a_set(doc: Doc) -> list[int]:
    return [_LABELS.get(word, -1) for word in ("news", "sport", *doc.tags)]


_SORTED_LABELS = {name: label for label, name in enumerate(sorted(_LABELS))}


def labels_by_a_sorted_set(doc: Doc) -> list[int]:
    return [_SORTED_LABELS.get(word, -1) for word in ("news", "sport", *doc.tags)]


def shards_by_hash(doc: Doc) -> int:
    return hash(doc.text) % 64


def shards_by_crc(doc: Doc) -> int:
    return zlib.crc32(doc.text.encode()) % 64


def orders_words_by_hash(doc: Doc) -> list[str]:
    return sorted(doc.text.split(), key=hash)


def orders_words_by_crc(doc: Doc) -> list[str]:
    return sorted(doc.text.split(), key=lambda word: (zlib.crc32(word.encode()), word))


def orders_words_by_address(doc: Doc) -> list[str]:
    return sorted(doc.text.split(), key=id)


def orders_words_by_length(doc: Doc) -> list[str]:
    return sorted(doc.text.split(), key=len)


def keys_by_address(doc: Doc) -> str:
    return f"{doc.id}-{id(doc):x}"


def keys_by_number(doc: Doc) -> str:
    return f"{doc.id}-{len(doc.text):x}"


class _Bare:
    def __init__(self, word: str) -> None:
        self.word = word


@dataclass(frozen=True)
class _Shown:
    word: str


def lists_words_by_their_bare_repr(doc: Doc) -> str:
    return str([_Bare(word) for word in ("start", *doc.text.split())])


def lists_words_by_a_repr_of_fields(doc: Doc) -> str:
    return str([_Shown(word) for word in ("start", *doc.text.split())])


def places_by_environment(doc: Doc) -> str:
    return f"{os.environ.get('REGION', 'eu')}/{doc.id}"


_REGION = "eu"


def places_by_a_constant(doc: Doc) -> str:
    return f"{_REGION}/{doc.id}"


def quietens_a_library(doc: Doc) -> list[str]:
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    return doc.text.split()


def leaves_libraries_alone(doc: Doc) -> list[str]:
    return doc.text.split()


def resolves_against_the_working_directory(doc: Doc) -> str:
    return f"{os.getcwd()}/{doc.id}.txt"  # noqa: PTH109


def resolves_against_a_given_root(doc: Doc, *, root: str = "/data") -> str:
    return f"{root}/{doc.id}.txt"


def counts_words_that_a_file_has(doc: Doc) -> int:
    known = set(Path(__file__).read_text().split())
    return sum(word in known for word in doc.text.split())


def counts_words_that_are_given(doc: Doc, *, known: frozenset[str] = frozenset({"def", "doc"})) -> int:
    return sum(word in known for word in doc.text.split())


def logs_to_a_file(doc: Doc) -> int:
    with open(os.devnull, "a") as log:
        log.write(f"{doc.id}\n")
    return len(doc.text)


def logs_nothing(doc: Doc) -> int:
    return len(doc.text)


def signs_by_process(doc: Doc) -> str:
    return f"{doc.id} by {os.getpid()}"


def signs_by_name(doc: Doc) -> str:
    return f"{doc.id} by {signs_by_name.__name__}"


def signs_by_host(doc: Doc) -> str:
    return f"{doc.id} on {socket.gethostname()}"


def signs_by_table(doc: Doc) -> str:
    return f"{doc.id} on documents"


def fetches_one_in_a_million(doc: Doc) -> str:
    if doc.id == 123_456_789:
        with urllib.request.urlopen("http://127.0.0.1:9/") as answer:
            return str(answer.read())
    return doc.text


def marks_one_in_a_million(doc: Doc) -> str:
    return "to be fetched" if doc.id == 123_456_789 else doc.text


def _converted(text: str) -> str:
    return subprocess.run(["iconv", "-t", "ascii"], input=text, capture_output=True, text=True).stdout


def converts_the_long_by_a_program(doc: Doc) -> str:
    return _converted(doc.text) if len(doc.text) > 1_000_000 else doc.text


def converts_the_long_by_a_codec(doc: Doc) -> str:
    return doc.text.encode("ascii", "ignore").decode() if len(doc.text) > 1_000_000 else doc.text


def _swept(folder: str) -> None:
    shutil.rmtree(folder, ignore_errors=True)


def sweeps_up_after_the_last(doc: Doc) -> int:
    if doc.id == -987_654_321:
        _swept("/nonexistent/scratch")
    return doc.id


def leaves_sweeping_to_the_runner(doc: Doc) -> int:
    return doc.id
