"""The options of every stage, and the recipe that contains them."""
