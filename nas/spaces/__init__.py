"""Search spaces: candidate operations, cells, supernets, networks."""
