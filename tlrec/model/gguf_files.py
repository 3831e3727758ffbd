"""GGUF files, the format of llama.cpp: a file's header, read without torch."""

from dataclasses import dataclass
from pathlib import Path

from tlrec.errors import InputError, first_line

# Encoders with a decoder: transformers reads them, but they do not continue a text.
NO_CAUSAL_MODELS = ("t5", "t5encoder", "umt5")
# Not a weight of the model: frequencies of the rotary embedding, which transformers keeps in the configuration.
ROPE_FREQUENCIES = "rope_freqs.weight"


@dataclass(frozen=True)
class GgufFile:
    """One file's header.

    metadata: {key: value}, arrays as lists. tensors: {name: (ggml type, how many numbers)}.
    """

    path: Path
    architecture: str
    metadata: dict
    tensors: dict

    def get(self, key, default=None):
        """The value of `ARCHITECTURE.key`."""
        return self.metadata.get(f"{self.architecture}.{key}", default)

    def types(self):
        """{ggml type: [tensors, numbers]}, the most numbers first."""
        count = {}
        for kind, numbers in self.tensors.values():
            entry = count.setdefault(kind, [0, 0])
            entry[0] += 1
            entry[1] += numbers
        return dict(sorted(count.items(), key=lambda item: -item[1][1]))


def read_gguf(path):
    """The header of a GGUF file that transformers reads as a causal language model; InputError for any other file."""
    path = Path(path)
    try:
        with open(path, "rb") as file:
            start = file.read(4)
    except OSError as error:
        raise InputError(f"{path}: cannot be read: {error.strerror}") from None
    if start != b"GGUF":
        raise InputError(f"{path}: not a GGUF file (it does not begin with the letters GGUF)")
    try:
        from gguf import GGUFReader
    except ImportError:
        raise InputError("reading GGUF files needs the package gguf: pip install gguf==0.19.0") from None
    try:
        reader = GGUFReader(path)
        metadata = {name: field.contents() for name, field in reader.fields.items()}
        tensors = {each.name: (each.tensor_type.name, int(each.n_elements)) for each in reader.tensors}
    except Exception as error:  # a truncated file makes the reader raise many classes
        raise InputError(
            f"{path}: a damaged or incomplete GGUF file ({first_line(error)}); download it again"
        ) from None
    architecture = metadata.get("general.architecture")
    if not isinstance(architecture, str):
        raise InputError(f"{path}: the file does not name its architecture (general.architecture)")
    if architecture not in readable_architectures():
        raise InputError(
            f"{path}: transformers reads no causal language model of architecture {architecture!r} from GGUF; "
            f"it reads {', '.join(readable_architectures())}"
        )
    if metadata.get("split.count", 1) > 1:
        raise InputError(
            f"{path}: one of {metadata['split.count']} parts of a model; join them with llama-gguf-split --merge"
        )
    if not isinstance(metadata.get("tokenizer.ggml.tokens"), list):
        raise InputError(f"{path}: has no vocabulary (tokenizer.ggml.tokens)")
    return GgufFile(path, architecture, metadata, tensors)


def readable_architectures():
    """Sorted names, as GGUF files spell them, of the causal language models that transformers reads from GGUF."""
    from transformers.integrations.ggml import GGUF_CONFIG_MAPPING
    from transformers.integrations.gguf.gguf_config_mapping import GGUF_CONFIG_ARCHS

    # transformers lists its own model types; some names differ in the files
    spelled = {"qwen2_moe": "qwen2moe", "qwen3_moe": "qwen3moe", "gpt_oss": "gpt-oss", "minimax_m2": "minimax-m2"}
    names = {spelled.get(name, name) for name in GGUF_CONFIG_MAPPING} | set(GGUF_CONFIG_ARCHS)
    return sorted(names - {"general", "tokenizer", "mistral", *NO_CAUSAL_MODELS})


def count_numbers(gguf, tied):
    """How many of the file's numbers belong in the model. tied: whether the output matrix is the embedding, which some
    files store twice."""
    layers = gguf.get("block_count", 0)
    beyond = [f"blk.{layers - 1 - n}." for n in range(gguf.get("nextn_predict_layers", 0))]  # multi-token prediction
    return sum(
        numbers
        for name, (_, numbers) in gguf.tensors.items()
        if name != ROPE_FREQUENCIES and not (tied and name == "output.weight") and not name.startswith(tuple(beyond))
    )
