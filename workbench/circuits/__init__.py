"""Circuits: which latents made which, and what they made the model say."""
