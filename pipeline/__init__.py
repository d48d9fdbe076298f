"""The line: stages on artifacts, what is reused, and the gates between them."""
