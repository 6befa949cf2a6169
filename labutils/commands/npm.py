"""What pages take from npm: reveal.js and MathJax, a few files of each, in one archive that travels with the package.

So a deck is built, and shown, without a network. `python -m labutils.commands.npm` fetches the packages at the pinned
versions, holds them against their checksums and makes the archive anew, to the same bytes.
"""

from __future__ import annotations

import base64
import functools
import hashlib
import io
import tarfile
import urllib.request
from dataclasses import dataclass
from pathlib import Path

ARCHIVE = Path(__file__).with_name("web") / "npm.tar.xz"
SHA256 = "3945910389c5f103b3edf1dba9faea2bae76e0bf5e5a0fc163b584d94a585233"


@dataclass(frozen=True)
class Package:
    """A package of registry.npmjs.org: version, the registry's SHA-512 in base64, and which files to take as what."""

    version: str
    integrity: str
    files: dict[str, str]


PACKAGES = {
    "reveal.js": Package(
        "5.2.1",
        "r7//6mIM5p34hFiDMvYfXgyjXqGRta+/psd9YtytsgRlrpRzFv4RbH76TXd2qD+7ZPZEbpBDhdRhJaFgfQ7zNQ==",
        {
            "dist/reveal.css": "reveal.css",
            "dist/reveal.js": "reveal.js",
            "plugin/notes/notes.js": "notes.js",  # the speaker's window
            "LICENSE": "reveal.LICENSE",
        },
    ),
    "mathjax": Package(
        "3.2.2",
        "Bt+SSVU8eBG27zChVewOicYs7Xsdt40qm4+UpHyX7k0/O9NliPc+x77k1/FEsPsjKPZGJvtRZM1vO+geW0OhGw==",
        {"es5/tex-svg.js": "mathjax.js", "LICENSE": "mathjax.LICENSE"},  # TeX in, SVG out: with its glyphs in one file
    ),
}


@functools.cache
def text(name: str) -> str:
    """The file `name` of the archive."""
    with tarfile.open(ARCHIVE) as archive:
        return archive.extractfile(name).read().decode()


def make(packages: dict[str, bytes]) -> bytes:
    """The archive of what is wanted of the packages, npm's tarballs by name. ValueError when one is another's bytes."""
    found = {}
    for name, package in PACKAGES.items():
        got = base64.b64encode(hashlib.sha512(packages[name]).digest()).decode()
        if got != package.integrity:
            raise ValueError(f"{name} {package.version}: its SHA-512 is {got}, expected {package.integrity}")
        with tarfile.open(fileobj=io.BytesIO(packages[name])) as tarball:
            for path, own in package.files.items():
                found[own] = tarball.extractfile(f"package/{path}").read()
    target = io.BytesIO()
    with tarfile.open(fileobj=target, mode="w:xz", preset=9) as archive:
        for own, content in found.items():
            entry = tarfile.TarInfo(own)
            entry.size = len(content)
            archive.addfile(entry, io.BytesIO(content))
    return target.getvalue()


def fetch() -> dict[str, bytes]:
    """npm's tarballs of all packages, by name."""
    found = {}
    for name, package in PACKAGES.items():
        address = f"https://registry.npmjs.org/{name}/-/{name}-{package.version}.tgz"
        with urllib.request.urlopen(address, timeout=60) as answer:
            found[name] = answer.read()
    return found


if __name__ == "__main__":
    ARCHIVE.write_bytes(make(fetch()))
    print(ARCHIVE, hashlib.sha256(ARCHIVE.read_bytes()).hexdigest())
