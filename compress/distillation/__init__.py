"""Distillation: training of a student on the outputs of a teacher."""
