"""Puts a picture of each widget where a reader without a running notebook would find an empty cell.

`python nbs/make_widgets.py` gives the cell that shows a widget the picture in `nbs/images/widgets` as its output: do so whenever such a
notebook was run, since a widget's own output is not kept. `python nbs/make_widgets.py 09_explorer SCREENSHOT.png` first makes
such a picture from a screenshot, as the tests in a browser keep them. Run `nbdev-clean` after either."""
import base64
import io
import sys
from pathlib import Path

import nbformat
from nbformat import NotebookNode

NBS = Path(__file__).resolve().parent
PICTURES = NBS / "images/widgets"
WORDS = "a picture of the widget: run this cell, and you can move it"
ENDINGS = {  # how the cell ends that shows the widget, by notebook
    "09_explorer": "\nexplorer", "09c_pseudo_explorer": "\nexplorer", "09d_augmentation_explorer": "\nexplorer",
    "09e_monitor": "on_log=monitor, progress=False)\nassert monitor.message.value == \"\" and len(monitor.frames) == 4",
    "09f_app": "\napp",
}


def put_picture(nb: NotebookNode, name: str) -> bool:
    "Make the picture the only output of the cell with the widget; says whether it was not so before."
    data = {"image/png": base64.b64encode((PICTURES / f"{name}.png").read_bytes()).decode(), "text/plain": WORDS}
    [cell] = [cell for cell in nb.cells if cell.cell_type == "code" and cell.source.endswith(ENDINGS[name])]
    if [dict(out.get("data", {})) for out in cell.outputs] == [data]:
        return False
    cell.outputs = [nbformat.v4.new_output("display_data", data)]
    return True


def small(screenshot: Path) -> bytes:
    "A screenshot without the white around it, in as many colours as 95 kB have room for."
    from PIL import Image, ImageChops, ImageOps

    picture = Image.open(screenshot).convert("RGB")
    box = ImageChops.difference(picture, Image.new("RGB", picture.size, "white")).getbbox()
    picture = ImageOps.expand(picture.crop(box), 8, "white")
    for colours in (256, 128, 64, 48, 32, 16):
        picture.quantize(colours, Image.Quantize.MAXCOVERAGE, kmeans=3).save(out := io.BytesIO(), "png", optimize=True)
        if len(out.getvalue()) < 95_000:
            break
    return out.getvalue()


if __name__ == "__main__":
    if sys.argv[1:]:
        (PICTURES / f"{sys.argv[1]}.png").write_bytes(small(Path(sys.argv[2])))
    for name in ENDINGS:
        nb = nbformat.read(NBS / f"{name}.ipynb", 4)
        if put_picture(nb, name):
            nbformat.write(nb, NBS / f"{name}.ipynb")
            print(name)
