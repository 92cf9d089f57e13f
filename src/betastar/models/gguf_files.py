"""GGUF files: a model in one file, as llama.cpp keeps it, with its configuration, tokenizer and weights.

Transformers and the package `gguf` read them. What is added here: one sentence for a file that cannot be used, and for
one of which Transformers would leave something out or read it differently without saying so.
"""

from __future__ import annotations

import importlib.util
import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import cache, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from betastar.errors import BetastarError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

# Pre-tokenizers of byte-level BPE by llama.cpp's names (llama-vocab.cpp). For all of these Transformers uses GPT-2's.
AS_GPT2 = {"default", "gpt-2", "gpt2", "mpt", "olmo", "jais", "trillion"}
DIGITS_ALONE = {"smollm", "starcoder", "refact", "command-r", "codeshell", "exaone", "minerva-7b"}  # then as GPT-2
TRANSFORMERS = "5.23"  # the first whose reader has all that is used here
UNSCALED = (None, "", "none")
SCALED_BY_TRANSFORMERS = ("gpt-oss", "gpt_oss")  # architectures of which it reads the scaling


def check_readers(path: Path) -> None:
    """Raises BetastarError, with the version that is there, if the package gguf is missing or Transformers is older
    than its reader of tokenizers (5.23)."""
    if importlib.util.find_spec("gguf") is None:
        raise BetastarError(f"{path}: GGUF files need the package gguf; pip install 'betastar[gguf]'.")
    import transformers

    try:
        from transformers.integrations.gguf import convert_gguf_tokenizer, read_gguf_metadata  # noqa: F401
        from transformers.integrations.gguf.gguf_tokenizer_mapping import GGUF_PRE_TOKENIZER_SPLITS  # noqa: F401
    except ImportError:
        raise BetastarError(
            f"{path}: GGUF files need transformers {TRANSFORMERS} or newer, and this is {transformers.__version__}; "
            "pip install 'betastar[gguf]'."
        ) from None


def check_file(path: Path) -> dict[str, Any]:
    """The metadata of a GGUF file; of a list of texts, how many there are. Raises BetastarError for a missing package,
    a damaged file, one of several parts, and a file without a tokenizer or with scaled rotary positions, which
    Transformers does not read."""
    check_readers(path)
    from transformers.integrations.gguf import read_gguf_metadata

    try:
        metadata, _ = read_gguf_metadata(str(path))
    except MemoryError:
        raise
    except OSError as error:
        raise BetastarError(
            f"{path}: the GGUF file cannot be read ({error.strerror or error}); check its permissions and the disk."
        ) from error
    except Exception as error:  # whatever a reader meets in bytes that mean nothing
        raise BetastarError(f"{path}: {damaged(error)}") from error
    architecture = metadata["general.architecture"]
    if metadata.get("split.count", 1) > 1:
        raise BetastarError(
            f"{path}: one of {metadata['split.count']} parts of a model; join them with llama-gguf-split --merge."
        )
    if not metadata.get("tokenizer.ggml.tokens"):
        raise BetastarError(f"{path}: this GGUF file has no tokenizer; give a file with a complete model.")
    scaling = metadata.get(f"{architecture}.rope.scaling.type")
    if scaling not in UNSCALED and architecture not in SCALED_BY_TRANSFORMERS:
        raise BetastarError(
            f"{path}: its rotary positions are scaled ({scaling}), which Transformers does not read from GGUF files; "
            "give the original model."
        )
    return metadata


def damaged(error: BaseException) -> str:
    """The sentence for a GGUF file at which a reader failed."""
    reason = " ".join(str(error).strip().split("\n")[0].split()).rstrip(".") or type(error).__name__
    if "not supported yet" in reason or "Unknown gguf" in reason:
        return f"Transformers cannot load this kind of GGUF file ({reason}); give the original model."
    if isinstance(error, NotImplementedError) or "GGMLQuantizationType" in reason:
        return (
            f"the package gguf cannot unpack its weights ({reason}); upgrade it, or choose another file of the model, "
            "such as Q8_0."
        )
    if "ignore_mismatched_sizes" in str(error):
        return "its weights do not have the sizes that its metadata implies; give the original model."
    return f"the GGUF file is damaged or incomplete ({reason}); download it again."


def check_all_read(path: Path, architecture: str, empty: Any) -> None:
    """Raises BetastarError if the file holds weights that the model of its configuration has no place for, such as
    biases or scaled rotary frequencies: Transformers would drop them without a word."""
    from transformers.integrations.gguf import read_gguf_metadata
    from transformers.integrations.gguf.utils import is_gguf_arch_supported
    from transformers.modeling_gguf_pytorch_utils import TENSOR_PROCESSORS, TensorProcessor, get_gguf_hf_weights_map

    if is_gguf_arch_supported(architecture):  # another reader, which reports what it does not place
        return
    processor = TENSOR_PROCESSORS.get(architecture, TensorProcessor)(config=empty.config.to_dict())
    with smoothed():
        placed: Mapping[str, str] = get_gguf_hf_weights_map(empty, processor)
    names: Sequence[str] = read_gguf_metadata(str(path))[1]
    left = sorted(name for name in names if name not in placed)
    if left:
        raise BetastarError(
            f"{path}: it has weights that Transformers does not read from GGUF files "
            f"({left[0]}{f' and {len(left) - 1} more' if len(left) > 1 else ''}); give the original model."
        )


def read_tokenizer(path: Path) -> PreTrainedTokenizerBase:
    """The tokenizer in a GGUF file. Raises BetastarError if its pre-tokenizer is not known: with another one the model
    would read tokens that it was not trained on."""
    from tokenizers import Tokenizer, pre_tokenizers
    from transformers import PreTrainedTokenizerFast
    from transformers.integrations.gguf import convert_gguf_tokenizer, get_gguf_tokenizer
    from transformers.integrations.gguf.gguf_tokenizer_mapping import GGUF_PRE_TOKENIZER_SPLITS

    architecture, described, settings = get_gguf_tokenizer(str(path))
    backend, more = convert_gguf_tokenizer(architecture, described)
    way = described.get("pre_tokenizer_type", "default")
    if described.get("tokenizer_type") == "gpt2" and way not in GGUF_PRE_TOKENIZER_SPLITS:
        if way in DIGITS_ALONE:
            backend.pre_tokenizer = pre_tokenizers.Sequence(
                [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
            )
        elif way not in AS_GPT2:
            raise BetastarError(
                f"{path}: Transformers does not know its pre-tokenizer ({way}); give the original model."
            )
    places = len(described["tokens"])
    if backend.get_vocab_size() > places:
        # The converter adds GPT-2's end token to tokenizers that have none of that name: the model has no place for it.
        content = json.loads(backend.to_str())
        content["added_tokens"] = [token for token in content["added_tokens"] if token["id"] < places]
        backend = Tokenizer.from_str(json.dumps(content))
    return PreTrainedTokenizerFast(tokenizer_object=backend, **{**settings, **more})


@contextmanager
def smoothed() -> Iterator[None]:
    """Spare us two habits of transformers' GGUF reader: a progress bar that does not ask whether bars are wanted, and a
    table of all tensor names that is built again for every module (5 of the 10 CPU
    seconds that SmolLM2-135M takes)."""
    import gguf
    from transformers import modeling_gguf_pytorch_utils as reader

    shown, table = reader.tqdm, gguf.get_tensor_name_map
    reader.tqdm, gguf.get_tensor_name_map = partial(shown, disable=True), cache(table)  # type: ignore[assignment]
    try:
        yield
    finally:
        reader.tqdm, gguf.get_tensor_name_map = shown, table
