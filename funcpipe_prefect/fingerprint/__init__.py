"""Stable hashes of code, parameters and types: what a stage key is made of.

A function's fingerprint covers its bytecode (without docstring, file name and line numbers) and
everything of the user's own packages that it reaches: helpers, classes, constants. Third-party
code counts by the version of its distribution, the standard library by Python's version. It is
the same in every process, on every machine and under every `PYTHONHASHSEED`.
"""

from funcpipe_prefect.fingerprint.walk import LAYOUT, fingerprint, key_of, pin

__all__ = ["LAYOUT", "fingerprint", "key_of", "pin"]
