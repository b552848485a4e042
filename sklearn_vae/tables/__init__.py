"""Tables with columns of several types: their types, and their columns as numbers."""

from sklearn_vae.tables.codec import TableCodec

__all__ = ["TableCodec"]
