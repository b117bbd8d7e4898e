"""Run by the rig's Windows Python: is everything installed that the installed packages ask for?

pip chose these packages on another system, and so it may have left out what only Windows needs.
"""

import importlib.metadata
import sys

from packaging.requirements import Requirement


def missing() -> list[str]:
    installed = {
        d.metadata["Name"].lower().replace("_", "-") for d in importlib.metadata.distributions()
    }
    lacking = []
    for distribution in importlib.metadata.distributions():
        for text in distribution.requires or ():
            wanted = Requirement(text)
            needed = wanted.marker is None or wanted.marker.evaluate({"extra": ""})
            if needed and wanted.name.lower().replace("_", "-") not in installed:
                lacking.append(f"{distribution.metadata['Name']} needs {text}")
    return lacking


if lines := missing():
    sys.exit("\n".join(lines))
