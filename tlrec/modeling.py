"""Tokenizer, base model and LoRA adapters: loaded explicitly, saved whole, verified tensor by tensor."""

import copy
import json
import logging
import os
import tempfile
import warnings
from contextlib import contextmanager
from pathlib import Path

# What the libraries tell each other about renamed arguments and optional kernels is nothing to a user of ours.
logging.getLogger("bitsandbytes").setLevel(logging.ERROR)
warnings.filterwarnings("ignore", category=FutureWarning, module="transformers|peft")
warnings.filterwarnings("ignore", message="The PEFT config's `base_model_name_or_path` was renamed")  # models move
warnings.filterwarnings("ignore", message="fan_in_fan_out is set to False but the target module is `Conv1D`")  # GPT-2

import torch  # noqa: E402
from accelerate import PartialState  # noqa: E402
from peft import (  # noqa: E402
    LoraConfig,
    PeftModel,
    get_peft_model,
    get_peft_model_state_dict,
    prepare_model_for_kbit_training,
    set_peft_model_state_dict,
)
from peft.tuners.lora import LoraLayer  # noqa: E402
from safetensors.torch import load_file, save_file  # noqa: E402
from transformers import (  # noqa: E402
    AutoConfig,
    AutoModelForCausalLM,
    AutoTokenizer,
    BitsAndBytesConfig,
    DynamicCache,
    LlamaTokenizer,
)
from transformers.cache_utils import (  # noqa: E402
    DummyLayer,
    DynamicIndexedLayer,
    DynamicLayer,
    DynamicSlidingWindowLayer,
)
from transformers.pytorch_utils import Conv1D  # noqa: E402
from transformers.utils import is_flash_attn_2_available  # noqa: E402

from tlrec.errors import InputError  # noqa: E402
from tlrec.folders import ADAPTER_CONFIG, ADAPTER_WEIGHTS, adapter_weights  # noqa: E402
from tlrec.processes import is_spread, whole  # noqa: E402

# ------------------------------------------------------------------------------------------------- base and tokenizer


def resolve_device(name):
    """The torch device of this process for `--device auto|cpu|cuda`; InputError if a GPU is asked for where none is.

    Where accelerate has started several processes, this one joins the others here, and each has its own GPU.
    """
    if name == "cuda" and not torch.cuda.is_available():
        raise InputError("--device cuda: torch sees no GPU here; give --device cpu, or check CUDA_VISIBLE_DEVICES")
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    return PartialState(cpu=name == "cpu").device


def resolve_dtype(name, device):
    """The torch dtype for `--dtype auto|float32|bfloat16|float16`: auto is float32 on the CPU, bfloat16 on GPUs that
    have it, and float16, as published, on others."""
    if name == "float16" and device.type == "cpu":
        raise InputError("--dtype float16 needs a GPU; give float32 or bfloat16")
    if name != "auto":
        return getattr(torch, name)
    if device.type == "cpu":
        return torch.float32
    return torch.bfloat16 if torch.cuda.is_bf16_supported() else torch.float16


def resolve_attention(name, device, dtype):
    """transformers' name of the attention for `--attention auto|...`: auto is FlashAttention where it is installed and
    can run (a GPU, two-byte numbers), else None, transformers' choice: sdpa, or eager for Gemma 2 and its like."""
    runs = device.type == "cuda" and dtype != torch.float32 and is_flash_attn_2_available()
    if name == "flash_attention_2" and not runs:
        raise InputError("--attention flash_attention_2 needs the package flash-attn, a GPU, and bfloat16 or float16; "
                         "give --attention sdpa")  # fmt: skip
    if name == "auto":
        return "flash_attention_2" if runs else None
    return name


def load_tokenizer(base_model, trust_remote_code=False):
    """The model's tokenizer, with LLaMA's special tokens restored where an old conversion has left them empty.

    BOS and EOS ids are all that is used of them; tlrec.tokenization places them.
    """
    folder = Path(base_model)
    if (folder / "tokenizer.model").exists() and not (folder / "tokenizer.json").exists():
        config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
        if config.get("model_type") in ("llama", "mistral", "mixtral"):
            # AutoTokenizer drops the leading space of a bare tokenizer.model, and empty special tokens make it recurse
            # without end (transformers 5), so name class and tokens.
            return LlamaTokenizer.from_pretrained(folder, bos_token="<s>", eos_token="</s>", unk_token="<unk>")
    try:
        return AutoTokenizer.from_pretrained(base_model, trust_remote_code=trust_remote_code)
    except Exception as error:  # every kind of tokenizer has its own
        raise _cannot_be_loaded(base_model, error, "its tokenizer ") from None


