"""Results of other benchmark tools in one schema, with all of their numbers and the original file inside."""
