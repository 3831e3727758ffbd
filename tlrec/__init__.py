"""What the scripts of TLRec share. The recipe is in the scripts; here are the mechanisms.

Some libraries warn about renamed arguments and optional kernels, which is nothing a user of TLRec can act on. The filters
stand here because they must be in place before those libraries are imported, by whatever part of TLRec.
"""

import logging
import warnings

logging.getLogger("bitsandbytes").setLevel(logging.ERROR)
warnings.filterwarnings("ignore", category=FutureWarning, module="transformers|peft")
warnings.filterwarnings("ignore", message="The PEFT config's `base_model_name_or_path` was renamed")  # models move
warnings.filterwarnings("ignore", message="fan_in_fan_out is set to False but the target module is `Conv1D`")  # GPT-2
