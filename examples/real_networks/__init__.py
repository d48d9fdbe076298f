"""Trained networks that packages carry, with data whose truth is known, because the data are synthesised.

Each module has the same functions: ``model(name)`` returns the network or the path of its ONNX file, ``splits(name)``
its data, ``scores(name, outputs)`` the task's metric on the test split, and where outputs decide something,
``decisions(name, outputs)`` these decisions. Nothing is downloaded when they run.
"""
