"""docs/reliability.md: the tests that it names exist, its counts are those of the last run."""

import csv
import re
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]
PAGE = (ROOT / "docs" / "reliability.md").read_text(encoding="utf-8")


def counts():
    with (ROOT / "docs" / "reliability.csv").open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def test_what_it_names_exists():
    tests = "\n".join(path.read_text(encoding="utf-8") for path in (ROOT / "tests").glob("*.py"))
    named = set(re.findall(r"`(test_\w+)`", PAGE))
    assert len(named) > 25
    assert [name for name in sorted(named) if f"def {name}(" not in tests] == []
    files = set(re.findall(r"`(test_\w+\.py)`", PAGE))
    assert [name for name in sorted(files) if not (ROOT / "tests" / name).is_file()] == []
    links = re.findall(r"\]\(([^)#]+)\)", PAGE)
    assert [link for link in links if not (ROOT / "docs" / link).exists()] == []


def test_its_counts_are_those_of_the_last_run(monkeypatch, tmp_path):
    monkeypatch.syspath_prepend(ROOT / "scripts" / "stress")
    sys.modules.pop("report", None)
    import report

    (tmp_path / "docs").mkdir()
    for name in ("reliability.md", "reliability.csv"):
        (tmp_path / "docs" / name).write_text((ROOT / "docs" / name).read_text(encoding="utf-8"))
    report.write_table(tmp_path)
    assert (tmp_path / "docs" / "reliability.md").read_text(encoding="utf-8") == PAGE


def test_enough_was_tried_and_nothing_went_wrong():
    rows = counts()
    assert [row for row in rows if int(row["wrong"])] == []
    tried = {}
    for row in rows:
        tried[row["harness"]] = tried.get(row["harness"], 0) + int(row["tried"])
    least = {"fuzz": 20_000, "guided": 1000, "kill": 210, "same": 400, "load": 100_000}
    assert {name: n for name, n in least.items() if tried.get(name, 0) < n} == {}
    assert set(tried) == set(least)


def test_a_change_of_the_counts_is_kept(monkeypatch, tmp_path):
    """Those of the harnesses that ran replace their old ones, the others stay."""
    monkeypatch.syspath_prepend(ROOT / "scripts" / "stress")
    sys.modules.pop("report", None)
    import report

    (tmp_path / "docs").mkdir()
    row = {"what": "a thing", "tried": 5, "wrong": 0, "note": "fine, really"}
    report.keep(tmp_path, [{"harness": "fuzz", **row}, {"harness": "kill", **row}])
    report.keep(tmp_path, [{"harness": "kill", **row, "tried": 7}])
    with (tmp_path / "docs" / "reliability.csv").open(encoding="utf-8", newline="") as file:
        kept = {row["harness"]: row["tried"] for row in csv.DictReader(file)}
    assert kept == {"fuzz": "5", "kill": "7"}
