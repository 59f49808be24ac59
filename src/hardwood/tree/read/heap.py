"""A binary heap whose root is the largest key, kept in two arrays that the caller makes."""

from __future__ import annotations

from hardwood.tree.compiled.numeric import jit


@jit
def push(keys, items, n, key, item):  # type: ignore[no-untyped-def]
    """Adds an item to a heap.

    Args:
        keys: (room,) float64, the heap in ``keys[:n]``; room for one more.
        items: (room,) int64, what each key stands for.
        n: how many items the heap has.
        key: the new item's.
        item: the new item.
    """
    i = n
    while i > 0 and keys[(i - 1) // 2] < key:
        keys[i], items[i] = keys[(i - 1) // 2], items[(i - 1) // 2]
        i = (i - 1) // 2
    keys[i], items[i] = key, item


@jit
def pop(keys, items, n):  # type: ignore[no-untyped-def]
    """Takes the root off a heap of ``n`` items (see `push`); the caller has read it from ``keys[0]`` and
    ``items[0]``."""
    key, item = keys[n - 1], items[n - 1]
    i = 0
    while 2 * i + 1 < n - 1:
        c = 2 * i + 1
        if c + 1 < n - 1 and keys[c + 1] > keys[c]:
            c += 1
        if keys[c] <= key:
            break
        keys[i], items[i] = keys[c], items[c]
        i = c
    keys[i], items[i] = key, item
