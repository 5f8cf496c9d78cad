"""A registry that gives a name of `golden_docs` to something else."""

from funcpipe_prefect import Registry

registry = Registry()


@registry.func
def clean_doc(doc: str) -> str:
    return doc