def load_base_model(base_model, device, dtype, quantization="none", attention=None, trust_remote_code=False):
    """The causal language model on `device`, in evaluation mode, every parameter frozen.

    quantization: "none", "8bit", or "4bit" (NF4 with double quantisation), the latter two through bitsandbytes.
    """
    quantization_config = None
    if quantization == "8bit":
        quantization_config = BitsAndBytesConfig(load_in_8bit=True)
    elif quantization == "4bit":
        quantization_config = BitsAndBytesConfig(
            load_in_4bit=True,
            bnb_4bit_quant_type="nf4",
            bnb_4bit_use_double_quant=True,
            bnb_4bit_compute_dtype=dtype,
        )
    try:
        model, loading = AutoModelForCausalLM.from_pretrained(
            base_model,
            dtype=dtype,
            quantization_config=quantization_config,
            attn_implementation=attention,
            device_map={"": device},
            trust_remote_code=trust_remote_code,
            output_loading_info=True,
        )
    except Exception as error:  # every file format and quantiser has its own
        raise _cannot_be_loaded(base_model, error) from None
    if missing := sorted(loading["missing_keys"]):  # transformers would leave them random
        raise InputError(
            f"--base_model {base_model}: its weights lack {len(missing)} tensors, such as {missing[0]}; "
            "the folder is incomplete, or its config.json belongs to another model"
        )
    check_parts(model, base_model)
    return model.eval().requires_grad_(False)


def prepare_for_tuning(base, gradient_checkpointing):
    """The frozen base, ready to carry LoRA: a quantised one gets PEFT's preparation (norms in float32, checkpointing)."""
    if _is_quantized(base):
        return prepare_model_for_kbit_training(
            base, gradient_checkpointing, gradient_checkpointing_kwargs={"use_reentrant": False}
        )
    return base


def hardware(device):
    """Names of the GPUs in use, None on the CPU."""
    if device.type == "cpu":
        return None
    return [torch.cuda.get_device_name(number) for number in range(torch.cuda.device_count())]


# -------------------------------------------------------------------------------------------------------------- LoRA

# Names of the projections that make queries and values, alone or with the keys, in one attention module.
QUERY_AND_VALUE = (
    ("q_proj", "v_proj"),  # most
    ("c_attn",),  # GPT-2
    ("query_key_value",),  # GPT-NeoX, Falcon, BLOOM
    ("qkv_proj",),  # Phi-3, CodeGen
    ("Wqkv",),  # MPT
    ("q_b_proj", "kv_b_proj"),  # DeepSeek
    ("q_proj", "kv_b_proj"),
    ("query", "value"),
)


def query_and_value_modules(base_model, trust_remote_code=False):
    """LoRA target modules of the published recipe on this architecture: the attention's query and value projections.

    A sorted list of names; of whole paths, where an encoder of images or sound has modules of the same names. Loads no
    weights. Raises InputError if there are none.
    """
    skeleton = _skeleton(base_model, trust_remote_code)
    decoder = _backbone(skeleton)
    targets = set()
    for module in decoder.modules():
        names = {name for name, child in module.named_children() if isinstance(child, (torch.nn.Linear, Conv1D))}
        targets.update(next(filter(names.issuperset, QUERY_AND_VALUE), ()))
    if not targets:
        raise InputError(
            f"--base_model {base_model}: no layer of {type(skeleton).__name__} is known by name as a query and value "
            "projection; name the modules that get LoRA with --lora_target_modules"
        )
    inside = set(decoder.modules())
    places = {path: module in inside for path, module in skeleton.named_modules() if path.split(".")[-1] in targets}
    return sorted(targets) if all(places.values()) else sorted(path for path, own in places.items() if own)


def _skeleton(base_model, trust_remote_code):
    """The model on the meta device: all modules and shapes, no weights."""
    try:
        config = AutoConfig.from_pretrained(base_model, trust_remote_code=trust_remote_code)
        with torch.device("meta"):
            return AutoModelForCausalLM.from_config(config, trust_remote_code=trust_remote_code)
    except Exception as error:  # every architecture has its own
        raise _cannot_be_loaded(base_model, error) from None


