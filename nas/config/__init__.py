"""params.yaml as frozen, validated models."""
