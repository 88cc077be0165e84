"""Space `channel`: one operation on every edge, and the channels that each edge keeps."""
