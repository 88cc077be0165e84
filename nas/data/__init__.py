"""Image data: named sources, prepared files, and augmented batches on a device."""
