"""Gives every lesson the same head: both badges, the set-up cell of nbs/index.ipynb, and the map with the lesson's room lit.

`python nbs/make_heads.py` mends what differs and says where; no notebook is run for it. Run `nbdev-clean` after it."""
import base64
from pathlib import Path

import nbformat
from nbformat import NotebookNode

from multimix.rooms import you_are_here

NBS = Path(__file__).resolve().parent
COLAB = ("[![Open in Colab](https://colab.research.google.com/assets/colab-badge.svg)]"
         "(https://colab.research.google.com/github/multimix-ssl/multimix/blob/main/nbs/{}.ipynb)")
KAGGLE = ("[![Open in Kaggle](https://kaggle.com/static/images/open-in-kaggle.svg)]"
          "(https://kaggle.com/kernels/welcome?src=https://github.com/multimix-ssl/multimix/blob/main/nbs/{}.ipynb)")
MAP = "# @title You are here\nfrom multimix.rooms import you_are_here\nyou_are_here(\"{}\")"


def lessons() -> list[Path]:
    "Every notebook but the index."
    return [path for path in sorted(NBS.glob("*.ipynb")) if path.stem != "index"]


def setup_source() -> str:
    "The set-up cell, as it stands in the index."
    [cell] = [cell for cell in nbformat.read(NBS / "index.ipynb", 4).cells if "cellView" in cell.metadata]
    return cell.source


def map_cell(name: str) -> NotebookNode:
    "The cell that draws the map, with what it shows."
    drawn = you_are_here(name)
    data = {"image/png": base64.b64encode(drawn.picture).decode(), "text/plain": repr(drawn)}
    cell = nbformat.v4.new_code_cell(MAP.format(name), metadata={"cellView": "form"}, id=name.replace("_", "-")[:12].rstrip("-") + "-map")
    cell.outputs = [nbformat.v4.new_output("execute_result", data, execution_count=None)]
    return cell


def same_map(old: NotebookNode, new: NotebookNode) -> bool:
    "Whether the cell is the same and says the same; its pixels may differ, as drawings do from version to version."
    said = ["".join(out.get("data", {}).get("text/plain", "")) for out in old.outputs]
    return old.source == new.source and old.metadata == new.metadata and said == [out.data["text/plain"] for out in new.outputs]


def mend(nb: NotebookNode, name: str, setup: str) -> bool:
    "Give the notebook its head; says whether anything had to change."
    badges = f"{COLAB.format(name)} {KAGGLE.format(name)}"
    titled = nb.cells[0].source if badges in nb.cells[0].source else nb.cells[0].source.replace(COLAB.format(name), badges, 1)
    forms = [i for i, cell in enumerate(nb.cells) if cell.cell_type == "code" and "cellView" in cell.metadata]
    first, fresh = forms[0], map_cell(name)
    maps = [i for i in forms if nb.cells[i].source.startswith(MAP.partition("\n")[0])]
    if titled == nb.cells[0].source and nb.cells[first].source == setup and maps == [first + 1] and same_map(nb.cells[first + 1], fresh):
        return False
    nb.cells[0].source, nb.cells[first].source = titled, setup
    nb.cells = [cell for i, cell in enumerate(nb.cells) if i not in maps]
    nb.cells.insert(first + 1, fresh)
    return True


if __name__ == "__main__":
    setup = setup_source()
    for path in lessons():
        nb = nbformat.read(path, 4)
        if mend(nb, path.stem, setup):
            nbformat.write(nb, path)
            print(path.name)
