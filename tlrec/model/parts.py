"""A causal language model in two parts, hidden states and output head, so that only the needed logits are computed."""

import torch
from peft import PeftModel
from transformers import DynamicCache
from transformers.cache_utils import DummyLayer, DynamicIndexedLayer, DynamicLayer, DynamicSlidingWindowLayer
from transformers.pytorch_utils import Conv1D

from tlrec.errors import InputError
from tlrec.model.processes import is_spread, whole


def language_model_parts(model):
    """(hidden_states, head) of a causal LM, two functions: inputs of the model -> hidden states (batch, length, width)
    -> logits (..., vocabulary). If the model is spread over processes, all of them have to call this, and hidden_states
    equally often."""
    causal = model.get_base_model() if isinstance(model, PeftModel) else model
    spread = is_spread(model)
    backbone, output = backbone_of(causal), causal.get_output_embeddings()
    weight, bias = whole(output.weight), getattr(output, "bias", None)  # Phi and GPT-J have a bias
    bias = bias if bias is None else whole(bias)
    config = causal.config.get_text_config()
    softcap = _first_set(config, "final_logit_softcapping", "logits_soft_cap")  # Gemma 2, RecurrentGemma
    scale = _first_set(config, "logit_scale", "lm_head_multiplier")  # Cohere, Falcon-H1
    divisor = _first_set(config, "logits_scaling")  # Granite, MiniCPM3

    def hidden_states(**inputs):
        if spread:  # weights are gathered only when the whole model runs
            return model(**inputs, logits_to_keep=1, output_hidden_states=-1).hidden_states[-1]
        return backbone(**inputs).last_hidden_state

    def head(hidden):
        hidden = hidden.to(weight.dtype)  # mixed precision returns float32
        logits = torch.nn.functional.linear(hidden, weight, bias) if spread else output(hidden)
        if scale is not None:
            logits = logits * scale
        if divisor is not None:
            logits = logits / divisor
        if softcap is not None:
            logits = softcap * torch.tanh(logits / softcap)
        return logits

    return hidden_states, head


def backbone_of(causal):
    """The part that turns token ids into hidden states: only the language model, if images or sound have encoders."""
    return causal.base_model if causal.config.get_text_config() is causal.config else causal.get_decoder()


def linear_layers(model):
    """{path: width of the input} of a model's linear layers; GPT-2's, Conv1D, hold their weights transposed."""
    layers = {path: each for path, each in model.named_modules() if isinstance(each, (torch.nn.Linear, Conv1D))}
    return {path: each.weight.shape[0 if isinstance(each, Conv1D) else 1] for path, each in layers.items()}


def _first_set(config, *names):
    return next((value for name in names if (value := getattr(config, name, None)) is not None), None)


def check_parts(model, base_model):
    """Raise InputError unless backbone and head give the same logits as the model, from the hidden states that training
    reads and from those that scoring reads.

    Some architectures scale or cap their logits; if `language_model_parts` does not know how, tuning and scoring would
    use wrong numbers.
    """
    ids = torch.arange(4, device=model.device)[None]
    hidden_states, head = language_model_parts(model)
    with torch.no_grad():
        outer = model(input_ids=ids, use_cache=False, output_hidden_states=-1)
        try:
            inner = hidden_states(input_ids=ids, use_cache=False)
        except AttributeError:  # a backbone that returns something else
            inner = None
        for states in (outer.hidden_states[-1], inner):
            rounding = max(4 * torch.finfo(outer.logits.dtype).eps, 1e-3) * outer.logits.abs().max()
            if states is None or (head(states) - outer.logits).abs().max() > rounding:
                raise InputError(
                    f"--base_model {base_model}: {type(model).__name__} computes logits from hidden states in a way "
                    "that TLRec does not know, so its scores would be wrong; use another model"
                )


def shortest_window(model):
    """Tokens of the shortest sliding window of a model's attention that its cache tells of, or None."""
    layers = DynamicCache(config=model.config).layers
    return min((layer.sliding_window for layer in layers if isinstance(layer, DynamicSlidingWindowLayer)), default=None)


KEYS_AND_VALUES = (DynamicLayer, DynamicSlidingWindowLayer, DynamicIndexedLayer, DummyLayer)  # a dummy has another's


def prefix_states(model, hidden_states, ids):
    """(cache, hidden states) of prefixes `ids` (n, length), which many rows then continue; (None, None) if the model
    cannot do that.

    It can if its cache has only keys and values, one of each per position. Recurrent and convolutional states (Mamba,
    Qwen3.5, LFM2) cover all positions at once and are continued token by token, and some models (RWKV, GPT-1) do not
    use such a cache and leave it empty.
    """
    cache = DynamicCache(config=model.config)
    if not all(type(layer) in KEYS_AND_VALUES for layer in cache.layers):
        return None, None
    hidden = hidden_states(input_ids=ids, past_key_values=cache, use_cache=True)
    return (cache, hidden) if cache.get_seq_length() == ids.shape[1] else (None, None)
