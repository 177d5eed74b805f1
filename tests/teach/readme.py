"""What the README shows, taken out of it, so that what is tested is what is read."""
import os
import re
import sys

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
sys.path.insert(0, os.path.join(ROOT, "tests", "pair"))


def block(language: str) -> str:
    """The one code block of this language."""
    with open(os.path.join(ROOT, "README.md"), encoding="utf-8") as readme:
        found = re.findall(rf"^```{language}\n(.*?)^```$", readme.read(), re.S | re.M)
    assert len(found) == 1, f"{len(found)} blocks of {language} in README.md"
    return found[0]
