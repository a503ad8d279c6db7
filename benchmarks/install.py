"""Makes a virtual environment for each system from pinned versions; standard library only, any Python from 3.11 on."""

from __future__ import annotations

import hashlib
import subprocess
import sys
from pathlib import Path

__all__ = ["CHECKOUT", "FOLDER", "ensure", "python_of"]

FOLDER = Path(__file__).resolve().parent
CHECKOUT = FOLDER.parent
_PIP = ("-m", "pip", "--quiet", "--disable-pip-version-check", "install")


def python_of(venv: str) -> Path:
    """Return the interpreter of a peer's environment."""
    return FOLDER / ".venvs" / venv / "bin" / "python"


def ensure(venv: str) -> None:
    """Make the environment unless it is there with just these pins.

    Raises:
        subprocess.CalledProcessError: pip failed; it has said why.
    """
    pins = FOLDER / "peers" / f"{venv}.txt"
    stamp = FOLDER / ".venvs" / venv / ".made"
    wanted = _fingerprint(venv, pins)
    if stamp.exists() and stamp.read_text(encoding="utf-8") == wanted:
        return
    print(f"installing {venv} from {pins.name}", file=sys.stderr, flush=True)
    if not python_of(venv).exists():
        subprocess.run([sys.executable, "-m", "venv", str(stamp.parent)], check=True)
    pip = [str(python_of(venv)), *_PIP]
    # the pins are complete, so nothing is resolved: what was measured is what is installed
    subprocess.run([*pip, "--no-deps", "--requirement", str(pins)], check=True)
    if venv == "wren":
        _install_ours(pip)
    stamp.write_text(wanted, encoding="utf-8")


def _install_ours(pip: list[str]) -> None:
    """Install the checkout itself, editable: what is measured is the code that lies here."""
    pinned = [*pip, "--only-binary", ":all:", "--constraint", str(CHECKOUT / "constraints.txt")]
    subprocess.run([*pinned, "setuptools"], check=True)
    ours = ["--no-build-isolation", "--no-binary", "wren-worker", "--editable", f"{CHECKOUT}[sandbox]"]
    subprocess.run([*pinned, *ours], check=True)


def _fingerprint(venv: str, pins: Path) -> str:
    digest = hashlib.sha256(sys.version.encode())
    files = [pins]
    if venv == "wren":
        files += [CHECKOUT / name for name in ("constraints.txt", "setup.cfg", "setup.py")]
    for file in files:
        digest.update(file.read_bytes())
    return digest.hexdigest()
