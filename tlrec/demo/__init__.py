"""A fictional world of films and books with known tastes, and the demo workspace made from it."""
