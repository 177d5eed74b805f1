"""What was run where, in Markdown, from the port tests of one build: matrix.py [BUILD_DIR]"""
import json
import os
import re
import sys
from typing import Dict, List

COLUMNS = {"what": "What", "os": "OS", "libc": "libc", "cpu": "CPU", "python": "Python (host)",
           "compiler": "Compiler (client)", "result": "Result"}


def rows(path: str) -> List[Dict[str, str]]:
    """The last row of each combination: a build folder may have seen several runs."""
    newest: Dict[tuple, Dict[str, str]] = {}
    with open(path) as lines:
        for line in lines:
            row = json.loads(line)
            newest[tuple(row[key] for key in COLUMNS if key != "result")] = row
    return sorted(newest.values(), key=lambda row: [
        [int(part) if part.isdigit() else part for part in re.split(r"(\d+)", row[key])]
        for key in ("what", "cpu", "compiler", "python", "os", "libc")])


def table(found: List[Dict[str, str]]) -> str:
    lines = ["| " + " | ".join(COLUMNS.values()) + " |", "|" + "---|" * len(COLUMNS)]
    lines += ["| " + " | ".join(row[key].replace("|", "\\|") or "–" for key in COLUMNS) + " |"
              for row in found]
    return "\n".join(lines)


if __name__ == "__main__":
    folder = sys.argv[1] if len(sys.argv) > 1 else os.environ.get("BUILD_DIR", "build")
    try:
        print(table(rows(os.path.join(folder, "port-results.jsonl"))))
    except FileNotFoundError as error:
        sys.exit(f"matrix.py: {error.filename} is not there: run `ctest -L port` first")
