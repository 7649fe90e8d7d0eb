"""Other users act between any two system calls of a publication, and no acknowledged instance is lost.

The tests try each action alone at every place, two publications of one UID preempted at every place, a kill at every
place, and many random schedules of all of these together, from fixed seeds.
"""

from __future__ import annotations

import itertools
import os
import random
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest

from tests.unit.store.interleaving import DISTURBANCES, Publication, World, stepped

POLICIES = ("keep-both", "replace", "reject")
STARTS = ("new", "identical", "different", pytest.param("pruned", marks=pytest.mark.slow))
"""The start of a publication: no file, the same instance, another with its UID, or a pruner who comes twice."""


class Worlds:
    """Makes one world after another, each in a folder of its own."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._numbers = itertools.count()
        self.present: World | None = None

    def begin(self, duplicates: str, start: str = "new") -> World:
        before, self.present = self.present, None
        if before is not None:
            shutil.rmtree(before.root.parent)
        self.present = world = World(self._folder / str(next(self._numbers)), duplicates)
        if start in ("identical", "different"):
            world.run(Publication(world, b"ours" if start == "identical" else b"else"))
        return world


@pytest.fixture
def worlds(tmp_path: Path) -> Iterator[Worlds]:
    """Worlds in memory if there is such a file system, because the thousands of them are never synced."""
    memory = Path("/dev/shm")
    with TemporaryDirectory(prefix="dicomd-test-", dir=memory if os.access(memory, os.W_OK) else tmp_path) as folder:
        made = Worlds(Path(folder))
        with stepped(lambda: made.present):
            yield made


def pruning(world: World, publication: Publication) -> Callable[[], None]:
    """Return `advance` with a pruner who removes the folders before each of the first two links into them."""
    left = [world.prune] * 2

    def advance() -> None:
        if left and publication.pending == "link":
            left.pop()()
        publication.advance()

    return advance


@pytest.mark.parametrize("start", STARTS)
@pytest.mark.parametrize("duplicates", POLICIES)
def test_one_action_between_any_two_calls(worlds: Worlds, duplicates: str, start: str) -> None:
    for disturb in DISTURBANCES:
        for place in itertools.count():
            world = worlds.begin(duplicates, start)
            ours = Publication(world, b"ours")
            advance = pruning(world, ours) if start == "pruned" else ours.advance
            for _ in range(place):
                if not ours.over:
                    advance()
            ended = ours.over
            disturb(world)
            while not ours.over:
                advance()
            assert world.wrong() == [], (disturb.__name__, place)
            if ended:
                assert place > 8
                break


@pytest.mark.slow
@pytest.mark.parametrize("theirs", [b"ours", b"else"])
@pytest.mark.parametrize("duplicates", POLICIES)
def test_two_publications_of_one_uid_with_the_file_moved_in_between(
    worlds: Worlds, duplicates: str, theirs: bytes
) -> None:
    """One publication fails, the other begins at each of its steps, and the study or file is moved at that moment."""
    for failing_sync, disturb in itertools.product((0, 1, 2), (World.move_file, World.move_study, World.prune)):
        for place in itertools.count():
            world = worlds.begin(duplicates)
            first = Publication(world, b"ours", failing_sync=failing_sync)
            for _ in range(place):
                if not first.over:
                    first.advance()
            ended = first.over
            disturb(world)
            second = Publication(world, theirs)
            while not second.over and second.pending != "sleep":
                second.advance()
            world.run(first, second)
            assert world.wrong() == [], (failing_sync, disturb.__name__, place)
            if ended:
                break


@pytest.mark.parametrize("start", STARTS)
@pytest.mark.parametrize("duplicates", POLICIES)
def test_a_kill_between_any_two_calls(worlds: Worlds, duplicates: str, start: str) -> None:
    """The next sender's answer is true as well, and a sweep removes everything left by the killed publication."""
    for place in itertools.count():
        for theirs in (b"ours", b"else"):
            world = worlds.begin(duplicates, start)
            ours = Publication(world, b"ours")
            advance = pruning(world, ours) if start == "pruned" else ours.advance
            for _ in range(place):
                if not ours.over:
                    advance()
            ended = ours.over
            if not ended:
                ours.kill()
            world.sweep()
            world.run(Publication(world, theirs))
            assert world.wrong() == [], (place, theirs)
        if ended:
            assert place > 8
            break


def play(worlds: Worlds, duplicates: str, seed: int) -> None:
    """Three publications and up to eight actions in random order, sometimes with a pruner."""
    chance = random.Random(seed)
    world = worlds.begin(duplicates)
    publications: list[Publication] = []
    waiting = [chance.choice((b"ours", b"ours", b"else")) for _ in range(3)]
    actions = chance.choices(DISTURBANCES, k=chance.randrange(9))
    pruned = chance.random() < 0.3
    advances: list[Callable[[], None]] = []
    story: list[str] = [f"pruned: {pruned}"]
    while waiting or any(not each.over for each in publications):
        running = [each for each in publications if not each.over]
        if waiting and (not running or chance.random() < 0.05):
            failing_sync = chance.choice((0, 0, 1, 2, 3))
            publication = Publication(world, waiting.pop(), failing_sync=failing_sync)
            publications.append(publication)
            advances.append(pruning(world, publication) if pruned else publication.advance)
            story.append(f"begin {len(publications)} failing {failing_sync}")
        elif actions and chance.random() < 0.15:
            action = actions.pop()
            action(world)
            story.append(action.__name__)
        elif running and chance.random() < 0.01:
            chance.choice(running).kill()
            story.append("kill")
        elif running:
            each = chance.choice(running)
            number = publications.index(each)
            story.append(f"{number + 1} {each.pending}")
            for _ in range(chance.choice((1, 1, 2, 5))):
                if not each.over:
                    advances[number]()
    assert world.wrong() == [], (seed, story)


@pytest.mark.parametrize("duplicates", POLICIES)
def test_random_schedules(worlds: Worlds, duplicates: str) -> None:
    for seed in range(100):
        play(worlds, duplicates, seed)


@pytest.mark.slow
@pytest.mark.timeout(300)
@pytest.mark.parametrize("duplicates", POLICIES)
def test_many_random_schedules(worlds: Worlds, duplicates: str) -> None:
    for seed in range(100, 3000):
        play(worlds, duplicates, seed)
