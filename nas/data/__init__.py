"""From a named source to prepared files, and from these to batches on a device."""
