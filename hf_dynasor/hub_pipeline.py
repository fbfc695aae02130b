"""All that a model's repository needs to offer `pipeline("dynasor-reasoning")`; hf-dynasor has to be installed.

`save_pretrained` and `push_to_hub` of the pipeline put a copy of this file beside the weights.
"""

from hf_dynasor.pipelines import DynasorReasoningPipeline


class HubReasoningPipeline(DynasorReasoningPipeline):
    """`DynasorReasoningPipeline`, under a name whose module can be copied without the package."""
