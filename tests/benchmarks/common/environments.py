"""The peers' environments under ``.venv-peers``: one each, since their pins of the same client differ.

What must live here: making them.  What must not: which packages there are (the contenders' modules).
"""

from __future__ import annotations

import shutil
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path

ROOT = Path(__file__).resolve().parents[3]
PEERS = ROOT / ".venv-peers"


def python_of(broker: str, name: str) -> str:
    """The interpreter of a peer's environment."""
    return str(_folder(broker, name) / "bin" / "python")


def _folder(broker: str, name: str) -> Path:
    return PEERS / f"{broker}-{name}"


def install_python(broker: str, name: str, package: str, *others: str) -> str | None:
    """Make a peer's environment, once.  Returns why it can't be had, or None."""
    folder = _folder(broker, name)
    marker = folder / f".installed-{package}"
    if marker.exists():
        return None
    print(f"setting up {folder.relative_to(ROOT)}", flush=True)
    subprocess.run([sys.executable, "-m", "venv", "--clear", str(folder)], check=True)
    codecs = [f"msgspec=={version('msgspec')}", f"orjson=={version('orjson')}"]
    done = subprocess.run(
        [python_of(broker, name), "-m", "pip", "install", "--quiet", package, *codecs, *others],
        capture_output=True,
        text=True,
    )
    if done.returncode:
        return f"{package} can't be installed here: {(done.stderr.strip().splitlines() or ['pip failed'])[-1]}"
    marker.touch()
    return None


def remove_package(broker: str, name: str, package: str) -> None:
    """Take a package out of a peer's environment that hides one of ours."""
    for found in _folder(broker, name).glob(f"lib/python*/site-packages/{package}"):
        shutil.rmtree(found)
