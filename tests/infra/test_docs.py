"""What the documentation names is there."""

from __future__ import annotations

import re
from pathlib import Path

import wren_worker

ROOT = Path(wren_worker.__file__).parents[1]


def test_every_fault_has_its_row_and_every_test_it_names_exists():
    text = (ROOT / "docs" / "faults.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| (\d+) \|.*$", text.partition("\n## Beside")[0], re.MULTILINE)
    assert [int(number) for number in rows] == list(range(1, 55))
    named = re.findall(r"`((?:unit|process|system|contract|fuzz|faultproxy)/\w+\.py)(?:::(\w+))?`", text)
    assert len(named) > 60
    for path, name in named:
        source = (ROOT / "tests" / path).read_text(encoding="utf-8")
        assert not name or re.search(rf"^(?:async )?def {name}\(", source, re.MULTILINE), f"{path}::{name}"


def test_drills_that_are_named_are_scenarios():
    scenarios = (ROOT / "tests" / "boot" / "scenarios.py").read_text(encoding="utf-8")
    for page in ("faults.md", "shutdown.md"):
        text = (ROOT / "docs" / page).read_text(encoding="utf-8")
        for names in re.findall(r"`make drill`: ([^|]+)\|", text):
            for name in re.findall(r"\*([^*]+)\*", names):
                assert f'Scenario("{name}"' in scenarios, name


def test_links_between_pages_lead_somewhere():
    for page in [ROOT / "README.md", *(ROOT / "docs").glob("*.md")]:
        for target in re.findall(r"\]\((?!https?:)([^)#]+)", page.read_text(encoding="utf-8")):
            assert (page.parent / target).exists(), f"{page.name}: {target}"
