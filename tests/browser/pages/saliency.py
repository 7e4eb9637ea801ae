from IPython.display import display

from multimix.experiments import load_run
from multimix.explorer import SaliencyExplorer
from multimix.phantom import make_phantom

display(SaliencyExplorer(load_run("run"), {"phantoms": make_phantom(12, 32, seed=2), "others": make_phantom(5, 32, seed=7)}))
