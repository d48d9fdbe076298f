"""The pipeline: stages on artifacts, reuse of artifacts, and gates between stages."""
