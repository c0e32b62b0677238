"""Reading the pages that the report writes."""

from pathlib import Path


def lines(page: Path, columns: str) -> list[dict[str, str]]:
    """The Markdown table of a page whose first column has this name, line by line."""
    rows = [
        [cell.strip() for cell in line.strip("|").split("|")] for line in page.read_text().splitlines() if "|" in line
    ]
    head = next(row for row in rows if row[0] == columns)
    return [
        dict(zip(head, row, strict=True)) for row in rows if len(row) == len(head) and row != head and row[0][:1] != ":"
    ]
