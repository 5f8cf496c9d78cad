"""Databases by SQLAlchemy's URLs: what the SQL sink and the SQL source share."""

from __future__ import annotations

import functools
from typing import Any

import sqlalchemy as sa
from sqlalchemy.engine import make_url
from sqlalchemy.exc import DBAPIError, SQLAlchemyError
from sqlalchemy.pool import NullPool

from funcpipe_prefect.secrets import has_secret

__all__ = ["check_url", "engine_of", "is_sqlite", "reason_of", "without_password"]

_BUSY_S = 120
_DIALECTS = ("postgresql", "sqlite")


def check_url(url: str) -> None:
    """Refuse what is no URL of a database that can be written to.

    Raises:
        ValueError: It is none.
    """
    if has_secret(url):
        return
    try:
        backend = make_url(url).get_backend_name()
    except (SQLAlchemyError, ValueError):
        raise ValueError(
            "the url is none of SQLAlchemy's, such as postgresql+psycopg://user@host/name"
        ) from None
    if backend not in _DIALECTS:
        raise ValueError(f"the url names a database of {backend}: there are {' and '.join(_DIALECTS)}")


def is_sqlite(url: str) -> bool:
    """Tell whether a URL names a database of SQLite."""
    return make_url(url).get_backend_name() == "sqlite"


def without_password(url: str) -> str:
    """Give a URL that can be shown."""
    return url if has_secret(url) else make_url(url).render_as_string(hide_password=True)


def reason_of(error: Exception, url: str) -> str:
    """Give the text of an error of a database, without the URL's password."""
    reason = str(error.orig if isinstance(error, DBAPIError) else error).strip()
    password = make_url(url).password
    return reason.replace(str(password), "***") if password else reason


@functools.lru_cache(maxsize=16)
def engine_of(url: str) -> sa.Engine:
    """Make the engine of a database; its connections are opened when they are needed, and closed.

    Raises:
        ModuleNotFoundError: Its driver is not installed.
    """
    parsed = make_url(url)
    connect = {"timeout": _BUSY_S} if parsed.get_backend_name() == "sqlite" else {}
    try:
        engine = sa.create_engine(parsed, poolclass=NullPool, connect_args=connect, hide_parameters=True)
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(
            f'{parsed.drivername} needs the module {error.name}: pip install "funcpipe-prefect[postgres]"',
            name=error.name,
        ) from error
    if parsed.get_backend_name() == "sqlite":
        sa.event.listen(engine, "connect", _without_own_transactions)
        sa.event.listen(engine, "begin", lambda connection: connection.exec_driver_sql("BEGIN IMMEDIATE"))
    return engine


def _without_own_transactions(connection: Any, _: Any) -> None:
    connection.isolation_level = None  # else the driver begins and ends them where it likes
