# The published recipe (RECIPE=published, the default): LLaMA-7B. These are the tuners' defaults, so nothing is added.
instruction_flags=()
few_shot_flags=()
