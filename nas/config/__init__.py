"""Reads params.yaml into frozen, validated models."""
