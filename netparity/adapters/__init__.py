"""JAX networks of each library, in the form that the comparison takes."""
