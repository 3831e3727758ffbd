"""LoRA adapters: what their configuration asks for, loading, saving whole, and comparison tensor by tensor."""

import copy
import os
import tempfile
import warnings
from pathlib import Path
from types import NoneType

import torch
from accelerate import PartialState
from peft import LoraConfig, get_peft_model, get_peft_model_state_dict, set_peft_model_state_dict
from safetensors.torch import load_file, save_file

from tlrec.errors import InputError, first_line
from tlrec.model.base_models import is_quantized, skeleton_of
from tlrec.model.processes import whole
from tlrec.runs import ADAPTER_CONFIG, ADAPTER_WEIGHTS, FRAME_FILE, adapter_weights


def read_config(folder):
    """The LoraConfig of an adapter folder, with everything that it says; InputError if PEFT cannot read it."""
    try:
        with warnings.catch_warnings():  # of fields that this version does not know, which are off (check_adapter)
            warnings.simplefilter("ignore")
            return LoraConfig.from_pretrained(folder)
    except Exception as error:  # whatever the values of its fields make PEFT raise
        raise InputError(f"{folder}: {ADAPTER_CONFIG} cannot be read: {first_line(error)}") from None


def expected_adapter(base_model, lora_config, trust_remote_code=False, adapter=None, tuned=False):
    """{name: tensor without content} of an adapter of this configuration on this base model; loads no weights.

    adapter: the folder that the configuration comes from; None if it comes from flags. tuned: whether it is to be
    tuned. Raises InputError if the base model lacks one of the target modules, or if tuning could not change all that
    the configuration says: the loss takes the output head as it is.
    """
    skeleton = skeleton_of(base_model, trust_remote_code)
    asked = f"{adapter}: the adapter" if adapter else "--lora_target_modules: LoRA"
    does_not_fit = f"{asked} does not fit on --base_model {base_model}"
    if not isinstance(targets := lora_config.target_modules, (str, NoneType)):  # PEFT ignores names it does not find
        paths = [f".{path}" for path, _ in skeleton.named_modules()]
        if missing := [name for name in sorted(targets) if not any(path.endswith(f".{name}") for path in paths)]:
            raise InputError(f"{does_not_fit}: {type(skeleton).__name__} has no modules named {' '.join(missing)}")
    config = copy.deepcopy(lora_config)
    config.init_lora_weights, config.inference_mode = True, False  # neither changes a shape
    with torch.device("meta"), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the model that is loaded gives the same ones
        try:
            model = get_peft_model(skeleton, config)
        except Exception as error:  # whatever the values of its fields make PEFT raise
            raise InputError(f"{does_not_fit}: {first_line(error)}") from None
        head = model.get_base_model().get_output_embeddings()
        if tuned and any(parameter.requires_grad for parameter in head.parameters()):
            fields = ("target_modules", "modules_to_save", "trainable_token_indices", "bias")
            says = ", ".join(f"{field}: {value}" for field in fields if (value := getattr(lora_config, field)))
            raise InputError(f"{asked} changes the output head, which TLRec does not tune ({says})")
        return get_peft_model_state_dict(model)


def read_adapter(folder):
    """{name: tensor} of an adapter folder; `.bin` files are read without executing pickled code."""
    path = adapter_weights(folder)
    try:
        if path.suffix == ".safetensors":
            return load_file(path)
        return torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # safetensors, zipfile and the restricted unpickler each raise their own class
        raise InputError(f"{path}: damaged adapter weights: {first_line(error)}") from None


def check_adapter_on(base_model, folder, trust_remote_code=False, tuned=False):
    """Raise InputError unless the adapter of `folder` fits on this base model, whose weights are not loaded; return the
    adapter's tensors, as `read_adapter` does. tuned: whether it is to be tuned."""
    expected = expected_adapter(base_model, read_config(folder), trust_remote_code, folder, tuned)
    tensors = read_adapter(folder)
    check_adapter_fits(tensors, expected, folder)
    return tensors


def check_adapter_fits(tensors, expected, path):
    """Raise InputError unless the adapter has exactly the expected tensors in the expected shapes.

    tensors: what `read_adapter` returned; expected: {name: tensor}, as `expected_adapter` returns.
    """
    if not tensors:
        raise InputError(f"{path}: the adapter holds no tensors")
    has, needed = (sorted({name.split(".lora_")[0].split(".")[-1] for name in names}) for names in (tensors, expected))
    if has == needed:
        cause = "it was made for another base model (--base_model)"
    else:
        cause = (
            f"it was made for the target modules {' '.join(has)}, this run has {' '.join(needed)} "
            "(--lora_target_modules), or for another base model (--base_model)"
        )
    if missing := sorted(set(expected) - set(tensors)):
        raise InputError(
            f"{path}: the adapter lacks {len(missing)} of {len(expected)} tensors, such as {missing[0]}; {cause}"
        )
    if extra := sorted(set(tensors) - set(expected)):
        raise InputError(
            f"{path}: the adapter has {len(extra)} tensors that this run has no place for, such as {extra[0]}; {cause}"
        )
    for name, tensor in expected.items():
        if tensors[name].shape != tensor.shape:
            raise InputError(
                f"{path}: {name} has shape {tuple(tensors[name].shape)}, this run needs {tuple(tensor.shape)}; "
                "it was made for another rank (--lora_r) or a base model of another width (--base_model)"
            )


