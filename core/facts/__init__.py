"""What every stage finds out, as typed objects: one class per stage, which its manifest holds as JSON."""
