"""LoRA added into the weights it stands beside: for a scoring pass, or for good."""

from collections import Counter
from contextlib import contextmanager

import torch
from peft.tuners.lora import Linear, LoraLayer
from tqdm import tqdm

from tlrec.errors import InputError
from tlrec.model.memory import memory_at_hand
from tlrec.model.processes import is_spread


@contextmanager
def merged(model):
    """Inside the block, LoRA is added into the base's weights where that gives the same function, so that scoring needs
    fewer matrix products.

    The original weights are copied first and restored bit for bit. Where memory is too short for the copies, nothing is
    merged.
    """
    layers = [] if is_spread(model) else _mergeable(model)
    weights = [layer.get_base_layer().weight for layer in layers]
    if model.device.type == "cpu" and sum(weight.nbytes for weight in weights) > memory_at_hand():
        layers = []  # no error would say so
    kept = _merge(layers)
    if len(kept) < len(layers):
        tqdm.write("too little memory to merge the adapter for scoring: it is scored unmerged")
        _restore(kept)
        kept = []
        torch.cuda.empty_cache()
    try:
        yield
    finally:
        _restore(kept)


def _merge(layers):
    """[(layer, its weight before)] of the layers that were merged, or of the first ones if memory ran out."""
    kept = []
    try:
        for layer in layers:
            kept.append((layer, layer.get_base_layer().weight.detach().clone()))
            layer.merge()
    except torch.OutOfMemoryError:
        _restore(kept[-1:])
        return kept[:-1]
    return kept


def _restore(kept):
    for layer, original in kept:
        layer.merged_adapters.clear()
        with torch.no_grad():
            layer.get_base_layer().weight.copy_(original)


def _mergeable(model):
    """The layers that are W + B A and no more, whose W is not quantised and no other module's, as the embedding is that
    the output head shares."""
    owners = _owners(model)
    return [
        layer
        for layer in model.modules()
        if type(layer) is Linear  # quantised layers and experts have classes of their own
        and not layer.lora_variant
        and not any(layer.lora_bias.values())
        and owners[id(layer.get_base_layer().weight)] == 1
    ]


def check_mergeable(model, path):
    """Raise InputError unless PEFT can merge the adapter of folder `path`, which `model` carries, for good."""
    owners = _owners(model)
    for name, layer in model.named_modules():
        if isinstance(layer, LoraLayer):
            base, name = layer.get_base_layer(), name.removeprefix("base_model.model.")
            if owners[id(getattr(base, "weight", None))] > 1:
                raise InputError(
                    f"{path}: target_modules {name}: its weight is another module's too (the embedding and the output "
                    "head are tied), which merging would change with it; serve it unmerged (vllm serve --enable-lora)"
                )
            if any(layer.lora_bias.values()) and getattr(base, "bias", None) is None:
                raise InputError(f"{path}: lora_bias: {name} has no bias that it could be merged into")


def _owners(model):
    """How many modules have each parameter, by its id."""
    return Counter(id(weight) for module in model.modules() for weight in module.parameters(recurse=False))
