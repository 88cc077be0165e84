"""Architectures as records: what a search found and what `retrain` builds. Imports no torch."""
