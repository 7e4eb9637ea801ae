from IPython.display import display

from multimix.data import MultiTaskData
from multimix.experiments import load_run
from multimix.phantom import make_phantom
from multimix.pseudo_explorer import PseudoLabelExplorer

data = MultiTaskData.from_sets(make_phantom(80, 32, 3, task="classification"), labels=10)
display(PseudoLabelExplorer(load_run("run").model, data))