def load_adapter(model, tensors, path):
    """Copy adapter tensors into the LoRA layers of `model`, then compare every one of them.

    model: a PeftModel of the adapter's configuration. tensors: what `read_adapter` returned for `path`.
    """
    check_adapter_fits(tensors, get_peft_model_state_dict(model), path)
    set_peft_model_state_dict(model, tensors)
    loaded = get_peft_model_state_dict(model)
    for name, tensor in loaded.items():
        if not torch.equal(tensor.cpu(), tensors[name].to(tensor.dtype)):
            raise InputError(f"{path}: {name} differs from the file after loading")


def attach_adapter(base, path, tuned=False, tensors=None, dropout=None):
    """The base model with the adapter of folder `path` on it, whole and verified; `.unload()` takes it off again, but
    need not leave the base as it was: compare `state_of`.

    tuned: whether it is to be tuned, else it is for scoring. tensors: what `read_adapter` returned, if it was read
    before. dropout: of LoRA while it is tuned, by default the adapter's own.
    """
    config = read_config(path)
    if is_quantized(base) and config.init_lora_weights in ("pissa", "olora"):
        raise InputError(
            f"{path}: init_lora_weights {config.init_lora_weights} changes the base's weights, which --quantization "
            "rounds; give --quantization none"
        )
    config.inference_mode = not tuned
    config.lora_dropout = config.lora_dropout if dropout is None else dropout
    model = get_peft_model(base, config)
    load_adapter(model, tensors or read_adapter(path), path)
    return model if tuned else model.eval()


def state_of(base):
    """{name: (dtype, shape, requires_grad, checksum)} of everything that a model consists of, to see whether it has
    changed."""
    generator = torch.Generator().manual_seed(0)
    factors = (2 * torch.randint(2**62, (1 << 16,), generator=generator) + 1).to(base.device)  # odd
    tensors = [*base.named_parameters(), *base.named_buffers()]
    return {name: (each.dtype, each.shape, each.requires_grad, _checksum(each, factors)) for name, each in tensors}


def _checksum(tensor, factors):
    """A number that changes with any bit of the tensor, computed where the tensor is: the sum of its 32-bit words (or
    bytes), each times the factor of its place, modulo 2**64."""
    words = tensor.detach().reshape(-1).view(torch.uint8)
    words = words.view(torch.int32) if len(words) % 4 == 0 else words
    sums = torch.stack([(part * factors[: len(part)]).sum() for part in words.split(len(factors))])
    return (sums * factors[: len(sums)]).sum().item()


def save_adapter(model, folder):
    """Write the adapter whole: under temporary names, read back and compared, then renamed, its configuration last.

    A folder without `adapter_config.json` is not an adapter, so an interrupted save leaves nothing that loads. The
    run.json and evaluation of an earlier adapter in this folder are removed: they do not describe the new one.
    """
    folder = Path(folder)
    live = {name: whole(tensor) for name, tensor in get_peft_model_state_dict(model).items()}
    if not PartialState().is_main_process:
        return
    for name in ("run.json", FRAME_FILE, "metrics.json", "predictions.jsonl", ADAPTER_CONFIG):
        (folder / name).unlink(missing_ok=True)
    with tempfile.TemporaryDirectory(dir=folder, prefix=".saving-") as temporary:
        save_file(live, Path(temporary) / ADAPTER_WEIGHTS[0], metadata={"format": "pt"})
        config = copy.deepcopy(model.active_peft_config)
        config.inference_mode = True  # as PEFT saves it
        config.save_pretrained(temporary)
        saved = read_adapter(temporary)
        if set(saved) != set(live) or not all(torch.equal(saved[name], live[name].cpu()) for name in live):
            raise RuntimeError(f"{folder}: the adapter on disk differs from the one in memory")
        for name in (adapter_weights(temporary).name, ADAPTER_CONFIG):
            # safetensors' files are readable by their owner only; labs share adapters
            (Path(temporary) / name).chmod(0o644)
            os.replace(Path(temporary) / name, folder / name)
