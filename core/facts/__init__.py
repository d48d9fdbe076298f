"""The facts of every stage as typed objects: one class per stage, which its manifest holds as JSON."""
