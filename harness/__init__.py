"""Prove that inference optimizations of Hugging Face transformers engage, agree with eager, and pay off."""
