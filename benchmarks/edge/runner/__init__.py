"""The program that measures on a device: Python 3.9 or newer, numpy and the runtime, and nothing else.

It is copied as it is. Its modules import the standard library, numpy and each other; the runtime is imported where a
model is opened. It opens no connection, and writes only below the folder that it is given.
"""

SCHEMA = "retort.edge/1"
"""The form of the manifest that it reads, and of the results that it writes."""