def expected_adapter(base_model, lora_config, trust_remote_code=False):
    """{name: shape} of the tensors an adapter of this configuration has on this base model; loads no weights.

    Raises InputError if there can be none, such as for target modules that the model does not have.
    """
    skeleton = _skeleton(base_model, trust_remote_code)
    with torch.device("meta"):
        try:
            model = get_peft_model(skeleton, lora_config)
        except ValueError as error:
            raise InputError(f"--base_model {base_model}: LoRA does not fit on it: {_first_line(error)}") from None
        return {name: tuple(tensor.shape) for name, tensor in get_peft_model_state_dict(model).items()}


def read_adapter(folder):
    """{name: tensor} of an adapter folder; `.bin` files are read without executing pickled code."""
    path = adapter_weights(folder)
    try:
        if path.suffix == ".safetensors":
            return load_file(path)
        return torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # safetensors, zipfile and the restricted unpickler each have their own
        raise InputError(f"{path}: damaged adapter weights: {_first_line(error)}") from None


def check_adapter_fits(tensors, expected, path):
    """Raise InputError unless the adapter has exactly the expected tensors in the expected shapes.

    tensors: what `read_adapter` returned; expected: what `expected_adapter` returned.
    """
    if not tensors:
        raise InputError(f"{path}: the adapter holds no tensors")
    if missing := sorted(set(expected) - set(tensors)):
        raise InputError(
            f"{path}: the adapter lacks {len(missing)} of {len(expected)} tensors, such as {missing[0]}; it was made "
            "for other target modules (--lora_target_modules) or another base model (--base_model)"
        )
    if extra := sorted(set(tensors) - set(expected)):
        raise InputError(
            f"{path}: the adapter has {len(extra)} tensors that this run has no place for, such as {extra[0]}; it was "
            "made for other target modules (--lora_target_modules) or another base model (--base_model)"
        )
    for name, shape in expected.items():
        if tuple(tensors[name].shape) != shape:
            raise InputError(
                f"{path}: {name} has shape {tuple(tensors[name].shape)}, this run needs {shape}; "
                "it was made for another rank (--lora_r) or a base model of another width (--base_model)"
            )


def load_adapter(model, tensors, path):
    """Copy adapter tensors into the LoRA layers of `model`, then compare every one of them.

    model: a PeftModel of the adapter's configuration. tensors: what `read_adapter` returned for `path`.
    """
    fresh = get_peft_model_state_dict(model)
    check_adapter_fits(tensors, {name: tuple(tensor.shape) for name, tensor in fresh.items()}, path)
    set_peft_model_state_dict(model, tensors)
    loaded = get_peft_model_state_dict(model)
    for name, tensor in loaded.items():
        if not torch.equal(tensor.cpu(), tensors[name].to(tensor.dtype)):
            raise InputError(f"{path}: {name} was not loaded as it stands in the file")


def attach_adapter(base, path):
    """The base model with the adapter of folder `path` on it, verified, for scoring; `.unload()` takes it off again."""
    config = LoraConfig.from_pretrained(path)
    config.inference_mode = True
    model = get_peft_model(base, config)
    load_adapter(model, read_adapter(path), path)
    return model.eval()


def save_adapter(model, folder):
    """Write the adapter whole: under temporary names, read back and compared, then renamed, its configuration last.

    A folder without `adapter_config.json` is not an adapter, so an interrupted save leaves nothing that loads. What an
    earlier adapter of this folder has left goes with it: its run and its evaluation do not hold for the new one.
    """
    folder = Path(folder)
    live = {name: whole(tensor) for name, tensor in get_peft_model_state_dict(model).items()}
    if not PartialState().is_main_process:
        return
    for name in ("run.json", "metrics.json", "predictions.jsonl", ADAPTER_CONFIG):
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
            (Path(temporary) / name).chmod(0o644)  # safetensors writes for the owner only; labs share their adapters
            os.replace(Path(temporary) / name, folder / name)


@contextmanager
def merged(model):
    """Inside the block, LoRA is added into the weights it sits on, so scoring costs no extra products.

    The untouched weights are set aside and put back bit for bit. Quantised bases and models spread over processes are
    left unmerged.
    """
    layers = [module for module in model.modules() if isinstance(module, LoraLayer)]
    if _is_quantized(model) or is_spread(model):
        yield
        return
    weights = [layer.get_base_layer().weight for layer in layers]
    originals = [weight.detach().clone() for weight in weights]
    try:
        for layer in layers:
            layer.merge()
        yield
    finally:
        for layer, weight, original in zip(layers, weights, originals):
            layer.merged_adapters.clear()
            with torch.no_grad():
                weight.copy_(original)


def _is_quantized(model):
    causal = model.get_base_model() if isinstance(model, PeftModel) else model
    return getattr(causal, "is_quantized", False)


