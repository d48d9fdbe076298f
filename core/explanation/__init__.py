"""Why a model answers as it does: which parts of a sample its score rests on."""
