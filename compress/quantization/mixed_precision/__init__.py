"""Mixed precision: which layers stay in FP32 so that the model meets its accuracy bound."""
