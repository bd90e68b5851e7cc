"""Write the connector's manifest: its version, and a SHA-256 of each of its files.

    python scripts/manifest.py            write it
    python scripts/manifest.py --check    say whether it is up to date; 1 if it isn't

The version stands in cookiecutter.json, as `_version`, and nowhere else.
"""

from __future__ import annotations

if __name__ == "__main__":
    import interrupts  # noqa: F401  (before the rest, whose loading it covers)

import json
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
PACKAGE = ROOT / "<<cookiecutter.service_slug>>" / "src" / "<<cookiecutter.package_name>>"

sys.dont_write_bytecode = True  # it would lie beside the connector, and be rendered with it
sys.path.insert(0, str(PACKAGE))

from mq_connector.commands import inventory  # noqa: E402


def version() -> str:
    """The template's version, which is the connector's, too."""
    variables = json.loads((ROOT / "cookiecutter.json").read_text(encoding="utf-8"))
    return str(variables["_version"])


def main(words: list[str]) -> int:
    path, text = inventory.FOLDER / inventory.MANIFEST, inventory.manifest(version())
    if path.is_file() and path.read_text(encoding="utf-8") == text:
        return 0
    if "--check" in words:
        print("The connector has changed since its manifest was written: make manifest")
        return 1
    path.write_text(text, encoding="utf-8", newline="\n")
    print(f"{path.name}: written, version {version()}")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
