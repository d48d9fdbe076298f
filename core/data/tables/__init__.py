"""Tables: CSV, JSON, Parquet and saved datasets as columns, and columns as inputs and targets."""
