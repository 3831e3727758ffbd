"""Which modules of an architecture get LoRA: query and value projections, as published, or all linear layers."""

from collections import defaultdict

from tlrec.errors import InputError
from tlrec.model.base_models import skeleton_of
from tlrec.model.parts import backbone_of, linear_layers

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

    A sorted list of names, or of whole paths if an encoder of images or sound has modules of the same names. Loads no
    weights. Raises InputError if there are none.
    """
    skeleton = skeleton_of(base_model, trust_remote_code)
    layers = defaultdict(set)  # names of the linear layers of each module
    for path in linear_layers(backbone_of(skeleton)):
        module, _, name = path.rpartition(".")
        layers[module].add(name)
    targets = {name for names in layers.values() for name in next(filter(names.issuperset, QUERY_AND_VALUE), ())}
    if not targets:
        raise InputError(
            f"--base_model {base_model}: no layer of {type(skeleton).__name__} is known by name as a query and value "
            "projection; name the modules that get LoRA with --lora_target_modules"
        )
    return _of_the_decoder(targets, skeleton)


def linear_modules(base_model, trust_remote_code=False):
    """LoRA target modules of QLoRA's recipe (Dettmers et al., arXiv 2305.14314): all linear layers except the output
    head. A sorted list of names, as from `query_and_value_modules`; loads no weights."""
    skeleton = skeleton_of(base_model, trust_remote_code)
    return _of_the_decoder({path.split(".")[-1] for path in linear_layers(backbone_of(skeleton))}, skeleton)


def _of_the_decoder(targets, skeleton):
    """The module names `targets`, sorted; their whole paths if the skeleton has such names outside its decoder too."""
    inside = set(backbone_of(skeleton).modules())
    places = {path: module in inside for path, module in skeleton.named_modules() if path.split(".")[-1] in targets}
    return sorted(targets) if all(places.values()) else sorted(path for path, own in places.items() if own)