def _cannot_be_loaded(base_model, error, what=""):
    """The InputError for a base model, or a part of it, that transformers refuses."""
    if "trust_remote_code" in str(error):
        return InputError(f"--base_model {base_model}: comes with code of its own; --trust_remote_code runs it")
    return InputError(f"--base_model {base_model}: {what}cannot be loaded: {_first_line(error)}")


def _first_line(error):
    return str(error).strip().split("\n")[0] or type(error).__name__


# ------------------------------------------------------------------------------------------------- parts of the model


def language_model_parts(model):
    """(hidden_states, head) of a causal LM, two functions: inputs of the model -> hidden states (batch, length, width) ->
    logits (..., vocabulary). For a model that is spread over processes all of them have to call this, and hidden_states
    equally often."""
    causal = model.get_base_model() if isinstance(model, PeftModel) else model
    spread = is_spread(model)
    backbone, output = _backbone(causal), causal.get_output_embeddings()
    weight, bias = whole(output.weight), getattr(output, "bias", None)  # Phi and GPT-J have a bias
    bias = bias if bias is None else whole(bias)
    config = causal.config.get_text_config()
    softcap = _first_set(config, "final_logit_softcapping", "logits_soft_cap")  # Gemma 2, RecurrentGemma
    scale = _first_set(config, "logit_scale", "lm_head_multiplier")  # Cohere, Falcon-H1
    divisor = _first_set(config, "logits_scaling")  # Granite, MiniCPM3

    def hidden_states(**inputs):
        if spread:  # its parts are put together only where the whole model runs
            return model(**inputs, logits_to_keep=1, output_hidden_states=-1).hidden_states[-1]
        return backbone(**inputs).last_hidden_state

    def head(hidden):
        hidden = hidden.to(weight.dtype)  # mixed precision hands out float32
        logits = torch.nn.functional.linear(hidden, weight, bias) if spread else output(hidden)
        if scale is not None:
            logits = logits * scale
        if divisor is not None:
            logits = logits / divisor
        if softcap is not None:
            logits = softcap * torch.tanh(logits / softcap)
        return logits

    return hidden_states, head


def _backbone(causal):
    """The part that makes hidden states of token ids: the language model alone, where images or sound have encoders."""
    return causal.base_model if causal.config.get_text_config() is causal.config else causal.get_decoder()


def _first_set(config, *names):
    return next((value for name in names if (value := getattr(config, name, None)) is not None), None)


def check_parts(model, base_model):
    """Raise InputError unless backbone and head give the very logits of the model, from the hidden states that training
    reads and from those that scoring reads.

    Architectures scale and cap their logits in ways of their own; one that `language_model_parts` does not know would
    otherwise be tuned and scored on wrong numbers.
    """
    ids = torch.arange(4, device=model.device)[None]
    hidden_states, head = language_model_parts(model)
    with torch.no_grad():
        outer = model(input_ids=ids, use_cache=False, output_hidden_states=-1)
        try:
            inner = hidden_states(input_ids=ids, use_cache=False)
        except AttributeError:  # a backbone that gives something else
            inner = None
        for states in (outer.hidden_states[-1], inner):
            rounding = max(4 * torch.finfo(outer.logits.dtype).eps, 1e-3) * outer.logits.abs().max()
            if states is None or (head(states) - outer.logits).abs().max() > rounding:
                raise InputError(
                    f"--base_model {base_model}: {type(model).__name__} makes logits of hidden states in a way that is "
                    "unknown to TLRec, whose scores would be wrong; use another model"
                )


KEYS_AND_VALUES = (DynamicLayer, DynamicSlidingWindowLayer, DynamicIndexedLayer, DummyLayer)  # dummies use another's


def prefix_states(model, hidden_states, ids):
    """(cache, hidden states) of a prefix `ids` (1, length), to be continued by many rows; (None, None) if the model
    cannot do that.

    It can where its cache is nothing but keys and values, one for each position. Recurrent and convolutional states
    (Mamba, Qwen3.5, LFM2) stand for all positions at once and are continued by single tokens, and some models (RWKV,
    GPT-1) take no such cache at all and leave it empty.
    """
    cache = DynamicCache(config=model.config)
    if not all(type(layer) in KEYS_AND_VALUES for layer in cache.layers):
        return None, None
    hidden = hidden_states(input_ids=ids, past_key_values=cache, use_cache=True)
    return (cache, hidden) if cache.get_seq_length() == ids.shape[1] else (None, None)
