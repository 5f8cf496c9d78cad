"""Functions for the tests of effects: a comment at a line tells what must be found there, and only there."""
# ruff: noqa

from __future__ import annotations

import builtins
import datetime as dt
import functools
import getpass
import glob
import gzip
import http
import http.client
import io
import json
import multiprocessing
import os
import os.path
import pathlib
import platform
import random
import secrets
import shutil
import socket
import sqlite3
import ssl
import subprocess
import sys
import tempfile
import threading
import time
import urllib.parse
import urllib.request
import uuid
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import date, datetime
from os import environ, getenv
from pathlib import Path, PurePath
from random import Random, shuffle
from time import time as t
from typing import Any

import fsspec
import httpx
import msgspec
import numpy
import numpy as np
import pydantic
from fsspec.core import url_to_fs
from httpx import Client, TransportError

SEEN: list[str] = []
COUNT = 0
ROOT = Path("somewhere")
RNG = Random(7)
CLOCKS = {"wall": time.time}
NOW = functools.partial(dt.datetime.now, dt.timezone.utc)

# ---- found ----------------------------------------------------------------------------------------


def clocks(x: Any) -> Any:
    a = time.time()  # clock: time.time
    a = time.time_ns() + time.monotonic()  # clock: time.time_ns, time.monotonic
    a = time.monotonic_ns(), time.perf_counter()  # clock: time.monotonic_ns, time.perf_counter
    a = time.perf_counter_ns(), time.process_time()  # clock: time.perf_counter_ns, time.process_time
    a = time.process_time_ns(), time.localtime()  # clock: time.process_time_ns, time.localtime
    a = time.gmtime(), time.ctime()  # clock: time.gmtime, time.ctime
    return (
        x,
        t(),  # clock: time.time
    )


def dates(x: Any) -> Any:
    a = datetime.now()  # clock: datetime.datetime.now
    a = dt.datetime.utcnow()  # clock: datetime.datetime.utcnow
    a = dt.datetime.today()  # clock: datetime.datetime.today
    return date.today()  # clock: datetime.date.today


def dates_by_default(x: Any, clock: Callable[[], float] = time.time, *, day: Any = date.today) -> Any:
    a = clock()  # clock: time.time
    return x, a, day()  # clock: datetime.date.today


def chances(x: Any) -> Any:
    a = random.random()  # randomness: random.random
    a = random.randint(1, 2), random.choice(x)  # randomness: random.randint, random.choice
    shuffle(x)  # randomness: random.shuffle
    random.seed(1)  # randomness: random.seed
    a = random.SystemRandom().random()  # randomness: random.SystemRandom
    a = secrets.token_hex(), secrets.choice(x)  # randomness: secrets.token_hex, secrets.choice
    a = os.urandom(3), os.getrandom(3)  # randomness: os.urandom, os.getrandom
    return uuid.uuid1(), uuid.uuid4()  # randomness: uuid.uuid1, uuid.uuid4


def chances_of_numpy(x: Any) -> Any:
    a = np.random.rand(3)  # randomness: numpy.random.rand
    numpy.random.shuffle(x)  # randomness: numpy.random.shuffle
    np.random.seed(1)  # randomness: numpy.random.seed
    return np.random.default_rng().random()  # randomness: numpy.random.default_rng()


def unseeded(x: Any) -> Any:
    a = random.Random()  # randomness: random.Random()
    return a, Random().random()  # randomness: random.Random()


def network(x: Any) -> Any:
    a = socket.socket()  # network: socket.socket
    a = socket.create_connection((x, 80))  # network: socket.create_connection
    a = socket.gethostbyname(x)  # network: socket.gethostbyname
    a = ssl.create_default_context()  # network: ssl.create_default_context
    a = http.client.HTTPConnection(x)  # network: http.client.HTTPConnection
    a = urllib.request.urlopen(x)  # network: urllib.request.urlopen
    a = httpx.get(x)  # network: httpx.get
    with Client() as client:  # network: httpx.Client
        return client.get(x)


