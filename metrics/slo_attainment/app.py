"""The metric's page on the hub."""

import evaluate
from evaluate.utils import launch_gradio_widget

launch_gradio_widget(evaluate.load("slo_attainment"))
