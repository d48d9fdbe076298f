"""Metrics of served models: what is counted, where the counts of all workers meet, and how Prometheus reads them."""