def network_by_local_imports(x: Any) -> Any:
    import ftplib
    import xmlrpc.client as rpc
    from smtplib import SMTP as Mail

    a = Mail(x)  # network: smtplib.SMTP
    a = rpc.ServerProxy(x)  # network: xmlrpc.client.ServerProxy
    return ftplib.FTP(x)  # network: ftplib.FTP


def files(x: Any) -> Any:
    a = open(x)  # file: open
    a = io.open(x)  # file: open
    a = builtins.open(x)  # file: open
    a = os.open(x, 0), os.listdir(x), os.scandir(x)  # file: os.open, os.listdir, os.scandir
    a = os.walk(x), os.stat(x)  # file: os.walk, os.stat
    os.remove(x), os.unlink(x), os.rename(x, x)  # file: os.remove, os.unlink, os.rename
    os.replace(x, x), os.mkdir(x), os.makedirs(x)  # file: os.replace, os.mkdir, os.makedirs
    os.rmdir(x), os.removedirs(x)  # file: os.rmdir, os.removedirs
    a = os.path.exists(x), os.path.isfile(x)  # file: os.path.exists, os.path.isfile
    a = os.path.isdir(x), os.path.getsize(x)  # file: os.path.isdir, os.path.getsize
    a = os.path.getmtime(x), glob.glob(x)  # file: os.path.getmtime, glob.glob
    shutil.copy(x, x)  # file: shutil.copy
    a = tempfile.TemporaryDirectory()  # file: tempfile.TemporaryDirectory
    a = fsspec.open(x), url_to_fs(x)  # file: fsspec.open, fsspec.url_to_fs
    return sqlite3.connect(x)  # file: sqlite3.connect


def paths(x: Any) -> Any:
    a = Path(x)
    text = a.read_text()  # file: pathlib.Path.read_text
    a.write_text(x)  # file: pathlib.Path.write_text
    a.write_bytes(a.read_bytes())  # file: pathlib.Path.write_bytes, pathlib.Path.read_bytes
    a.mkdir()  # file: pathlib.Path.mkdir
    a.unlink()  # file: pathlib.Path.unlink
    b = a.exists(), a.is_file()  # file: pathlib.Path.exists, pathlib.Path.is_file
    b = a.iterdir()  # file: pathlib.Path.iterdir
    b = a.glob("*"), a.rglob("*")  # file: pathlib.Path.glob, pathlib.Path.rglob
    b = a.stat(), a.touch(), a.rename(x)  # file: pathlib.Path.stat, pathlib.Path.touch, pathlib.Path.rename
    return [Path(one).open() for one in x]  # file: pathlib.Path.open


def paths_by_annotation(path: Path) -> str:
    return path.read_text()  # file: pathlib.Path.read_text


def paths_in_a_union(path: str | pathlib.Path) -> Any:
    return path.exists()  # file: pathlib.Path.exists


def paths_in_a_global(x: Any) -> Any:
    a = ROOT.read_bytes()  # file: pathlib.Path.read_bytes
    return a, (ROOT / x).read_text()  # file: pathlib.Path.read_text


def paths_by_method(x: list[Path]) -> Any:
    return [*map(Path.read_text, x)]  # file: pathlib.Path.read_text


def environment(x: Any) -> Any:
    a = os.environ["A"], os.environ.get("B")  # environment: os.environ
    a = environ.get(x)  # environment: os.environ
    a = os.environb  # environment: os.environb
    a = os.getenv(x), getenv(x)  # environment: os.getenv
    a = os.getpid(), os.getcwd()  # environment: os.getpid, os.getcwd
    a = socket.gethostname(), platform.node()  # environment: socket.gethostname, platform.node
    a = getpass.getuser(), os.getlogin()  # environment: getpass.getuser, os.getlogin
    a = Path.cwd(), Path.home()  # environment: pathlib.Path.cwd, pathlib.Path.home
    a = sys.argv[1:]  # environment: sys.argv
    return threading.get_ident()  # environment: threading.get_ident


def processes(x: Any) -> Any:
    subprocess.run(x)  # process: subprocess.run
    a = subprocess.Popen(x)  # process: subprocess.Popen
    os.system(x)  # process: os.system
    os.popen(x)  # process: os.popen
    os.execv(x, x), os.spawnv(0, x, x)  # process: os.execv, os.spawnv
    os.fork(), os.kill(1, 1)  # process: os.fork, os.kill
    a = multiprocessing.Process()  # process: multiprocessing.Process
    return multiprocessing.Pool()  # process: multiprocessing.Pool


