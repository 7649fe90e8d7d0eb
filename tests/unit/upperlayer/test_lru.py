"""The bounds of the cache."""

from dicomd.upperlayer.lru import BoundedCache


def test_the_longest_unused_entry_goes_first() -> None:
    cache: BoundedCache[int] = BoundedCache(entries=2, size=1000)
    cache.put(b"a", 1, size=1)
    cache.put(b"b", 2, size=1)
    assert cache.get(b"a") == 1
    cache.put(b"c", 3, size=1)
    assert (cache.get(b"a"), cache.get(b"b"), cache.get(b"c")) == (1, None, 3)


def test_bytes_are_bounded_too() -> None:
    cache: BoundedCache[int] = BoundedCache(entries=100, size=80)
    for index in range(20):
        cache.put(bytes([index]), index, size=10)
    assert len(cache) == 8
    cache.put(b"large", 1, size=11)
    assert cache.get(b"large") is None


def test_an_entry_put_again_counts_once() -> None:
    cache: BoundedCache[int] = BoundedCache(entries=100, size=80)
    for _ in range(50):
        cache.put(b"x", 1, size=10)
    cache.put(b"y", 2, size=10)
    assert (cache.get(b"x"), cache.get(b"y")) == (1, 2)
