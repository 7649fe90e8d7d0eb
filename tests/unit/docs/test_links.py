"""Every link and every named file in the documents exists."""

import re
from pathlib import Path
from urllib.parse import unquote

import pytest

from tests.unit.docs.markdown import DOCUMENTS, ROOT, anchors, links, spans

PATH = re.compile(
    r"(?:\./)?(?:bench|dicomd|docs|etc|ops|packaging|scripts|tests)/[\w./-]*\.(?:catalog|md|py|service|toml)"
)


def name(document: Path) -> str:
    return str(document.relative_to(ROOT))


def problems(document: Path) -> list[str]:
    found = []
    for link in links(document.read_text(encoding="utf-8")):
        if re.match(r"[a-z]+:", link):
            continue
        path, _, anchor = unquote(link).partition("#")
        target = (document.parent / path).resolve() if path else document
        if not target.is_relative_to(ROOT) or not target.exists():
            found.append(f"{link}: there is no such file")
        elif anchor and anchor not in anchors(target.read_text(encoding="utf-8")):
            found.append(f"{link}: {name(target)} has no such heading")
    return found


@pytest.mark.parametrize("document", DOCUMENTS, ids=name)
def test_every_link_leads_somewhere(document: Path) -> None:
    assert problems(document) == []


@pytest.mark.parametrize("document", DOCUMENTS, ids=name)
def test_every_file_that_is_named_exists(document: Path) -> None:
    named = {span for span in spans(document.read_text(encoding="utf-8")) if PATH.fullmatch(span)}
    assert {path for path in named if not (ROOT / path).exists()} == set()


def test_every_document_can_be_reached_from_the_readme() -> None:
    reached: set[Path] = set()
    waiting = [ROOT / "README.md"]
    while waiting:
        document = waiting.pop()
        if document in reached:
            continue
        reached.add(document)
        targets = (link.partition("#")[0] for link in links(document.read_text(encoding="utf-8")) if ":" not in link)
        waiting += [(document.parent / target).resolve() for target in targets if target.endswith(".md")]
    assert reached >= set(DOCUMENTS)


def test_a_broken_link_is_seen(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(globals(), "ROOT", tmp_path)
    document = tmp_path / "a.md"
    document.write_text(
        "# One `two`, three\n[here](#one-two-three) [no](#four) [gone](b.md) `[code](c.md)`\n[out](https://example.org/)\n",
        encoding="utf-8",
    )
    assert problems(document) == ["#four: a.md has no such heading", "b.md: there is no such file"]
