from IPython.display import display

from multimix.augmentation_explorer import AugmentationExplorer

display(AugmentationExplorer())
