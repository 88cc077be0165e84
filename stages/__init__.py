"""One thin program per DVC stage: read params, call nas, write files."""
