"""`import gram.hub.auto_classes`: transformers' auto classes and `pipeline` know GRAM, without `trust_remote_code`.

From then on they give this package's classes, also for a folder whose own code is trusted.
"""

from transformers import AutoConfig, AutoModel, AutoModelForSeq2SeqLM, AutoTokenizer
from transformers.pipelines import PIPELINE_REGISTRY

from ..configuration_gram import GramConfig
from ..modeling_gram import GramForConditionalGeneration
from ..pipeline_gram import TASK, GenerativeRecommendationPipeline
from ..tokenization_gram import GramTokenizer

AutoConfig.register(GramConfig.model_type, GramConfig)
AutoModel.register(GramConfig, GramForConditionalGeneration)
AutoModelForSeq2SeqLM.register(GramConfig, GramForConditionalGeneration)
AutoTokenizer.register(GramConfig, GramTokenizer)
PIPELINE_REGISTRY.register_pipeline(TASK, GenerativeRecommendationPipeline, AutoModelForSeq2SeqLM)
