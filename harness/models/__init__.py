"""Recipes to loaded models and tokenizers, and workloads to token ids."""
