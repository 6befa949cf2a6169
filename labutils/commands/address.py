"""`labutils address`: tell the notebooks where the bundle lives, once it has a public address."""

from __future__ import annotations

import re
from pathlib import Path

import nbformat

from .. import parameters
from ..training import write_whole
from .run import code_hash

BADGE = "[![Open in Colab](https://colab.research.google.com/assets/colab-badge.svg)]"


def write(url: str, folder: Path | None = None, ref: str = "main") -> list[Path]:
    """Write the address into every notebook's set-up cell, and a Colab badge on top; returns the notebooks.

    url: `https://github.com/OWNER/REPOSITORY`; ref: the tag or branch to take it from. Done again with another
    address, it replaces the first. Raises ValueError for anything else, and for a notebook that cannot be read,
    before any is touched.
    """
    match = re.fullmatch(r"https://github\.com/([\w.-]+)/([\w.-]+?)(?:\.git)?/?", url)
    if not match:
        raise ValueError(f"the address is {url!r}; expected https://github.com/OWNER/REPOSITORY")
    if not re.fullmatch(r"[\w][\w./-]*", ref):
        raise ValueError(f"the ref is {ref!r}; expected the name of a tag or branch")
    owner, name = match.groups()
    texts = {}
    for path in parameters.notebooks(folder).values():
        try:
            notebook = nbformat.read(path, as_version=4)
            first = notebook.cells[0]
        except OSError:
            raise
        except Exception as error:  # nbformat raises nearly anything on what is no notebook
            raise ValueError(f"{path} cannot be read as a notebook ({type(error).__name__}); get it anew") from error
        # The outputs stay valid: where the bundle lives changes no result.
        stamp = notebook.metadata.get("labutils", {}).get("outputs_of") == code_hash(notebook)
        target = f"https://colab.research.google.com/github/{owner}/{name}/blob/{ref}/notebooks/{path.name}"
        first.source = f"{BADGE}({target})\n\n" + re.sub(rf"^{re.escape(BADGE)}.*\n+", "", first.source)
        for cell in notebook.cells:
            if cell.cell_type == "code":
                line = f'REPOSITORY = "git+https://github.com/{owner}/{name}@{ref}"'
                cell.source = re.sub(r'^REPOSITORY = "[^"]*"', line, cell.source, flags=re.MULTILINE)
        if stamp:
            notebook.metadata["labutils"]["outputs_of"] = code_hash(notebook)
        texts[path] = nbformat.writes(notebook) + "\n"
    for path, text in texts.items():
        write_whole(path, text)
    return list(texts)
