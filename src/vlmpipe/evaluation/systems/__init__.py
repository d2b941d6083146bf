"""The systems that can be asked, by name: what each consists of, and how it is opened.

`hf:base`, `hf:adapter`, `hf:adapter_off`, `hf:full`, `hf:merged`, `llama_cpp:QUANT`, `openai:URL`,
`openai:URL#MODEL`, `ollama:MODEL`. What a name stands for is looked up in the run's published
stages.
"""

from vlmpipe.evaluation.systems.names import Systems
from vlmpipe.evaluation.systems.opening import Asking
from vlmpipe.evaluation.systems.order import SystemOrder

__all__ = ["Asking", "SystemOrder", "Systems"]
