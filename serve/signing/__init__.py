"""Signatures of what is served: who signed an archive or a bundle, and whether the keys of the server trust it."""
