"""The language model: prompts, token ids, weights, adapters, scores."""
