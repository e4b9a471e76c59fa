"""What the harnesses found: a summary, and the counts in the docs."""

from __future__ import annotations

import csv
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

COLUMNS = ("harness", "what", "tried", "wrong", "note")
BEGIN, END = "<!-- counts: begin -->", "<!-- counts: end -->"


def summarize(rows: Sequence[Mapping[str, Any]]) -> None:
    """Print a line for each thing tried, and what was wrong."""
    print("\nsummary")
    for row in rows:
        mark = "ok   " if not row["wrong"] else "WRONG"
        print(f"  {mark} {row['harness']}: {row['what']}: {row['tried']:,} tried, {row['note']}")
    wrong = sum(row["wrong"] for row in rows)
    print(f"{sum(row['tried'] for row in rows):,} tried, {wrong:,} wrong", flush=True)


def keep(root: Path, rows: Sequence[Mapping[str, Any]]) -> None:
    """Put the rows of the harnesses that ran in the place of their old ones."""
    path = root / "docs" / "reliability.csv"
    ran = {row["harness"] for row in rows}
    old = []
    if path.exists():
        with path.open(encoding="utf-8", newline="") as file:
            old = [row for row in csv.DictReader(file) if row["harness"] not in ran]
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, COLUMNS, lineterminator="\n")
        writer.writeheader()
        writer.writerows([*old, *({c: row[c] for c in COLUMNS} for row in rows)])


def write_table(root: Path) -> None:
    """Write the counts of docs/reliability.csv into docs/reliability.md."""
    with (root / "docs" / "reliability.csv").open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    lines = ["| harness | what | tried | wrong | |", "| --- | --- | ---: | ---: | --- |"]
    for row in rows:
        counts = f"{int(row['tried']):,} | {int(row['wrong']):,}"
        lines.append(f"| {row['harness']} | {row['what']} | {counts} | {row['note']} |")
    page = root / "docs" / "reliability.md"
    text = page.read_text(encoding="utf-8")
    head, rest = text.split(BEGIN)
    tail = rest.split(END)[1]
    page.write_text(f"{head}{BEGIN}\n" + "\n".join(lines) + f"\n{END}{tail}", encoding="utf-8")
