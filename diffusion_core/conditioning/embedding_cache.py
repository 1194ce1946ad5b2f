"""A bounded cache of what was encoded: prompts and reference images."""

import threading
from collections import OrderedDict
from collections.abc import Hashable, Mapping

import torch

Embedding = Mapping[str, torch.Tensor]
"""Argument of a pipeline's `__call__` -> its value for one image, (1, ...), in host memory."""


class EmbeddingCache:
    """The most recently used embeddings, in at most `max_bytes` of host memory; thread-safe."""

    def __init__(self, max_bytes: int) -> None:
        self._max_bytes = max_bytes
        self._embeddings: OrderedDict[Hashable, Embedding] = OrderedDict()
        self._bytes = 0
        self._lock = threading.Lock()

    def get(self, key: Hashable) -> Embedding | None:
        """The embedding of a key; None if it was never put, or was dropped since."""
        with self._lock:
            if key in self._embeddings:
                self._embeddings.move_to_end(key)
            return self._embeddings.get(key)

    def put(self, key: Hashable, embedding: Embedding) -> Embedding:
        """Keep an embedding, and drop the least recently used ones that no longer fit."""
        with self._lock:
            replaced = self._embeddings.pop(key, None)
            self._bytes -= 0 if replaced is None else _num_bytes(replaced)
            self._embeddings[key] = embedding
            self._bytes += _num_bytes(embedding)
            while self._bytes > self._max_bytes and len(self._embeddings) > 1:
                _, dropped = self._embeddings.popitem(last=False)
                self._bytes -= _num_bytes(dropped)
        return embedding


def _num_bytes(embedding: Embedding) -> int:
    return sum(value.nbytes for value in embedding.values())
