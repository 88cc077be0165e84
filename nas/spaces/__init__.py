"""What may be found: candidate operations, cells, supernets, networks, architectures."""
