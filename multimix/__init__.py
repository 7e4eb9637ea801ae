"""Semi-supervised multi-task learning on chest X-rays: classify and segment with few labels, and see why."""

__version__ = "0.1.0"
