"""What is trained: recipes, their sections, and tables of them."""