def a_global_written(x: Any) -> Any:
    global COUNT
    COUNT += 1  # global: global COUNT
    return x


def a_global_deleted(x: Any) -> Any:
    global COUNT
    del COUNT  # global: global COUNT


def a_global_written_within(x: Any) -> Any:
    def write() -> None:
        global SEEN
        SEEN = x  # global: global SEEN

    write()


# ---- by whatever way ------------------------------------------------------------------------------


def aliases(x: Any) -> Any:
    import time as clock
    from os import path as p
    from random import random as r
    from uuid import uuid4 as new
    from uuid import uuid5

    module = clock
    a = module.time_ns()  # clock: time.time_ns
    a = p.exists(x)  # file: os.path.exists
    a = uuid5(x, x)
    a = dt.datetime.now  # clock: datetime.datetime.now
    a = x.time
    return r(), new(), a()  # randomness: random.random, uuid.uuid4


def held_in_a_container(x: Any) -> Any:
    return CLOCKS[x]()  # clock: time.time


def held_in_a_partial(x: Any) -> Any:
    return NOW()  # clock: datetime.datetime.now


def as_an_argument(x: Any) -> Any:
    return sorted(x, key=lambda one: random.random())  # randomness: random.random


def two_levels_down(x: Any) -> Any:
    return _one_level_down(x)


def _one_level_down(x: Any) -> Any:
    return [_down(one) for one in x]


def _down(x: Any) -> Any:
    return x, time.time()  # clock: time.time


def nested(x: Any) -> Any:
    import time as clock

    def inner() -> Any:
        def innermost() -> float:
            return clock.time()  # clock: time.time

        return innermost()

    class Local:
        def stamp(self) -> Any:
            return os.getpid()  # environment: os.getpid

    return [inner() for _ in x if os.path.exists(x)], Local  # file: os.path.exists


def captured(x: Any) -> Any:
    from time import time as now

    def inner(clock: Any = None) -> float:
        return now()  # clock: time.time

    return inner


def generator(x: Any) -> Any:
    yield from (open(one) for one in x)  # file: open


async def coroutine(x: Any) -> Any:
    async with x as y:
        return await y, time.time()  # clock: time.time


def in_a_handler(x: Any) -> Any:
    try:
        return x()
    except ValueError:
        return time.time()  # clock: time.time
    finally:
        with x:
            os.getpid()  # environment: os.getpid


def recursive(x: Any) -> Any:
    return recursive(x[1:]) if x else _mutual(x)


def _mutual(x: Any) -> Any:
    return recursive(x) or time.time()  # clock: time.time


