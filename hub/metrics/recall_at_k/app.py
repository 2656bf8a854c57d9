"""The page of the metric's Space: inputs as JSON, values as JSON."""

import json
from pathlib import Path

import evaluate
import gradio as gr
from evaluate.utils.gradio import parse_readme

FOLDER = Path(__file__).parent
SCRIPT = next(path for path in FOLDER.glob("*.py") if path.name not in ("app.py", "rankings.py"))
EXAMPLE = {"predictions": [["a", "b", "c"], ["b", "d", "a"]], "references": ["b", "c"], "k": [1, 3]}

metric = evaluate.load(str(SCRIPT))
if "references" not in metric.features[0]:
    EXAMPLE = {"predictions": EXAMPLE["predictions"], "num_items": 10, "k": [1, 3]}


def compute(inputs: str) -> dict:
    """The metric's values; whatever is wrong with the inputs is shown on the page."""
    try:
        return metric.compute(**json.loads(inputs))
    except (TypeError, ValueError) as error:
        raise gr.Error(str(error)) from error


demo = gr.Interface(
    compute,
    gr.Code(json.dumps(EXAMPLE, indent=2), language="json", label="Inputs"),
    gr.JSON(label="Values"),
    title=f"Metric: {metric.name}",
    description=metric.description,
    article=parse_readme(FOLDER / "README.md"),
    flagging_mode="never",
)

if __name__ == "__main__":
    demo.launch()
