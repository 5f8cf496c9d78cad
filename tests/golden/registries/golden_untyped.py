"""The same names as `golden_docs`, without any annotation: types are known by name only."""

from funcpipe_prefect import Registry

registry = Registry()


@registry.func
def clean_doc(doc):
    return {**doc, "text": doc["text"].strip()}


@registry.func
def chunk_doc(doc):
    return [{**doc, "number": number, "text": line} for number, line in enumerate(doc["text"].splitlines())]


@registry.func
def embed_batch(chunks):
    return [{**chunk, "vector": [float(len(chunk["text"]))]} for chunk in chunks]


@registry.sink(idempotent=True)
def write_chunk(chunk):
    return None
