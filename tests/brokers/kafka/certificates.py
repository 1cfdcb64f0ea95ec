"""Certificates for tests: an authority that lives for two days, and what it signs.

What must not live here: anything about a broker.
"""

from __future__ import annotations

import subprocess
from pathlib import Path

from tests.brokers.kafka.jars import program

NEW_KEY = ("-newkey", "rsa:2048", "-nodes")
DAYS = ("-days", "2")


class Authority:
    """An authority of its own in a folder of its own: ``ca.pem`` is what a client trusts."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir()
        self.folder = folder
        self.certificate = folder / "ca.pem"
        usage = ["basicConstraints=critical,CA:TRUE", "keyUsage=critical,keyCertSign"]
        extensions = [argument for extension in usage for argument in ("-addext", extension)]
        self._openssl(
            "req", "-x509", *NEW_KEY, *DAYS, "-subj", "/CN=tests", *extensions, "-keyout", "ca.key", "-out", "ca.pem"
        )

    def sign(self, name: str, *, names: str = "DNS:localhost,IP:127.0.0.1") -> tuple[Path, Path]:
        """(certificate, key) in PEM, for ``CN=name`` and the given subject alternative names."""
        extensions = self.folder / f"{name}.extensions"
        extensions.write_text(f"subjectAltName={names}\nauthorityKeyIdentifier=keyid\nsubjectKeyIdentifier=hash\n")
        self._openssl("req", *NEW_KEY, "-subj", f"/CN={name}", "-keyout", f"{name}.key", "-out", f"{name}.csr")
        self._openssl(
            *("x509", "-req", "-in", f"{name}.csr", "-CA", "ca.pem", "-CAkey", "ca.key", "-CAcreateserial"),
            *(*DAYS, "-extfile", extensions.name, "-out", f"{name}.pem"),
        )
        return self.folder / f"{name}.pem", self.folder / f"{name}.key"

    def _openssl(self, *arguments: str) -> None:
        command = [program("openssl"), *arguments]
        done = subprocess.run(
            command, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False, cwd=self.folder
        )
        if done.returncode != 0:
            raise RuntimeError(f"openssl {arguments[0]} failed:\n{done.stderr[-2000:]}")
