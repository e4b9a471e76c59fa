"""Write the computed passages of README.md and docs/, and check that all other text has no numbers.

python scripts/readme.py            # rewrite the passages
python scripts/readme.py --check    # exit status 1 when one is not what the results say

A passage stands between ``<!-- name -->`` and ``<!-- / -->``, in a line or over many; its text is
what ``scripts/findings.py`` computes under that name from results/reference/, data and metadata.
Everywhere else a number is an error: nothing would keep it true.
"""

from __future__ import annotations

import re
import sys
from pathlib import Path

import findings

ROOT = Path(__file__).parents[1]
PAGES = [
    ROOT / "README.md",
    *(ROOT / "docs" / f"{name}.md" for name in ("findings", "comparison", "using", "reproducing")),
    ROOT / "docs" / "troubleshooting.md",
]
PASSAGE = re.compile(r"<!-- ([a-z][\w-]*) -->(.*?)<!-- / -->", re.DOTALL)

# Numbers: not parts of words, names or file names, such as 1-recall@10, uint8 or [01 Load ...].
NUMBER = re.compile(r"(?<![\w@./*-])(?!0\d)\d[\d,]*(?:\.\d+)?%?(?![\w@/-])(?!\.\d)")
# What holds no statement: code, addresses of links, numbers of list items, years.
SILENT = re.compile(
    r"```.*?```|`[^`]*`|\]\([^)]*\)|^\d+\. |(?<=[( ,\n])(?:19|20)\d\d(?=[),])",
    re.DOTALL | re.MULTILINE,
)


def rendered(text: str) -> str:
    """Return a page with its passages computed anew.

    Raises
    ------
    KeyError
        When ``findings`` knows no passage of a name.
    """

    def passage(match: re.Match[str]) -> str:
        edge = "\n" if match[2].startswith("\n") else ""
        return f"<!-- {match[1]} -->{edge}{findings.PASSAGES[match[1]]()}{edge}<!-- / -->"

    return PASSAGE.sub(passage, text)


def unsupported(text: str) -> list[str]:
    """Return the numbers of a page that stand in no passage, each with its line."""
    silent = text
    for pattern in (PASSAGE, SILENT):
        # Blanks of the same length, so that lines stay where they are.
        silent = pattern.sub(lambda match: re.sub(r"[^\n]", " ", match[0]), silent)
    return [
        f"line {1 + silent.count(chr(10), 0, match.start())}: {match[0]}"
        for match in NUMBER.finditer(silent)
    ]


def main() -> int:
    """Rewrite or check the pages; return the exit status."""
    check = "--check" in sys.argv[1:]
    status = 0
    for page in PAGES:
        text = page.read_text(encoding="utf-8")
        new = rendered(text)
        for place in unsupported(new):
            print(f"{page.name}, {place}: in no passage that scripts/findings.py computes")
            status = 1
        if new != text and check:
            print(f"{page.name}: not what the results say; run `make readme`")
            status = 1
        elif new != text:
            page.write_text(new, encoding="utf-8")
    return status


if __name__ == "__main__":
    sys.exit(main())
