"""Space `enas`: the micro space of ENAS."""
