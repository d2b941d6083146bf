"""Runs llama.cpp's converter in a process of its own: its gguf package is not the installed one.

The program takes one argument, a file that holds a JSON object; it is not imported by this package,
and so stands on nothing but the converter's own sources.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any


def main(order: dict[str, Any]) -> None:
    """Convert one model folder to one GGUF file.

    The order: `sources`, `model`, `outfile`, `outtype`, `mmproj`, `pre_tokenizer`, `name`,
    `metadata` (keys to carry, text all).
    """
    sources = Path(order["sources"])
    sys.path[:0] = [str(sources), str(sources / "gguf-py")]
    import convert_hf_to_gguf as converter

    get_class = converter.get_model_class

    def get_prepared_class(name: str, mmproj: bool = False) -> Any:
        return prepared(get_class(name, mmproj=mmproj), order["pre_tokenizer"], order["metadata"])

    converter.get_model_class = get_prepared_class
    sys.argv = [
        "convert_hf_to_gguf.py",
        order["model"],
        *("--outfile", order["outfile"]),
        *("--outtype", order["outtype"]),
        *("--model-name", order["name"]),
        *(["--mmproj"] if order["mmproj"] else []),
    ]
    converter.main()


def prepared(model_class: Any, pre_tokenizer: str, metadata: dict[str, str]) -> Any:
    """A factory of converters that are told the pre-tokenizer, carry more metadata and find the
    tower under either name.

    The converter recognises a tokenizer by a hash of ids, which refuses every vocabulary that is
    not exactly a published one; what it needs is the name of the regular expression. The Qwen2-VL
    converters look for `visual.*` alone, while folders saved by transformers may hold
    `model.visual.*`.
    """
    own_filter = model_class.filter_tensors.__func__

    def filter_tensors(cls: Any, item: tuple[str, Any]) -> Any:
        name, tensor = item
        return own_filter(
            cls, (name.removeprefix("model.") if ".visual." in name else name, tensor)
        )

    model_class.filter_tensors = classmethod(filter_tensors)

    def build(*args: Any, **kwargs: Any) -> Any:
        instance = model_class(*args, **kwargs)
        instance.get_vocab_base_pre = lambda tokenizer: pre_tokenizer
        own_parameters = instance.set_gguf_parameters

        def set_gguf_parameters() -> None:
            own_parameters()
            for key, value in metadata.items():
                instance.gguf_writer.add_string(key, value)

        instance.set_gguf_parameters = set_gguf_parameters
        return instance

    # The converter asks the class, not the instance, for these.
    build.supports_mtp_export = getattr(model_class, "supports_mtp_export", False)  # type: ignore[attr-defined]
    return build


if __name__ == "__main__":
    main(json.loads(Path(sys.argv[1]).read_text(encoding="utf-8")))
