"""Makes README.md, and the pictures it shows, from nbs/index.ipynb as it is committed (it is not run): `python nbs/make_readme.py`"""
import re
from pathlib import Path

import nbformat
from nbconvert import MarkdownExporter

ROOT = Path(__file__).resolve().parents[1]
PICTURES = "nbs/images"


def shown(cell) -> bool:
    "Whether the README shows this cell: no set-up form, nothing marked `#| hide`, no empty cell."
    return bool(cell.source.strip()) and "cellView" not in cell.metadata and not re.search(r"^#\|\s*hide\s*$", cell.source, re.M)


def from_top(text: str) -> str:
    "Links as seen from nbs/ to links as seen from the top folder."
    text = re.sub(r"\]\((?!\w+:|#|\.\./|nbs/)", "](nbs/", text)
    return text.replace("](../", "](")


def make_readme(notebook: Path = ROOT / "nbs/index.ipynb") -> dict[str, bytes]:
    "What belongs into the top folder: {path: content} of README.md and its pictures."
    nb = nbformat.read(notebook, 4)
    nb.metadata["language_info"] = {"name": "python"}
    nb.cells = [cell for cell in nb.cells if shown(cell)]
    for cell in nb.cells:
        if re.search(r"^#\|\s*hide_input", cell.source, re.M):
            cell.metadata["transient"] = {"remove_source": True}
        cell.source = re.sub(r"^#\|.*\n?", "", cell.source, flags=re.M)
    text, resources = MarkdownExporter().from_notebook_node(nb, {"unique_key": "index", "output_files_dir": PICTURES})
    text = re.sub(r"[ \n]*\n\n[ \n]*(!\[)png", r"\n\n\1figure", from_top(text))
    text = re.sub(r"\n{3,}", "\n\n", re.sub(r" +$", "", text, flags=re.M)).strip() + "\n"
    return {"README.md": text.encode(), **resources["outputs"]}


if __name__ == "__main__":
    for old in (ROOT / PICTURES).glob("index_*"):
        old.unlink()
    for name, content in make_readme().items():
        (ROOT / name).parent.mkdir(exist_ok=True)
        (ROOT / name).write_bytes(content)
        print(name, len(content), "bytes")
