"""The options of every stage, and the recipe that is made of them."""
