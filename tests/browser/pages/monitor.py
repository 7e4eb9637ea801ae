# A button that trains: what a visitor sees of a run while it goes on.
import ipywidgets as widgets
from IPython.display import display

from multimix.data import MultiTaskData
from multimix.experiments import run_experiment
from multimix.monitor import TrainingMonitor
from multimix.phantom import make_phantom

cls, seg = make_phantom(60, 32, 1, task="classification"), make_phantom(30, 32, 2, task="segmentation")
data = MultiTaskData.from_sets(cls, seg, labels=20, masks=20)
button, place = widgets.Button(description="train"), widgets.Output()


def learn(_):
    with place:
        run_experiment(data, out="watched", progress=False, on_log=TrainingMonitor(), size=32, width=4, batch=4, unlabeled=4, steps=40)


button.on_click(learn)
display(button, place)
