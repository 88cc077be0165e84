"""Architectures as records: the results of a search, which `retrain` builds. Imports no torch."""
