"""What a device is asked before anything of ours is there: each module's source is given to its Python.

Like the program for devices they are Python 3.9, here of the standard library alone. Each prints one line of JSON.
"""
