# The paper's hyper-parameters in today's number types (RECIPE=published, the default): LLaMA-7B, not quantised, bfloat16 where
# the GPU has it. These are the tuners' defaults, so nothing is added. RECIPE=original also has the number types of the paper's code.
