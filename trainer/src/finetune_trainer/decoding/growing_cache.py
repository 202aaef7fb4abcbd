"""A KV cache that grows in blocks.

transformers' `DynamicCache` copies all keys and values of a layer for each new token. The layers here write a token
behind the others, into room that they have made for several, and return views. The numbers are the same.
"""

from __future__ import annotations

from typing import Any

from torch import Tensor
from transformers.cache_utils import DynamicCache, DynamicLayer, DynamicSlidingWindowLayer

_ROOM = 64
"""Tokens that a layer makes room for at a time."""


class _Room:
    """Where keys, or values, of a layer are: (rows, heads, tokens and room, width)."""

    def __init__(self) -> None:
        self._store: Tensor | None = None
        self._kept: Tensor | None = None
        self._end = 0

    def append(self, kept: Tensor, new: Tensor) -> Tensor:
        """The kept states followed by new ones, (rows, heads, tokens, width): a view."""
        length, count = kept.shape[-2], new.shape[-2]
        if self._store is None or kept is not self._kept or self._end + count > self._store.shape[-2]:
            # The first token, or rows have left the batch, or the room is used up.
            self._store = new.new_empty(*new.shape[:-2], length + count + _ROOM, new.shape[-1])
            self._store[..., :length, :].copy_(kept)
            self._end = length
        self._store[..., self._end:self._end + count, :] = new
        self._end += count
        return self.keep(length + count)

    def keep(self, count: int) -> Tensor:
        """The last states, which the next call of `append` continues: a view."""
        assert self._store is not None
        self._kept = self._store[..., self._end - count:self._end, :]
        return self._kept


class GrowingLayer(DynamicLayer):
    """A `DynamicLayer` that grows in blocks."""

    keys: Tensor
    values: Tensor

    def __init__(self, layer: DynamicLayer) -> None:
        """
        Args:
            layer: the layer of a cache, with the states of the prompts. The new layer takes its place.
        """
        self.__dict__.update(layer.__dict__)
        self._rooms = _Room(), _Room()

    def update(self, key_states: Tensor, value_states: Tensor, *args: Any, **kwargs: Any) -> tuple[Tensor, Tensor]:
        """All keys and values, with the new ones (rows, heads, tokens, width) at their end."""
        self.keys = self._rooms[0].append(self.keys, key_states)
        self.values = self._rooms[1].append(self.values, value_states)
        return self.keys, self.values


class GrowingSlidingWindowLayer(DynamicSlidingWindowLayer):
    """A `DynamicSlidingWindowLayer` that grows in blocks."""

    keys: Tensor
    values: Tensor

    def __init__(self, layer: DynamicSlidingWindowLayer) -> None:
        """
        Args:
            layer: as in `GrowingLayer`.
        """
        self.__dict__.update(layer.__dict__)
        self._rooms = _Room(), _Room()

    def update(self, key_states: Tensor, value_states: Tensor, *args: Any, **kwargs: Any) -> tuple[Tensor, Tensor]:
        """All keys and values that new tokens see, as `GrowingLayer.update`."""
        self.cumulative_length += key_states.shape[-2]
        keys = self._rooms[0].append(self.keys, key_states)
        values = self._rooms[1].append(self.values, value_states)
        # The next token sees itself and one less than the window before it.
        kept = min(keys.shape[-2], self.sliding_window - 1)
        self.keys, self.values = self._rooms[0].keep(kept), self._rooms[1].keep(kept)
        return keys, values


_GROWN: dict[type, Any] = {DynamicLayer: GrowingLayer, DynamicSlidingWindowLayer: GrowingSlidingWindowLayer}


def grow_in_blocks(cache: Any) -> None:
    """Let the layers of a cache that holds the prompts grow in blocks; layers of other kinds stay as they are."""
    if type(cache) is not DynamicCache:
        return
    for index, layer in enumerate(cache.layers):
        grown = _GROWN.get(type(layer))
        # A layer without states shares those of another layer.
        if grown and layer.is_initialized:
            cache.layers[index] = grown(layer)


def can_drop_rows(cache: Any) -> bool:
    """Whether rows can be removed from a cache: it holds keys and values only.

    transformers 5.23 can't select rows of other states (Mamba, linear attention, convolutions).
    """
    kinds = {*_GROWN, *_GROWN.values()}
    return type(cache) is DynamicCache and all(type(layer) in kinds for layer in cache.layers)
