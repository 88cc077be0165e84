"""Space `channel`: one operation on every edge; the decisions are the channels that each edge keeps."""
