"""Train and run encoder-decoder Transformers for translation, with the attention chosen in YAML.

>>> from projtrans import Translator                     # doctest: +SKIP
>>> translator = Translator.load("runs/latest")          # doctest: +SKIP
>>> translator("Let me go alone.")                       # doctest: +SKIP

`OnnxTranslator` does the same without torch, where the run was exported ('projtrans export').
"""

from typing import TYPE_CHECKING, Any

from projtrans.errors import ProjtransError

if TYPE_CHECKING:
    from projtrans.inference.onnx_translator import OnnxTranslator
    from projtrans.inference.torch_translator import Translator


__version__ = "0.2.0"
__all__ = ["OnnxTranslator", "ProjtransError", "Translator", "__version__"]


def __getattr__(name: str) -> Any:
    if name == "Translator":  # torch takes over a second to import, so it waits until it is needed
        from projtrans.inference.torch_translator import Translator

        return Translator
    if name == "OnnxTranslator":
        from projtrans.inference.onnx_translator import OnnxTranslator

        return OnnxTranslator
    raise AttributeError(f"module 'projtrans' has no attribute '{name}'")
