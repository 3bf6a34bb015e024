"""Searching: the sampler that proposes recipes, and the engine in which runs happen."""