def timed(call: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(call)
    def wrapper(*args: Any) -> Any:
        start = time.perf_counter()  # clock: time.perf_counter
        return call(*args), start

    return wrapper


@timed
def decorated(x: Any) -> Any:
    return os.getpid()  # environment: os.getpid


@functools.cache
def cached(x: Any) -> Any:
    return os.getpid()  # environment: os.getpid


@functools.singledispatch
def dispatched(x: Any) -> Any:
    return x


@dispatched.register
def _of_text(x: str) -> Any:
    return os.getpid()  # environment: os.getpid


class Cleaner:
    def __call__(self, x: Any) -> Any:
        return self.clean(x)

    def clean(self, x: Any) -> Any:
        return self._tidy(x), self.home

    def _tidy(self, x: Any) -> Any:
        return os.getpid()  # environment: os.getpid

    @property
    def home(self) -> Any:
        return os.path.exists("home")  # file: os.path.exists

    def never_called(self, x: Any) -> Any:
        return open(x)


class Thorough(Cleaner):
    def clean(self, x: Any) -> Any:
        return super().clean(x)


class Tools:
    def __init__(self, clock: Callable[[], float]) -> None:
        self.clock = clock

    @classmethod
    def build(cls, x: Any) -> Any:
        return os.listdir(x)  # file: os.listdir

    @staticmethod
    def plain(x: Any) -> Any:
        return time.time()  # clock: time.time

    def stamped(self, x: Any) -> Any:
        return self.clock()  # clock: time.time

    @functools.cached_property
    def seed(self) -> Any:
        return os.urandom(3)  # randomness: os.urandom

    def seeded(self, x: Any) -> Any:
        return self.seed


CLEANER = Cleaner()


def makes_an_instance(x: Any) -> Any:
    return Cleaner().clean(x)


def has_an_instance(x: Any) -> Any:
    return CLEANER.clean(x)


def calls_an_instance(x: Any) -> Any:
    return CLEANER(x)


def calls_a_super_class(x: Any) -> Any:
    return Thorough().clean(x)


def calls_a_class_method(x: Any) -> Any:
    return Tools.build(x)


@dataclass
class Record:
    text: str
    made: float = field(default_factory=time.time)


def makes_a_record(x: Any) -> Any:
    return Record(x)  # clock: time.time


class Model(pydantic.BaseModel):
    made: str = pydantic.Field(default_factory=uuid.uuid4)


def makes_a_model(x: Any) -> Any:
    return Model()  # randomness: uuid.uuid4


class Struct(msgspec.Struct):
    made: float = msgspec.field(default_factory=time.time)


def makes_a_struct(x: Any) -> Any:
    return Struct()  # clock: time.time


class Agent(httpx.Client):
    pass


def makes_a_client_of_its_own(x: Any) -> Any:
    return Agent()  # network: httpx.Client


# ---- not found ------------------------------------------------------------------------------------


def pure_times(x: Any) -> Any:
    time.sleep(0)
    a = time.strptime(x), datetime.fromtimestamp(x), datetime(2020, 1, 1), dt.timedelta(1)
    return a, datetime.fromisoformat(x), time.struct_time


def pure_chances(x: Any) -> Any:
    a = random.Random(x), Random(x).random(), np.random.default_rng(x), RNG.random(), RNG.choice(x)
    return (
        a,
        uuid.uuid5(x, x),
        uuid.uuid3(x, x),
        uuid.UUID(x),
        secrets.compare_digest(x, x),
        list(map(Random, x)),
    )


def pure_network(x: Any) -> Any:
    import urllib.parse as parse
    from urllib.error import HTTPError

    try:
        return parse.urlsplit(x), urllib.parse.quote(x), http.HTTPStatus(200), httpx.codes.OK
    except (socket.timeout, TransportError, httpx.HTTPError, HTTPError, http.client.HTTPException) as error:
        raise ValueError(x, ssl.SSLError, socket.AF_INET, httpx.URL(x)) from error


def pure_files(x: Any) -> Any:
    a = os.path.join(x, "a"), os.path.basename(x), os.path.splitext(x), os.sep, os.fspath(x)
    a = PurePath(x).name, io.StringIO(x).read(), io.BytesIO(x), gzip.decompress(x), json.loads(x)
    return a, Path(x).name, Path(x) / "a", glob.escape(x), x.replace("a", "b")


def methods_of_no_path(x: Any) -> Any:
    return x.open(), x.rename(), x.stat(), x.exists(), x.glob(), PurePath(x)


def pure_processes(x: Any) -> Any:
    try:
        return x()
    except (subprocess.CalledProcessError, subprocess.TimeoutExpired, multiprocessing.TimeoutError):
        return None


def pure_systems(x: Any) -> Any:
    return sys.version_info, os.linesep, sys.maxsize, threading.Lock(), os.path.sep


def pure_globals(x: Any) -> Any:
    written = COUNT

    def inner() -> None:
        nonlocal written
        written = 3

    return SEEN, inner()


class Mine:
    @staticmethod
    def now() -> int:
        return 1


def time_of_mine() -> int:
    return 1


def pure_namesakes(x: Any) -> Any:
    def open(x: Any) -> Any:
        return x

    time = time_of_mine
    random = Mine
    return time(), open(x), random.now(), x.time(), x.random(), x.environ, x.system()


def pure_code_of_libraries(x: Any) -> Any:
    return json.dumps(x), tempfile, subprocess, fsspec.get_filesystem_class, numpy.array(x)


def pure_though_its_class_is_not(x: Any) -> Any:
    return Tools(x)
