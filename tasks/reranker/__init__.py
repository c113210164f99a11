"""How well a passage answers a query: both are read together, and one number comes out."""
